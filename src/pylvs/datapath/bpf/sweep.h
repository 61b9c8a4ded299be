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
#define LATE SECOND

struct ticker {
	struct bpf_timer timer;
};

MAP(ticker, BPF_MAP_TYPE_ARRAY, __u32, struct ticker, 1, 0);

struct sweep_walk {
	__u64 now;
	__u32 group;
};

/* Let go of what is past in one group. */
static __always_inline void sweep_group(__u32 number, __u64 now)
{
	struct slots *slots = slots_of(number);
	struct tags *tags = tags_of(number);
	struct group *g = group_at(number);

	if (!g || !slots || !tags || !g->used)
		return;
	for (__u32 place = 0; place < GROUP_SLOTS; place++) {
		struct conn *c = &slots->slot[place];
		__u32 life;

		if (!(place & 7) && !tags->word[place / 8]) {
			place |= 7;
			continue;
		}
		life = c->life;
		if ((KINDS(life & 0xf) & CONTROLLED) && past(c->expires, now))
			conn_release(number * GROUP_SLOTS + place, life, now);
	}
}

static long sweep_step(__u64 i, struct sweep_walk *w)
{
	sweep_group(any_group(w->group + i), w->now);
	return 0;
}

/* Look at the next groups of the connection table. */
static __always_inline void sweep_slice(struct runtime *rt, __u64 now, __u32 groups)
{
	__u64 from = rt->cursor;
	struct sweep_walk w = { .now = now };

	if (from >= ALL_GROUPS) {
		from = 0;
		rt->sweeps++;
	}
	if (groups > ALL_GROUPS - from)
		groups = ALL_GROUPS - from;
	w.group = from;
	rt->cursor = from + groups;
	bpf_loop(groups, sweep_step, &w, 0);
}

static __always_inline __u32 slice_size(void)
{
	return ALL_GROUPS / TICKS_PER_ROUND + 1;
}

/* One packet a tick does what the timer would have done. A function of its own for the verifier too: it looks at the
 * walk once, and not for every way that a packet can have come. */
__noinline int sweep_late(__u64 now)
{
	struct runtime *rt = at(&runtime, 0);
	__u64 swept;

	if (!rt)
		return 0;
	swept = rt->swept;
	if (__sync_val_compare_and_swap(&rt->swept, swept, now - LATE + TICK) == swept)
		sweep_slice(rt, now, slice_size());
	return 0;
}

static __always_inline void sweep_if_late(struct runtime *rt, __u64 now)
{
	if (now >= rt->swept + LATE)
		sweep_late(now);
}
