/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What lblc and lblcr remember of destination addresses, for all services, and its end (facts 4.13, 4.14).
 *
 * Rules of this file:
 *  - A real server counts in dest_load.cached how often it is named here, and is not forgotten while it is.
 *  - Whoever takes a name out does it by exchange, and then counts; so each is counted once. A name that is CACHED_GONE
 *    is in an entry that is just being removed: nothing is put there any more.
 */
#pragma once

#define CACHED_GONE (~0ull)
#define CACHE_ROUND (60 * SECOND)
#define CACHE_QUIET 30		/* rounds after which what is too old is looked for */
#define CACHE_IDLE (360 * SECOND)	/* what makes room was not used for so long */

struct cached {
	__u64 used;		/* when last */
	__u64 dest;		/* 1 + number of the real server */
};

struct cached_set {
	__u64 used;
	__u64 changed;
	__u64 member[CACHE_SET];	/* 1 + number of the real server, << 32: its turn, newer ones' are higher; 0: none */
};

MAP(lblc_cache, BPF_MAP_TYPE_HASH, struct cache_key, struct cached, CACHE_ROOM, BPF_F_NO_PREALLOC);
MAP(lblcr_cache, BPF_MAP_TYPE_HASH, struct cache_key, struct cached_set, CACHE_ROOM, BPF_F_NO_PREALLOC);
SHARED_ARRAY(caches, struct cache);

static __always_inline void cached_name(__u64 dest)
{
	struct dest_load *load = at(&dest_loads, (__u32)dest - 1);

	if (load)
		__sync_fetch_and_add(&load->cached, 1);
}

static __always_inline void cached_drop(__u64 dest, __u64 now)
{
	struct dest_load *load = at(&dest_loads, (__u32)dest - 1);

	if (load && dest && dest != CACHED_GONE && __sync_fetch_and_add(&load->cached, -1) == 1)
		load->idle = now;	/* in the trash it waits from here on */
}

/* ---- newcomers ------------------------------------------------------------------------------------------------- */

/* Count another entry of a service. 0: it has too many. */
static __always_inline int cache_grow(const struct cache_key *key, __u64 now)
{
	struct cache *c = at(&caches, key->service);
	__u64 old, new;

	if (!c)
		return 0;
	for (int i = 0; i < 8; i++) {
		old = *(volatile __u64 *)&c->entries;
		new = old + 1;
		if (old >> 32 != key->bound) {	/* the first one since the scheduler was bound */
			new = (__u64)key->bound << 32 | 1;
			c->round = now / CACHE_ROUND;
			c->quiet = 0;
		}
		if ((__u32)new > CACHE_MOST)
			return 0;
		if (__sync_val_compare_and_swap(&c->entries, old, new) == old)
			return 1;
	}
	return 0;
}

static __always_inline void cache_shrink(const struct cache_key *key)
{
	struct cache *c = at(&caches, key->service);

	if (c && c->entries >> 32 == key->bound)
		__sync_fetch_and_add(&c->entries, -1);
}

static __always_inline void cached_add(const struct cache_key *key, __u64 dest, __u64 now)
{
	struct cached fresh = { .used = now, .dest = dest };

	if (!cache_grow(key, now))
		return;
	cached_name(dest);
	if (bpf_map_update_elem(&lblc_cache, key, &fresh, BPF_NOEXIST)) {
		cached_drop(dest, now);
		cache_shrink(key);
	}
}

static __always_inline void cached_replace(struct cached *e, __u64 had, __u64 dest, __u64 now)
{
	if (had == dest)
		return;
	cached_name(dest);
	if (__sync_val_compare_and_swap(&e->dest, had, dest) == had)
		cached_drop(had, now);
	else
		cached_drop(dest, now);
}

MAP(fresh_sets, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct cached_set, 1, 0);

static __always_inline void set_add(const struct cache_key *key, __u64 dest, __u64 now)
{
	struct cached_set *fresh = at(&fresh_sets, 0);

	if (!fresh || !cache_grow(key, now))
		return;
	fresh->used = fresh->changed = now;
	fresh->member[0] = 1ull << 32 | dest;
	cached_name(dest);
	if (bpf_map_update_elem(&lblcr_cache, key, fresh, BPF_NOEXIST)) {
		cached_drop(dest, now);
		cache_shrink(key);
	}
}

static __always_inline int set_swap(struct cached_set *e, __u32 place, __u64 old, __u64 new, __u64 now)
{
	if (__sync_val_compare_and_swap(&e->member[place % CACHE_SET], old, new) != old)
		return 0;
	cached_drop((__u32)old, now);
	return 1;
}

static __always_inline void set_remove(struct cached_set *e, __u32 place, __u64 member, __u64 now)
{
	set_swap(e, place, member, 0, now);
}

struct join_walk {
	struct cached_set *set;
	__u32 dest;
	__u32 place;		/* free, or the oldest member's */
	__u32 newest;
	__u32 there;
	__u64 member;
};

