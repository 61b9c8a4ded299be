/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The director's clock: the machine's coarse monotonic one (a fine one costs as much as the rest of a packet's way)
 * plus an offset, so that tests move the time and never wait for it.
 */
#pragma once

#define MSEC 1000000ull
#define SECOND (1000 * MSEC)

static __always_inline __u64 now_ns(const struct config *cfg)
{
	return bpf_ktime_get_coarse_ns() + cfg->clock_offset;
}
