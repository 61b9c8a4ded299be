/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Weighted overflow (facts 4.8): the heaviest who has no more active connections than its weight says; the first wins.
 */
#pragma once

struct ovf_walk {
	__u32 first;
	__u32 chosen;
	__s32 heaviest;
};

static long ovf_step(__u64 i, struct ovf_walk *w)
{
	const struct pool_server *s = pool_server(w->first, i);
	const struct dest_load *load = s ? eligible(s) : NULL;

	if (load && load->active <= s->weight && s->weight > w->heaviest) {
		w->chosen = i;
		w->heaviest = s->weight;
	}
	return 0;
}

static __always_inline __u32 ovf_choose(const struct pool *o)
{
	struct ovf_walk w = { .first = o->row.first, .chosen = NOBODY, .heaviest = FIRST(0, o->row.count) };

	bpf_loop(o->row.count, ovf_step, &w, 0);
	return w.chosen;
}
