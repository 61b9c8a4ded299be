/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Shortest expected delay (facts 4.5): least (active + 1) per weight; the first wins.
 */
#pragma once

struct sed_walk {
	__u32 first;
	__u32 chosen;
	__s64 least;
	__s64 weight;		/* of the chosen one */
};

static long sed_step(__u64 i, struct sed_walk *w)
{
	const struct pool_server *s = pool_server(w->first, i);
	const struct dest_load *load = s ? eligible(s) : NULL;
	__s64 busy;

	if (!load)
		return 0;
	busy = (__s64)load->active + 1;
	if (w->chosen == NOBODY || w->least * s->weight > busy * w->weight) {
		w->chosen = i;
		w->least = busy;
		w->weight = s->weight;
	}
	return 0;
}

static __always_inline __u32 sed_choose(const struct pool *o)
{
	struct sed_walk w = { .first = o->row.first, .chosen = FIRST(NOBODY, o->row.count) };

	bpf_loop(o->row.count, sed_step, &w, 0);
	return w.chosen;
}
