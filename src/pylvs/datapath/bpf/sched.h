/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Who gets the new connection. A scheduler is one function from a pool and a packet to a place in the pool, in sched/;
 * what can be computed once per configuration change its Python module has put into the pool.
 *
 * Rules of this file:
 *  - A pool may be written over while one reads it (layout.h). So what was read is believed only after pool_same(): how
 *    many real servers there are before one walks over them, and who was chosen before he gets anything.
 *  - The packet path writes nothing into a pool. What a scheduler remembers it moves by compare-and-swap in the service:
 *    two CPUs that choose at the same time choose one after the other, without a lock.
 */
#pragma once

#define NOBODY 0xffffffffu
#define RETRIES 8
#define POOL_LOOKS 8
#define WALK_MAX (1u << 20)
#define POOL_FIRST 2		/* behind head and options */
#define STATE_OF_ALL ((1ull << STATE_TAG_SHIFT) - 1)

/* A pool as it is found when looking begins. */
struct pool {
	struct service *service;
	const struct pool_head *head;
	__u32 number;		/* its head's slot */
	__u32 version;
	__u32 flags;		/* enum pool_flag */
	struct row {
		__u32 first;	/* the slot of its first real server */
		__u32 count;	/* real servers */
		__u32 table;	/* entries of its table */
	} row;
};

/* Is what was read of one piece? */
static __always_inline int pool_same(const struct pool *o)
{
	barrier();
	return *(volatile __u32 *)&o->service->pool == o->number &&
	       *(volatile const __u32 *)&o->head->version == o->version && !(o->version & 1);
}

/* Open a service's pool. 0: there is none, or it is just being replaced. */
static __always_inline int pool_open(struct pool *o, __u32 service)
{
	const struct pool_options *options;

	o->number = 0;
	o->service = at(&services, service);
	if (!o->service)
		return 0;
	o->number = *(volatile __u32 *)&o->service->pool;
	o->head = at(&pools, o->number);
	options = at(&pools, o->number + 1);
	if (!o->number || !o->head || !options)
		return 0;
	o->version = *(volatile const __u32 *)&o->head->version;
	o->row.count = o->head->count;
	o->row.first = o->number + POOL_FIRST;
	o->flags = options->flags;
	o->row.table = options->table;
	return pool_same(o);
}

static __always_inline const struct pool_server *pool_server(__u32 first, __u32 place)
{
	return at(&pools, first + place);
}

/* An entry of the pool's table: a place, or NOBODY. */
static __always_inline __u32 pool_entry(const struct row *row, __u32 entry)
{
	const union pool_slot *slot = at(&pools, row->first + row->count + entry / POOL_TABLE_SLOT);
	__u32 place = slot ? slot->table[entry % POOL_TABLE_SLOT] : POOL_TABLE_NOBODY;

	return place < row->count ? place : NOBODY;
}

/* The load of a real server that may have new connections, else NULL. */
static __always_inline const struct dest_load *eligible(const struct pool_server *s)
{
	const struct dest_load *load;

	if (s->weight <= 0)
		return NULL;
	load = at(&dest_loads, s->dest);
	return load && !load->overload ? load : NULL;
}

static __always_inline int eligible_at(const struct row *row, __u32 place)
{
	const struct pool_server *s = place < row->count ? pool_server(row->first, place) : NULL;

	return s && eligible(s);
}

/* What lc and wlc compare (facts section 4, the newest kernels' figure). */
static __always_inline __s64 overhead(const struct dest_load *load)
{
	return ((__s64)load->active << 8) + load->total;
}

/* ---- what a scheduler remembers --------------------------------------------------------------------------------- */

static __always_inline __u64 state_tag(const struct pool *o)
{
	return (__u64)(o->version >> 1) << STATE_TAG_SHIFT;
}

/* The state, and in `was` the word that it was read from. */
static __always_inline __u64 state_get(const struct pool *o, __u64 *was)
{
	*was = *(volatile __u64 *)&o->service->state;
	return ((*was ^ state_tag(o)) & ~STATE_OF_ALL ? o->head->state : *was) & STATE_OF_ALL;
}

/* Put another in its place; 0: somebody else has. */
static __always_inline int state_put(const struct pool *o, __u64 was, __u64 state)
{
	return __sync_val_compare_and_swap(&o->service->state, was, (state & STATE_OF_ALL) | state_tag(o)) == was;
}

