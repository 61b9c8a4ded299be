/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * How busy a real server is: connections that are bound to it, and what its thresholds make of that (facts 1.9, 1.10).
 * What an edit of the thresholds does to it is in Python (pylvs.datapath.limits). A connection without a real server
 * (NULL) keeps nobody busy.
 */
#pragma once

/* Below how many connections an overloaded real server gets new ones again. */
static __always_inline __u32 load_lower(const struct dest_load *load)
{
	return load->lower ? load->lower : load->upper - load->upper / 4;
}

/* It has come to its upper threshold, or is about to go below the lower one: is it overloaded? Another CPU may have
 * counted meanwhile, and said otherwise: so look again after saying it. */
static __always_inline void load_judge(struct dest_load *load, int rising)
{
	__u32 limit = rising ? load_lower(load) : load->upper, over;

#pragma unroll
	for (int i = 0; i < 2; i++) {
		over = load->upper && *(volatile __s32 *)&load->total >= (__s32)limit;
		if (__sync_lock_test_and_set(&load->overload, over) == over)
			break;
	}
}

static __always_inline void load_bind(struct dest_load *load, __u32 flags)
{
	__s32 before;

	if (!load)
		return;
	if (flags & CONN_TEMPLATE) {
		__sync_fetch_and_add(&load->persistent, 1);
		return;
	}
	before = __sync_fetch_and_add(&load->total, 1);
	/* above it, too: others may have judged at the same time, and the last word was that of who knew least */
	if (load->upper && (before + 1 == (__s32)load->upper || (before >= (__s32)load->upper && !load->overload)))
		load_judge(load, 1);
}

/* `flags`: those of conn_flag that the connection has at its end. */
static __always_inline void load_unbind(struct dest_load *load, __u32 flags, __u64 now)
{
	__s32 before;

	if (!load)
		return;
	if (flags & CONN_TEMPLATE) {
		if (__sync_fetch_and_add(&load->persistent, -1) == 1)
			load->idle = now;
		return;
	}
	if (!(flags & CONN_INACTIVE))
		__sync_fetch_and_add(&load->active, -1);
	before = __sync_fetch_and_add(&load->total, -1);
	if (before == 1)
		load->idle = now;
	if (before == (__s32)load_lower(load))
		load_judge(load, 0);
}
