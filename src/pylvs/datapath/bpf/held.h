/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Fragments that came before their datagram's first one, which alone has the ports: a bounded store of them.
 *
 * Rules of this file:
 *  - A slot's state says whose it is: FREE, FILLING (that of whoever made it so), THERE. Who moves it from THERE to
 *    FILLING, and nobody else, takes the fragment out.
 *  - A datagram's fragments are in one set of slots, which its key says: no datagram takes more of them than a set has,
 *    and nobody has to look through more.
 *  - What waits is counted under HELD_FRAGMENT, and no longer when it goes on. So received = forwarded + handed up +
 *    dropped + those that wait.
 */
#pragma once

enum { HELD = 256, HELD_SET = 64, HELD_LENGTH = 9000 };
enum { HELD_NS = SECOND };	/* that is much for one network's packets to overtake each other */

enum held_state { HELD_FREE, HELD_FILLING, HELD_THERE };

/* Which datagram a fragment is of. IPv6 tells them apart without the protocol, which is 0 then. */
struct piece_key {
	union address src;
	union address dst;
	__u32 id;
	__u8 protocol;
	__u8 family;
	__u16 leaving;	/* it is on its way out (egress.h): translated, or not, it may have the same addresses as when it came */
};

struct held {
	__u64 deadline;
	struct piece_key key;
	__u32 state;		/* enum held_state */
	__u32 length;		/* of its IP packet */
};

struct held_bytes {
	__u8 byte[HELD_LENGTH];
};

MAP(held, BPF_MAP_TYPE_ARRAY, __u32, struct held, HELD, BPF_F_MMAPABLE);
MAP(held_packets, BPF_MAP_TYPE_ARRAY, __u32, struct held_bytes, HELD, BPF_F_MMAPABLE);

static __always_inline int held_move(struct held *h, __u32 from, __u32 to)
{
	return __sync_val_compare_and_swap(&h->state, from, to) == from;
}

/* One packet less was counted under a reason. */
static __always_inline void unnote(enum reason reason)
{
	__u64 *count = at(&reasons, reason);

	if (count)
		*count -= 1;
}

/* Take one out that has waited in vain. */
static __always_inline int held_give_up(struct held *h, __u64 now)
{
	if (*(volatile __u32 *)&h->state != HELD_THERE || now < h->deadline || !held_move(h, HELD_THERE, HELD_FILLING))
		return 0;
	unnote(HELD_FRAGMENT);
	note(DROPPED_FIRST_LOST);
	return 1;
}

struct held_walk {
	__u64 now;
	__u32 number;
};

static long held_forget_step(__u64 i, struct held_walk *w)
{
	struct held *h = at(&held, (w->number + i) & (HELD - 1));

	if (h && held_give_up(h, w->now))
		*(volatile __u32 *)&h->state = HELD_FREE;
	return 0;
}

/* The heartbeat's: look at the next slots for what has waited in vain. */
static __always_inline void held_forget(struct runtime *rt, __u64 now, __u32 slots)
{
	struct held_walk w = { .now = now, .number = FIRST(rt->held_cursor, now) };

	rt->held_cursor = (rt->held_cursor + slots) & (HELD - 1);
	bpf_loop(slots, held_forget_step, &w, 0);
}
