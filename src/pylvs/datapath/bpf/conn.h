/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The connection table, behind four words: find, claim, touch, release.
 *
 * Today: a preallocated hash whose value is the number of a record in an array. Both directions of a NAT connection
 * lead to the same record. Nobody outside this file knows.
 *
 * Rules of this file:
 *  - A record is filled before the index leads to it, and the index forgets it before it is given back.
 *  - Whoever moves `life` from LIVE to DEAD, and nobody else, takes the connection apart.
 *  - A record given back rests for QUARANTINE, so that a packet that found it just before is done with it.
 *  - A connection past its time is gone, whether or not the sweep has been there.
 *  - No live connection ever gives way to a new one: when there is no room, claim says so.
 */
#pragma once

#define QUARANTINE (100 * MSEC)

struct found {
	struct conn *conn;
	__u32 number;
	__u32 from_server;	/* the packet came from the real server's side of a NAT connection */
};

/* The addresses under which its packets arrive, from the client or from the real server. */
static __always_inline void conn_key(const struct conn *c, int from_server, struct tuple *key)
{
	key->src = from_server ? c->daddr : c->caddr;
	key->dst = from_server ? c->caddr : c->vaddr;
	key->sport = from_server ? c->dport : c->cport;
	key->dport = from_server ? c->cport : c->vport;
	key->protocol = c->protocol;
	key->family = c->family;
	key->unused = 0;
}

static __always_inline __u32 conn_method(const struct conn *c)
{
	return (c->status >> 8) & CONN_METHOD;
}

/* ---- slots --------------------------------------------------------------------------------------------------- */

static __always_inline void slot_give_back(struct conn *c, __u32 number, __u64 now)
{
	c->freed = now;
	c->expires = 0;
	c->life = CONN_FREE;
	bpf_map_push_elem(&conn_free, &number, 0);
}

/* A free record, or NULL when the table is full. The longest idle one first; a virgin one if that still rests. */
static __always_inline struct conn *slot_take(const struct config *cfg, struct runtime *rt, __u64 now, __u32 *number)
{
	struct conn *c;
	__u64 fresh;

	if (!bpf_map_pop_elem(&conn_free, number)) {
		c = at(&conns, *number);
		if (!c)
			return NULL;
		if (now >= c->freed + QUARANTINE)
			return c;
		bpf_map_push_elem(&conn_free, number, 0);
	}
	if (rt->fresh >= cfg->conn_capacity)
		return NULL;
	fresh = __sync_fetch_and_add(&rt->fresh, 1);
	if (fresh >= cfg->conn_capacity) {
		__sync_fetch_and_add(&rt->fresh, -1);
		return NULL;
	}
	*number = fresh;
	return at(&conns, fresh);
}

/* ---- the end of a connection -------------------------------------------------------------------------------- */

static __always_inline void load_unbind(__u32 dest, __u32 status, __u64 now)
{
	struct dest_load *load = at(&dest_loads, dest);

	if (!load)
		return;
	if (!(status & STATUS_FLAG(CONN_INACTIVE)))
		__sync_fetch_and_add(&load->active, -1);
	if (__sync_fetch_and_add(&load->total, -1) == 1)
		load->idle = now;
}

/* Take a connection apart. Returns 0 if somebody else does. */
__noinline int conn_release(__u32 number, __u64 now)
{
	struct conn *c = at(&conns, number);
	struct runtime *rt = at(&runtime, 0);
	struct tuple key;
	__u32 *ref;

	if (!c || !rt)
		return 0;
	if (__sync_val_compare_and_swap(&c->life, CONN_LIVE, CONN_DEAD) != CONN_LIVE)
		return 0;
	conn_key(c, 0, &key);
	bpf_map_delete_elem(&conn_index, &key);
	if (conn_method(c) == METHOD_MASQ) {
		/* a newer connection of the same client port to the same server may own the reply side by now */
		conn_key(c, 1, &key);
		ref = bpf_map_lookup_elem(&conn_index, &key);
		if (ref && *ref == number * 2 + 1)
			bpf_map_delete_elem(&conn_index, &key);
	}
	load_unbind(c->dest, c->status, now);
	__sync_fetch_and_add(&rt->conns, -1);
	slot_give_back(c, number, now);
	return 1;
}

/* ---- find, claim, touch ------------------------------------------------------------------------------------- */

static __always_inline int conn_find(const struct tuple *key, __u64 now, struct found *found)
{
	__u32 *ref = bpf_map_lookup_elem(&conn_index, key);
	struct conn *c;

	if (!ref)
		return 0;
	found->number = *ref >> 1;
	found->from_server = *ref & 1;
	c = at(&conns, found->number);
	if (!c || c->life != CONN_LIVE)
		return 0;
	if (c->expires <= now) {
		conn_release(found->number, now);
		return 0;
	}
	found->conn = c;
	return 1;
}

/* The packet counts as use: the connection lives for its timeout from now. The store is spared within a clock tick,
 * so that the packets of a busy connection do not fight for its cache line. */
static __always_inline void conn_touch(struct conn *c, __u64 now)
{
	__u64 expires = now + c->timeout * MSEC;

	if (c->expires != expires)
		c->expires = expires;
}

/* What a new connection is. */
struct birth {
	__u32 dest;
	__u32 flags;		/* conn_flag */
	union address daddr;
	__u16 dport;
	__u32 fwmark;
};

/* A new connection for the packet's tuple, bound to its real server; 0 when the table is full.
 * If another CPU made the same connection meanwhile, that one is the answer. */
static __always_inline int conn_claim(const struct config *cfg, struct runtime *rt, const struct tuple *key,
				      const struct birth *birth, __u64 now, struct found *found)
{
	struct dest_load *load = at(&dest_loads, birth->dest);
	struct tuple back;
	__u32 number, ref;
	struct conn *c;
	long error;

	if (!load)
		return 0;
	c = slot_take(cfg, rt, now, &number);
	if (!c)
		return 0;
	c->timeout = 3000;	/* until the protocol sets its own */
	c->expires = now + 3 * SECOND;
	c->dest = birth->dest;
	c->status = STATUS_FLAG(birth->flags);
	c->packets = 0;
	c->cport = key->sport;
	c->vport = key->dport;
	c->dport = birth->dport;
	c->protocol = key->protocol;
	c->family = key->family;
	c->fwmark = birth->fwmark;
	c->daddr = birth->daddr;
	c->caddr = key->src;
	c->vaddr = key->dst;
	c->life = CONN_LIVE;

	/* counted before it can be found, so that the one who releases it never counts below nothing */
	__sync_fetch_and_add(&load->total, 1);
	__sync_fetch_and_add(&rt->conns, 1);
	ref = number * 2;
	error = bpf_map_update_elem(&conn_index, key, &ref, BPF_NOEXIST);
	if (!error && conn_method(c) == METHOD_MASQ) {
		conn_key(c, 1, &back);
		ref = number * 2 + 1;
		error = bpf_map_update_elem(&conn_index, &back, &ref, BPF_ANY);
		if (error)
			bpf_map_delete_elem(&conn_index, key);
	}
	if (error) {
		/* undone here, not by conn_release, which would unlink the winner */
		if (__sync_val_compare_and_swap(&c->life, CONN_LIVE, CONN_DEAD) != CONN_LIVE)
			return 0;
		__sync_fetch_and_add(&rt->conns, -1);
		load_unbind(birth->dest, c->status, now);
		slot_give_back(c, number, now);
		return error == -EEXIST && conn_find(key, now, found);
	}
	found->conn = c;
	found->number = number;
	found->from_server = 0;
	return 1;
}
