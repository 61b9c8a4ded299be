/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * A table that a Python class has computed (pylvs.schedulers.table): who stands where the packet's hash points to.
 */
#pragma once

struct table_walk {
	struct row row;
	__u32 entry;
	__u32 chosen;
};

static long table_step(__u64 i, struct table_walk *w)
{
	__u32 place = pool_entry(&w->row, w->entry);

	if (eligible_at(&w->row, place)) {
		w->chosen = place;
		return 1;
	}
	if (++w->entry >= w->row.table)
		w->entry = 0;
	return 0;
}

static __always_inline __u32 table_choose(const struct pool *o, const struct packet *p)
{
	struct table_walk w = { .chosen = NOBODY };
	__u32 kind = o->head->step, value;

	if (!o->row.table || !pool_same(o))
		return NOBODY;
	value = fold_address((kind & TABLE_KEY) == TABLE_BY_DESTINATION ? &p->tuple.dst : &p->tuple.src);
	if ((kind & TABLE_KEY) == TABLE_BY_CLIENT_PORT)
		value += bpf_ntohs(p->tuple.sport);
	w.row = o->row;
	w.entry = siphash(value) % o->row.table;
	bpf_loop(kind & TABLE_FALLBACK ? o->row.table : 1, table_step, &w, 0);
	return w.chosen;
}
