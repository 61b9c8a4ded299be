/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What has to happen with no packet and no process: connections whose time is over go, and rates are estimated.
 *
 * One BPF timer, every 16 ms, does a slice of each: the whole connection table once a second, every counter once in
 * two seconds. If the timer could not be started, or stopped, passing packets do the slices.
 */
#pragma once

#define TICK (16 * MSEC)
#define TICKS_PER_ROUND 64
#define SLICE_LEAST 64
#define LATE SECOND

struct ticker {
	struct bpf_timer timer;
};

MAP(ticker, BPF_MAP_TYPE_ARRAY, __u32, struct ticker, 1, 0);

struct sweep_walk {
	__u64 now;
	__u32 first;
};

static long sweep_step(__u64 i, struct sweep_walk *w)
{
	__u32 number = w->first + i;
	struct conn *c = at(&conns, number);

	if (!c)
		return 1;
	if (c->life == CONN_LIVE && c->expires <= w->now)
		conn_release(number, w->now);
	return 0;
}

/* Look at the next `slots` slots of the connection table. */
static __always_inline void sweep_slice(struct runtime *rt, __u64 now, __u32 slots)
{
	__u64 high = rt->fresh, from = rt->cursor;
	struct sweep_walk w = { .now = now };

	if (!high)
		return;
	if (from >= high) {
		from = 0;
		rt->sweeps++;
	}
	if (slots > high - from)
		slots = high - from;
	w.first = from;
	rt->cursor = from + slots;
	bpf_loop(slots, sweep_step, &w, 0);
}

static __always_inline __u32 slice_size(const struct runtime *rt)
{
	__u64 share = rt->fresh / TICKS_PER_ROUND + 1;

	return share < SLICE_LEAST ? SLICE_LEAST : share;
}

static __always_inline void sweep_if_late(const struct config *cfg, struct runtime *rt, __u64 now)
{
	__u64 swept = rt->swept;

	if (now < swept + LATE)
		return;
	/* one packet a tick does what the timer would have done */
	if (__sync_val_compare_and_swap(&rt->swept, swept, now - LATE + TICK) == swept)
		sweep_slice(rt, now, SLICE_LEAST);
}
