/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Weighted least connection (facts 4.4): least overhead per weight, compared by cross multiplication; the first wins.
 */
#pragma once

struct wlc_walk {
	__u32 first;
	__u32 chosen;
	__s64 least;
	__s64 weight;		/* of the chosen one */
};

static long wlc_step(__u64 i, struct wlc_walk *w)
{
	const struct pool_server *s = pool_server(w->first, i);
	const struct dest_load *load = s ? eligible(s) : NULL;
	__s64 busy;

	if (!load)
		return 0;
	busy = overhead(load);
	if (w->chosen == NOBODY || w->least * s->weight > busy * w->weight) {
		w->chosen = i;
		w->least = busy;
		w->weight = s->weight;
	}
	return 0;
}

static __always_inline __u32 wlc_choose(const struct pool *o)
{
	struct wlc_walk w = { .first = o->row.first, .chosen = FIRST(NOBODY, o->row.count) };

	bpf_loop(o->row.count, wlc_step, &w, 0);
	return w.chosen;
}
