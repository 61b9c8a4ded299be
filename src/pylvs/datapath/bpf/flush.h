/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Ending connections at a command's word (`pylvs conns flush`). Python cannot compare and swap, so it names them, and
 * they are ended here: each by its slot and the life in which it was seen there, so that a connection that has ended
 * meanwhile, and whose slot is another's, is never hit.
 *
 * And ending those whose real server was taken away, where expire_nodest_conn says so (facts 1.11).
 */
#pragma once

#define FLUSH_MOST 384		/* what fits into a page, in which the kernel hands over the packet of a test run */

/* The packet's data behind the place of an Ethernet header is an array of these. */
struct flush_wish {
	__u32 number;
	__u32 life;
};

struct flush_walk {
	struct __sk_buff *skb;
	__u64 now;
	__u32 ended;
};

static long flush_step(__u64 i, struct flush_walk *w)
{
	struct flush_wish wish;

	if (bpf_skb_load_bytes(w->skb, ETH_HLEN + i * sizeof(wish), &wish, sizeof(wish)))
		return 1;
	w->ended += conn_release(wish.number, wish.life, w->now) == RELEASED;
	return 0;
}

struct purge_walk {
	__u64 now;
	__u32 group;
};

static long purge_step(__u64 i, struct purge_walk *w)
{
	__u32 number = w->group * GROUP_SLOTS + i, life;
	struct conn *c = conn_at(number);
	struct dest *d;

	if (!c)
		return 1;
	life = *(volatile __u32 *)&c->life;
	if (!(KINDS(life & 0xf) & CONTROLLED))
		return 0;
	d = at(&dests, c->dest);
	if (d && !(d->flags & DEST_AVAILABLE))
		conn_drop(number, life, w->now);
	return 0;
}

static long purge_group(__u64 i, struct purge_walk *w)
{
	struct purge_walk one = { .now = w->now, .group = any_group(i) };
	struct group *g = group_at(one.group);

	if (g && g->used)
		bpf_loop(GROUP_SLOTS, purge_step, &one, 0);
	return 0;
}
