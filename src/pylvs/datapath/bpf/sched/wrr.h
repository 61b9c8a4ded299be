/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Weighted round robin (facts 4.2). State: current weight << 32 | 1 + the place that was chosen last (0: list head).
 * pool_head.step and .top are computed in pylvs.schedulers.wrr, which also says what a change of the pool does to them.
 */
#pragma once

struct wrr_walk {
	__u32 pool;
	__u32 count;
	__u32 place;		/* 1 + where we are; 0: at the list's head */
	__u32 last;		/* where we began */
	__u32 stop;		/* give up here; 0: nowhere yet */
	__s32 weight;		/* the current weight */
	__s32 step;
	__s32 top;
	__u32 last_pass;
	__u32 restarted;
	__u32 chosen;
};

static long wrr_step(__u64 i, struct wrr_walk *w)
{
	struct pool_server *s;

	if (w->place < w->count) {
		s = pool_server(w->pool, w->place);
		w->place++;
		if (!s)
			return 1;
		if (s->weight >= w->weight && eligible(s)) {
			w->chosen = w->place - 1;
			return 1;
		}
		return w->place == w->stop;
	}
	w->place = 0;
	w->weight -= w->step;
	if (w->weight <= 0) {
		w->weight = w->top;
		if (w->last_pass || !w->last)
			return 1;
		w->restarted = 1;
	}
	w->last_pass = w->weight <= w->step;
	if (w->last_pass && w->restarted && w->last)
		w->stop = w->last;
	return 0;
}

static __always_inline __u32 wrr_choose(struct pool_head *head, __u32 pool)
{
	struct wrr_walk w = { .pool = pool, .count = head->count, .step = head->step, .top = head->top };
	__u64 state, next;

	w.chosen = NOBODY;
	if (!w.top)
		return NOBODY;
	for (int i = 0; i < RETRIES; i++) {
		state = head->state;
		w.place = w.last = (__u32)state;
		w.weight = state >> 32;
		w.stop = w.last_pass = w.restarted = FIRST(0, state);	/* a weight is never negative */
		w.chosen = NOBODY;
		bpf_loop(WALK_MAX, wrr_step, &w, 0);
		next = (__u64)(__u32)w.weight << 32 | w.place;
		if (__sync_val_compare_and_swap(&head->state, state, next) == state)
			break;
	}
	return w.chosen;
}
