/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Least connection (facts 4.3): the first of those with the least overhead; weight only matters as zero or not.
 */
#pragma once

struct lc_walk {
	__u32 pool;
	__u32 chosen;
	__s64 least;
};

static long lc_step(__u64 i, struct lc_walk *w)
{
	struct pool_server *s = pool_server(w->pool, i);
	__s64 load;

	if (!s || !eligible(s))
		return 0;
	load = overhead(s);
	if (w->chosen == NOBODY || load < w->least) {
		w->chosen = i;
		w->least = load;
	}
	return 0;
}

static __always_inline __u32 lc_choose(struct pool_head *head, __u32 pool)
{
	struct lc_walk w = { .pool = pool, .chosen = FIRST(NOBODY, head->count) };

	bpf_loop(head->count, lc_step, &w, 0);
	return w.chosen;
}
