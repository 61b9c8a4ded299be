/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Least connection (facts 4.3): the first of those with the least overhead; weight only matters as zero or not.
 */
#pragma once

struct lc_walk {
	__u32 first;
	__u32 chosen;
	__s64 least;
};

static long lc_step(__u64 i, struct lc_walk *w)
{
	const struct pool_server *s = pool_server(w->first, i);
	const struct dest_load *load = s ? eligible(s) : NULL;
	__s64 busy;

	if (!load)
		return 0;
	busy = overhead(load);
	if (w->chosen == NOBODY || busy < w->least) {
		w->chosen = i;
		w->least = busy;
	}
	return 0;
}

static __always_inline __u32 lc_choose(const struct pool *o)
{
	struct lc_walk w = { .first = o->row.first, .chosen = FIRST(NOBODY, o->row.count) };

	bpf_loop(o->row.count, lc_step, &w, 0);
	return w.chosen;
}