static long join_step(__u64 i, struct join_walk *w)
{
	__u64 member = w->set->member[i % CACHE_SET];

	if (member == CACHED_GONE || (__u32)member == w->dest) {
		w->there = 1;
		return 1;
	}
	if (member >> 32 > w->newest)
		w->newest = member >> 32;
	if (member < w->member) {	/* older ones' are less, and none is least */
		w->member = member;
		w->place = i;
	}
	return 0;
}

/* Let a real server join a set. If there is no room its oldest member leaves. */
static __always_inline void set_join(struct cached_set *e, __u32 dest, __u64 now)
{
	struct join_walk w = { .set = e, .dest = dest, .member = CACHED_GONE - FIRST(0, now) };

	bpf_loop(CACHE_SET, join_step, &w, 0);
	if (w.there)
		return;
	cached_name(dest);
	if (set_swap(e, w.place, w.member, (__u64)(w.newest + 1) << 32 | dest, now))
		e->changed = now;
	else
		cached_drop(dest, now);
}

/* ---- the end of entries ------------------------------------------------------------------------------------------ */

struct cache_walk {
	__u64 now;
	__u64 old;		/* nanoseconds after which an entry is too old */
	__u32 round;
	__u32 place;
	struct cached_set *set;
};

/* Is the scheduler still bound that made this entry? */
static __always_inline int cache_bound(const struct cache_key *key)
{
	struct service *s = at(&services, key->service);
	__u32 number = s ? s->pool : 0;
	struct pool_head *head = at(&pools, number);

	return !s || !head || (number && head->bound == key->bound) || s->pool != number;
}

/* Must an entry go? Each service's cache has its own minutes: in which one all that is too old goes, in which one some
 * that are idle make room, and in which one nothing happens. */
static __always_inline int cache_ends(const struct cache_key *key, __u64 used, const struct cache_walk *w)
{
	struct cache *c = at(&caches, key->service);
	__u32 entries, passed;

	if (!cache_bound(key))
		return 1;
	if (!c || c->entries >> 32 != key->bound)
		return 0;
	if (c->round != w->round) {
		entries = c->entries;
		passed = w->round - c->round;
		c->round = w->round;
		c->goal = 0;
		c->old = c->quiet + passed >= CACHE_QUIET;
		if (c->old) {
			c->quiet = 0;
		} else if (entries <= CACHE_SIZE) {
			c->quiet += passed;
		} else {
			c->goal = (entries - CACHE_SIZE) * 4 / 3;
			if (c->goal > CACHE_SIZE / 2)
				c->goal = CACHE_SIZE / 2;
		}
	}
	if (c->old)
		return used + w->old <= w->now;
	if (!c->goal || used + CACHE_IDLE > w->now)
		return 0;
	c->goal--;
	return 1;
}

static long lblc_expire(void *map, struct cache_key *key, struct cached *e, struct cache_walk *w)
{
	struct cache_key name = *key;
	__u64 dest;

	if (!cache_ends(&name, e->used, w))
		return 0;
	dest = __sync_lock_test_and_set(&e->dest, CACHED_GONE);
	if (dest == CACHED_GONE)
		return 0;	/* somebody else is at it */
	cached_drop(dest, w->now);
	bpf_map_delete_elem(&lblc_cache, &name);
	cache_shrink(&name);
	return 0;
}

static long set_empty(__u64 i, struct cache_walk *w)
{
	__u64 member = __sync_lock_test_and_set(&w->set->member[i % CACHE_SET], CACHED_GONE);

	if (!i && member == CACHED_GONE) {
		w->place = 1;
		return 1;
	}
	if (member != CACHED_GONE)
		cached_drop((__u32)member, w->now);
	return 0;
}

static long lblcr_expire(void *map, struct cache_key *key, struct cached_set *e, struct cache_walk *w)
{
	struct cache_key name = *key;

	if (!cache_ends(&name, e->used, w))
		return 0;
	w->set = e;
	w->place = 0;
	bpf_loop(CACHE_SET, set_empty, w, 0);
	if (w->place)
		return 0;
	bpf_map_delete_elem(&lblcr_cache, &name);
	cache_shrink(&name);
	return 0;
}

/* Once a minute: let go of what is past. */
static __always_inline void cache_due(struct runtime *rt, __u64 now)
{
	const struct sysctls *sys = at(&sysctls, 0);
	struct cache_walk w = { .now = now, .round = now / CACHE_ROUND };
	__u32 done = rt->cache_round;

	if (!sys || done == w.round || __sync_val_compare_and_swap(&rt->cache_round, done, w.round) != done)
		return;
	w.old = sys->lblc_expiration * SECOND;
	bpf_for_each_map_elem(&lblc_cache, lblc_expire, &w, 0);
	w.old = sys->lblcr_expiration * SECOND;
	bpf_for_each_map_elem(&lblcr_cache, lblcr_expire, &w, 0);
}
