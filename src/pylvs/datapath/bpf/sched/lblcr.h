/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Locality-based least connection with replication (facts 4.14): a destination address has a set of real servers, of
 * whom the least loaded gets the connection. When that one is too busy (lblc.h) another one joins them; from time to
 * time the most loaded one leaves. Sets are in cache.h.
 */
#pragma once

struct set_view {
	__u32 service;
	__u32 size;
	__u32 best;		/* 1 + number of the least loaded */
	__u32 best_turn;
	__s32 best_weight;
	__s32 best_active;
	__s64 best_busy;
	__u64 worst;		/* the most loaded, as it stands in the set */
	__u32 worst_place;
	__s32 worst_weight;
	__s64 worst_busy;
};

MAP(set_views, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct set_view, 1, 0);

struct set_walk {
	const struct cached_set *set;
	struct set_view *view;
};

/* Ties are the newer one's: the kernel begins with it. */
static long set_step(__u64 i, struct set_walk *walk)
{
	struct set_view *w = walk->view;
	__u64 member = walk->set->member[i % CACHE_SET];
	__u32 dest = (__u32)member - 1, turn = member >> 32;
	const struct dest_load *load = at(&dest_loads, dest);
	const struct dest *d = at(&dests, dest);
	__s64 busy, by_best, by_this;

	if (!member || member == CACHED_GONE || !load || !d)
		return 0;
	w->size++;
	if (load->weight <= 0)
		return 0;
	busy = overhead(load);
	by_this = w->worst_busy * load->weight;
	by_best = busy * w->worst_weight;
	if (!w->worst || by_best > by_this || (by_best == by_this && turn > w->worst >> 32)) {
		w->worst = member;
		w->worst_place = i;
		w->worst_weight = load->weight;
		w->worst_busy = busy;
	}
	if (load->overload || !(d->flags & DEST_AVAILABLE) || d->service != w->service)
		return 0;
	by_best = w->best_busy * load->weight;
	by_this = busy * w->best_weight;
	if (!w->best || by_best > by_this || (by_best == by_this && turn > w->best_turn)) {
		w->best = 1 + dest;
		w->best_turn = turn;
		w->best_weight = load->weight;
		w->best_active = load->active;
		w->best_busy = busy;
	}
	return 0;
}

static __always_inline __u32 lblcr_choose(const struct pool *o, const struct cache_key *key)
{
	const struct config *cfg = at(&config, 0);
	const struct sysctls *sys = at(&sysctls, 0);
	struct set_view *view = at(&set_views, 0);
	struct cached_set *e = bpf_map_lookup_elem(&lblcr_cache, key);
	const struct pool_server *s;
	__u32 place;
	__u64 now;

	if (!cfg || !sys || !view)
		return NOBODY;
	now = now_ns(cfg);
	if (e) {
		struct set_walk w = { .set = e, .view = view };

		__builtin_memset(view, 0, sizeof(*view));
		view->service = key->service;
		e->used = now;
		bpf_loop(CACHE_SET, set_step, &w, 0);
		if (view->size > 1 && view->worst && (__s64)(now - e->changed) > sys->lblcr_expiration * (__s64)SECOND) {
			set_remove(e, view->worst_place, view->worst, now);
			e->changed = now;
		}
		place = view->best ? pool_find(o, view->best - 1) : NOBODY;
		if (place != NOBODY && !too_busy(o, view->best_active, view->best_weight))
			return place;
	}
	place = wlc_choose(o);
	s = place == NOBODY ? NULL : pool_server(o->row.first, place);
	if (!s || !pool_same(o))
		return NOBODY;
	if (e)
		set_join(e, 1 + s->dest, now);
	else
		set_add(key, 1 + s->dest, now);
	return place;
}
