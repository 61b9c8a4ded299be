/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Weighted failover (facts 4.7): the heaviest who may; the first wins.
 */
#pragma once

struct fo_walk {
	__u32 first;
	__u32 chosen;
	__s32 heaviest;
};

static long fo_step(__u64 i, struct fo_walk *w)
{
	const struct pool_server *s = pool_server(w->first, i);
	const struct dest_load *load = s ? eligible(s) : NULL;

	if (load && s->weight > w->heaviest) {
		w->chosen = i;
		w->heaviest = s->weight;
	}
	return 0;
}

static __always_inline __u32 fo_choose(const struct pool *o)
{
	struct fo_walk w = { .first = o->row.first, .chosen = NOBODY, .heaviest = FIRST(0, o->row.count) };

	bpf_loop(o->row.count, fo_step, &w, 0);
	return w.chosen;
}
