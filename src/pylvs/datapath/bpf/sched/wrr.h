/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Weighted round robin (facts 4.2). State: current weight << STATE_PLACE_BITS | 1 + the place that was chosen last (0:
 * the list's head). pool_head.step and .top are computed in pylvs.schedulers.wrr, which also says what a change of the
 * pool does to them.
 */
#pragma once

struct wrr_walk {
	__u32 first;
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
	const struct pool_server *s;

	if (w->place < w->count) {
		s = pool_server(w->first, w->place);
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

static __always_inline __u32 wrr_choose(const struct pool *o)
{
	struct wrr_walk w = { .first = o->row.first, .count = o->row.count, .step = o->head->step, .top = o->head->top };
	__u64 was, state;

	w.chosen = NOBODY;
	if (!w.top || !pool_same(o))
		return NOBODY;
	for (int i = 0; i < RETRIES; i++) {
		state = state_get(o, &was);
		w.place = w.last = state & ((1u << STATE_PLACE_BITS) - 1);
		w.weight = state >> STATE_PLACE_BITS;
		w.stop = w.last_pass = w.restarted = FIRST(0, state);	/* its top bit is never set */
		w.chosen = NOBODY;
		bpf_loop(WALK_MAX, wrr_step, &w, 0);
		if (state_put(o, was, (__u64)(__u32)w.weight << STATE_PLACE_BITS | w.place))
			break;
	}
	return w.chosen;
}
