/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Weighted least connection (facts 4.4): least overhead per weight, compared by cross multiplication; the first wins.
 */
#pragma once

struct wlc_walk {
	__u32 pool;
	__u32 chosen;
	__s64 least;
	__s64 weight;		/* of the chosen one */
};

static long wlc_step(__u64 i, struct wlc_walk *w)
{
	struct pool_server *s = pool_server(w->pool, i);
	__s64 load;

	if (!s || !eligible(s))
		return 0;
	load = overhead(s);
	if (w->chosen == NOBODY || w->least * s->weight > load * w->weight) {
		w->chosen = i;
		w->least = load;
		w->weight = s->weight;
	}
	return 0;
}

static __always_inline __u32 wlc_choose(struct pool_head *head, __u32 pool)
{
	struct wlc_walk w = { .pool = pool, .chosen = FIRST(NOBODY, head->count) };

	bpf_loop(head->count, wlc_step, &w, 0);
	return w.chosen;
}
