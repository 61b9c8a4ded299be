/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The power of two choices (facts 4.15): two are drawn, with chances as their weights, and the less loaded one has it.
 * As in the kernel a draw may be 0, which is the first one's, too.
 */
#pragma once

struct twos_walk {
	__u32 first;
	__u32 one;
	__u32 other;
	__u32 unused;
	__s64 total;
	__s64 left;		/* to go until the one... */
	__s64 other_left;	/* ...and until the other */
};

static long twos_sum(__u64 i, struct twos_walk *w)
{
	const struct pool_server *s = pool_server(w->first, i);

	if (s && eligible(s))
		w->total += s->weight;
	return 0;
}

static long twos_step(__u64 i, struct twos_walk *w)
{
	const struct pool_server *s = pool_server(w->first, i);

	if (!s || !eligible(s))
		return 0;
	w->left -= s->weight;
	w->other_left -= s->weight;
	if (w->one == NOBODY && w->left <= 0)
		w->one = i;
	if (w->other == NOBODY && w->other_left <= 0)
		w->other = i;
	return w->one != NOBODY && w->other != NOBODY;
}

/* Any number from 0 to most. */
static __always_inline __s64 twos_draw(__u64 most)
{
	return ((__u64)bpf_get_prandom_u32() << 31 ^ bpf_get_prandom_u32()) % (most + 1);
}

static __always_inline __u32 twos_choose(const struct pool *o)
{
	struct twos_walk w = { .first = o->row.first };
	const struct pool_server *one, *other;
	const struct dest_load *load, *other_load;

	w.one = w.other = FIRST(NOBODY, o->row.count);
	bpf_loop(o->row.count, twos_sum, &w, 0);
	if (w.total <= 0)
		return NOBODY;
	w.left = twos_draw(w.total);
	w.other_left = twos_draw(w.total);
	bpf_loop(o->row.count, twos_step, &w, 0);
	/* weights may have changed since they were summed up */
	if (w.one == NOBODY || w.other == NOBODY)
		return w.one == NOBODY ? w.other : w.one;
	one = pool_server(o->row.first, w.one);
	other = pool_server(o->row.first, w.other);
	load = one ? at(&dest_loads, one->dest) : NULL;
	other_load = other ? at(&dest_loads, other->dest) : NULL;
	if (!load || !other_load)
		return NOBODY;
	return other->weight * overhead(load) > one->weight * overhead(other_load) ? w.other : w.one;
}
