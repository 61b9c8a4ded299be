/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Locality-based least connection (facts 4.13): a destination address stays with the real server that it had, unless
 * that one has more than its weight says while another one is half idle. What a destination had is in cache.h.
 */
#pragma once

struct over_walk {
	__u32 first;
	__u32 found;
};

static long over_step(__u64 i, struct over_walk *w)
{
	const struct pool_server *s = pool_server(w->first, i);
	const struct dest_load *load = s ? at(&dest_loads, s->dest) : NULL;

	w->found = load && (__s64)load->active * 2 < s->weight;
	return w->found;
}

/* Has it more active connections than its weight says, and somebody else less than half? */
static __always_inline int too_busy(const struct pool *o, __s32 active, __s32 weight)
{
	struct over_walk w = { .first = o->row.first };

	if (active > weight)
		bpf_loop(o->row.count, over_step, &w, 0);
	return w.found;
}

struct place_walk {
	__u32 first;
	__u32 dest;
	__u32 found;
};

static long place_step(__u64 i, struct place_walk *w)
{
	const struct pool_server *s = pool_server(w->first, i);

	if (!s || s->dest != w->dest)
		return 0;
	w->found = i;
	return 1;
}

/* Where a real server stands in the pool, or NOBODY. */
static __always_inline __u32 pool_find(const struct pool *o, __u32 dest)
{
	struct place_walk w = { .first = o->row.first, .dest = dest, .found = NOBODY };

	bpf_loop(o->row.count, place_step, &w, 0);
	return w.found;
}

static __always_inline __u32 lblc_choose(const struct pool *o, const struct cache_key *key)
{
	const struct config *cfg = at(&config, 0);
	struct cached *e = bpf_map_lookup_elem(&lblc_cache, key);
	const struct dest_load *load;
	const struct pool_server *s;
	__u32 place, had = 0;

	if (!cfg)
		return NOBODY;
	if (e) {
		e->used = now_ns(cfg);
		had = e->dest;
		place = pool_find(o, had - 1);
		s = place == NOBODY ? NULL : pool_server(o->row.first, place);
		load = s ? at(&dest_loads, s->dest) : NULL;
		if (load && s->weight > 0 && !too_busy(o, load->active, s->weight))
			return place;
	}
	place = wlc_choose(o);
	s = place == NOBODY ? NULL : pool_server(o->row.first, place);
	if (!s || !pool_same(o))
		return NOBODY;
	if (e)
		cached_replace(e, had, 1 + s->dest, now_ns(cfg));
	else
		cached_add(key, 1 + s->dest, now_ns(cfg));
	return place;
}
