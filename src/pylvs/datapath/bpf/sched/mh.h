/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Maglev hashing (facts 4.12): whose entry of the table the client falls on. POOL_SCHED1 (mh-fallback): or whoever has
 * the next draw who may. POOL_SCHED2 (mh-port): the client's port counts. The table is pylvs.schedulers.mh's.
 */
#pragma once

struct mh_walk {
	struct row row;
	__u32 value;
	__u32 drawn;
	__u32 chosen;
};

static long mh_step(__u64 i, struct mh_walk *w)
{
	__u32 place;

	if (!w->row.table)
		return 1;
	place = pool_entry(&w->row, siphash((i + w->drawn) % w->row.table + w->value) % w->row.table);
	if (place == NOBODY)
		return 1;
	if (!eligible_at(&w->row, place))
		return 0;
	w->chosen = place;
	return 1;
}

static __always_inline __u32 mh_choose(const struct pool *o, const struct packet *p)
{
	struct mh_walk w = { .value = fold_address(&p->tuple.src) + hashed_port(o, p), .chosen = NOBODY };
	__u32 place;

	if (!o->row.table)
		return NOBODY;
	w.drawn = siphash(w.value) % o->row.table;
	place = pool_entry(&o->row, w.drawn);
	if (place == NOBODY || eligible_at(&o->row, place))
		return place;
	if (!(o->flags & POOL_SCHED1))
		return NOBODY;
	w.row = o->row;
	bpf_loop(o->row.table, mh_step, &w, 0);
	return w.chosen;
}
