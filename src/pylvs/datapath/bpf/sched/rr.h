/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Round robin (facts 4.1). State: 1 + the place that was chosen last; 0: none yet.
 */
#pragma once

struct rr_walk {
	__u32 pool;
	__u32 count;
	__u32 place;
	__u32 chosen;
};

static long rr_step(__u64 i, struct rr_walk *w)
{
	struct pool_server *s;

	if (w->place >= w->count)
		w->place = 0;
	s = pool_server(w->pool, w->place);
	if (s && eligible(s)) {
		w->chosen = w->place;
		return 1;
	}
	w->place++;
	return 0;
}

static __always_inline __u32 rr_choose(struct pool_head *head, __u32 pool)
{
	struct rr_walk w = { .pool = pool, .count = head->count, .chosen = NOBODY };
	__u64 state;

	for (int i = 0; i < RETRIES; i++) {
		state = head->state;
		w.place = state;
		w.chosen = NOBODY;
		bpf_loop(w.count, rr_step, &w, 0);
		if (w.chosen == NOBODY)
			break;
		if (__sync_val_compare_and_swap(&head->state, state, (__u64)w.chosen + 1) == state)
			break;
	}
	return w.chosen;
}
