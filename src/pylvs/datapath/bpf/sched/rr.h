/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Round robin (facts 4.1). State: 1 + the place that was chosen last; 0: none yet.
 */
#pragma once

struct rr_walk {
	__u32 first;
	__u32 count;
	__u32 place;
	__u32 chosen;
};

static long rr_step(__u64 i, struct rr_walk *w)
{
	const struct pool_server *s;

	if (w->place >= w->count)
		w->place = 0;
	s = pool_server(w->first, w->place);
	if (s && eligible(s)) {
		w->chosen = w->place;
		return 1;
	}
	w->place++;
	return 0;
}

static __always_inline __u32 rr_choose(const struct pool *o)
{
	struct rr_walk w = { .first = o->row.first, .count = o->row.count, .chosen = NOBODY };
	__u64 was;

	for (int i = 0; i < RETRIES; i++) {
		w.place = state_get(o, &was);
		w.chosen = NOBODY;
		bpf_loop(w.count, rr_step, &w, 0);
		if (w.chosen == NOBODY || state_put(o, was, (__u64)w.chosen + 1))
			break;
	}
	return w.chosen;
}
