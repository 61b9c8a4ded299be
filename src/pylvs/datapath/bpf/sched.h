/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Who gets the new connection. A scheduler is one function from a pool to a place in it, in sched/; what can be
 * computed once per configuration change its Python module has put into the pool's head.
 *
 * Schedulers that keep a state keep it in pool_head.state and move it by compare-and-swap: two CPUs that choose at the
 * same time choose one after the other, without a lock.
 */
#pragma once

#define NOBODY 0xffffffffu
#define RETRIES 8
#define WALK_MAX (1u << 20)
#define POOL_FIRST 2		/* behind head and options */

static __always_inline struct pool_server *pool_server(__u32 pool, __u32 place)
{
	return at(&pools, pool + POOL_FIRST + place);
}

/* May it have new connections? */
static __always_inline int eligible(const struct pool_server *s)
{
	return s->weight > 0;
}

/* What lc and wlc compare (facts section 4, the newest kernels' figure). */
static __always_inline __s64 overhead(const struct pool_server *s)
{
	struct dest_load *load = at(&dest_loads, s->dest);

	return load ? ((__s64)load->active << 8) + load->total : 0;
}

#include "sched/rr.h"
#include "sched/wrr.h"
#include "sched/lc.h"
#include "sched/wlc.h"

/* The place of the chosen real server in the pool, or NOBODY. */
__noinline __u32 schedule(__u32 pool, const struct packet *p)
{
	struct pool_head *head = at(&pools, pool);

	if (!p || !head || !head->count)
		return NOBODY;
	switch (head->scheduler) {
	case SCHED_RR:
		return rr_choose(head, pool);
	case SCHED_WRR:
		return wrr_choose(head, pool);
	case SCHED_LC:
		return lc_choose(head, pool);
	case SCHED_WLC:
		return wlc_choose(head, pool);
	}
	return NOBODY;
}