#include "sched/hash.h"
#include "sched/rr.h"
#include "sched/wrr.h"
#include "sched/lc.h"
#include "sched/wlc.h"
#include "sched/sed.h"
#include "sched/nq.h"
#include "sched/fo.h"
#include "sched/ovf.h"
#include "sched/twos.h"
#include "sched/dh.h"
#include "sched/sh.h"
#include "sched/mh.h"
#include "sched/lblc.h"
#include "sched/lblcr.h"
#include "sched/table.h"

/* The place of the chosen real server in a service's pool, or NOBODY. */
static __always_inline __u32 pool_choose(const struct pool *o, const struct packet *p)
{
	switch (o->head->scheduler) {
	case SCHED_RR:
		return rr_choose(o);
	case SCHED_WRR:
		return wrr_choose(o);
	case SCHED_LC:
		return lc_choose(o);
	case SCHED_WLC:
		return wlc_choose(o);
	case SCHED_DH:
		return dh_choose(o, p);
	case SCHED_SH:
		return sh_choose(o, p);
	case SCHED_SED:
		return sed_choose(o);
	case SCHED_NQ:
		return nq_choose(o);
	case SCHED_FO:
		return fo_choose(o);
	case SCHED_OVF:
		return ovf_choose(o);
	case SCHED_MH:
		return mh_choose(o, p);
	case SCHED_TWOS:
		return twos_choose(o);
	case SCHED_TABLE:
		return table_choose(o, p);
	}
	return NOBODY;
}

/* The same, of those that remember destinations. With the others in one function they would need too much stack. */
static __always_inline __u32 pool_choose_cached(const struct pool *o, __u32 service, const struct packet *p)
{
	struct cache_key key = { .address = p->tuple.dst, .service = service, .bound = o->head->bound };

	switch (o->head->scheduler) {
	case SCHED_LBLC:
		return lblc_choose(o, &key);
	case SCHED_LBLCR:
		return lblcr_choose(o, &key);
	}
	return NOBODY;
}

static __always_inline int remembers(__u32 scheduler)
{
	return scheduler == SCHED_LBLC || scheduler == SCHED_LBLCR;
}

/* What the scheduler has chosen. */
struct chosen {
	__u32 dest;
	__u32 flags;		/* conn_flag that its connections are born with */
};

enum { ASK_CACHE = -1 };

/* RECEIVED: who stands at `place` is chosen. */
static __always_inline int pool_answer(const struct pool *o, __u32 place, struct chosen *chosen)
{
	const struct pool_server *s = place == NOBODY ? NULL : pool_server(o->row.first, place);

	if (s) {
		chosen->dest = s->dest;
		chosen->flags = s->flags;
	}
	if (!pool_same(o))
		return DROPPED_CONTENDED;
	return s ? RECEIVED : DROPPED_NO_DESTINATION;
}

/* One look: DROPPED_CONTENDED if the pool was replaced meanwhile. */
__noinline int schedule(__u32 service, const struct packet *p, struct chosen *chosen)
{
	struct pool o;

	if (!p || !chosen)
		return DROPPED_CONTENDED;
	if (!pool_open(&o, service))
		return o.number ? DROPPED_CONTENDED : DROPPED_NO_DESTINATION;
	if (remembers(o.head->scheduler))
		return ASK_CACHE;
	return pool_answer(&o, pool_choose(&o, p), chosen);
}

__noinline int schedule_cached(__u32 service, const struct packet *p, struct chosen *chosen)
{
	struct pool o;

	if (!p || !chosen || !pool_open(&o, service))
		return DROPPED_CONTENDED;
	return pool_answer(&o, pool_choose_cached(&o, service, p), chosen);
}

/* Let a service's scheduler choose. RECEIVED: it stands in `chosen`; else the reason why there is nobody. */
static __always_inline int choose(__u32 service, const struct packet *p, struct chosen *chosen)
{
	int reason = DROPPED_CONTENDED;

#pragma clang loop unroll(disable)
	for (int i = 0; i < POOL_LOOKS && reason == DROPPED_CONTENDED; i++) {
		reason = schedule(service, p, chosen);
		if (reason == ASK_CACHE)
			reason = schedule_cached(service, p, chosen);
	}
	return reason;
}

/* A service's options, all of one moment. */
static __always_inline int options_of(__u32 service, struct pool_options *options)
{
	const struct pool_options *o;
	struct pool pool;

#pragma clang loop unroll(disable)
	for (int i = 0; i < POOL_LOOKS; i++) {
		if (!pool_open(&pool, service))
			continue;
		o = at(&pools, pool.number + 1);
		if (o)
			*options = *o;
		if (o && pool_same(&pool))
			return 1;
	}
	return 0;
}
