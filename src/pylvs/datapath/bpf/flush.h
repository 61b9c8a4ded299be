/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Ending connections at a command's word (`pylvs conns flush`). Python cannot compare and swap, so it names them, and
 * they are ended here: each by its slot and the life in which it was seen there, so that a connection that has ended
 * meanwhile, and whose slot is another's, is never hit.
 */
#pragma once

#define FLUSH_MOST 384		/* what fits into a page, in which the kernel hands over the packet of a test run */

/* The packet's data behind the place of an Ethernet header is an array of these. */
struct flush_wish {
	__u32 number;
	__u32 life;
};

/* Not every kernel keeps packets and timers away from a CPU while it runs a program for a command. One that comes in
 * between uses conn.h's `leaving` as well; so there is a second look, under a key of our own, whether the real server's
 * side is gone, too. Commands hold the namespace's lock: two of them never meet here. */
MAP(flushing, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct tuple, 1, 0);

struct flush_walk {
	struct __sk_buff *skb;
	__u64 now;
	__u32 ended;
};

static __always_inline int flush_one(__u32 number, __u32 life, __u64 now)
{
	struct tuple *key = at(&flushing, 0);
	struct conn *c = conn_at(number);
	struct dest *d;
	int nat;

	if (!c || !key)
		return 0;
	d = at(&dests, c->dest);
	nat = d && conn_method(c) == METHOD_MASQ;
	if (nat)
		conn_back_key(c, d, key);
	if (!conn_release(number, life, now))
		return 0;
	if (nat && *(volatile __u32 *)&c->life == ((life & ~0xffffu) | SLOT_FREE))
		back_leave(key, number, now);
	return 1;
}

static long flush_step(__u64 i, struct flush_walk *w)
{
	struct flush_wish wish;

	if (bpf_skb_load_bytes(w->skb, ETH_HLEN + i * sizeof(wish), &wish, sizeof(wish)))
		return 1;
	w->ended += flush_one(wish.number, wish.life, w->now);
	return 0;
}
