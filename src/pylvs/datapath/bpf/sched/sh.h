/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Source hashing (facts 4.11): whose bucket the client falls into. POOL_SCHED1 (sh-fallback): or whoever comes next who
 * may. POOL_SCHED2 (sh-port): the client's port counts. The table is pylvs.schedulers.sh's.
 */
#pragma once

#define SH_BUCKETS 256

struct sh_walk {
	struct row row;
	__u32 bucket;
	__u32 chosen;
};

static long sh_step(__u64 i, struct sh_walk *w)
{
	/* twice the bucket: so the kernel does it, and not from the next one on */
	__u32 place = pool_entry(&w->row, (i + 2 * w->bucket) % SH_BUCKETS);

	if (place == NOBODY)
		return 1;
	if (!eligible_at(&w->row, place))
		return 0;
	w->chosen = place;
	return 1;
}

static __always_inline __u32 sh_choose(const struct pool *o, const struct packet *p)
{
	struct sh_walk w = { .bucket = hash8(fold_address(&p->tuple.src) + hashed_port(o, p)), .chosen = NOBODY };
	__u32 place = pool_entry(&o->row, w.bucket);

	if (place == NOBODY || eligible_at(&o->row, place))
		return place;
	if (!(o->flags & POOL_SCHED1))
		return NOBODY;
	w.row = o->row;
	bpf_loop(SH_BUCKETS, sh_step, &w, 0);
	return w.chosen;
}
