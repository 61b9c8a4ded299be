/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * How busy a real server is: connections that are bound to it, and what its thresholds make of that (facts 1.9, 1.10).
 */
#pragma once

static __always_inline void load_bind(struct dest_load *load, __u32 flags)
{
	if (flags & CONN_TEMPLATE)
		__sync_fetch_and_add(&load->persistent, 1);
	else
		__sync_fetch_and_add(&load->total, 1);
}

/* `flags`: those of conn_flag that the connection has at its end. */
static __always_inline void load_unbind(struct dest_load *load, __u32 flags, __u64 now)
{
	if (flags & CONN_TEMPLATE) {
		__sync_fetch_and_add(&load->persistent, -1);
		return;
	}
	if (!(flags & CONN_INACTIVE))
		__sync_fetch_and_add(&load->active, -1);
	if (__sync_fetch_and_add(&load->total, -1) == 1)
		load->idle = now;
}
