/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Destination hashing (facts 4.10): whose bucket the packet's destination address falls into, or nobody. The table is
 * pylvs.schedulers.dh's.
 */
#pragma once

static __always_inline __u32 dh_choose(const struct pool *o, const struct packet *p)
{
	__u32 place = pool_entry(&o->row, hash8(fold_address(&p->tuple.dst)));

	return eligible_at(&o->row, place) ? place : NOBODY;
}
