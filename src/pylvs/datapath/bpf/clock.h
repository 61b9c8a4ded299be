/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The director's clock: the machine's coarse monotonic one (a fine one costs as much as the rest of a packet's way)
 * plus an offset, so that tests move the time and never wait for it.
 */
#pragma once

#define MSEC 1000000ull
#define SECOND (1000 * MSEC)

/* Connections count time in ticks of 2^20 ns: 32 bits of them last for 52 days, a shift makes them. */
#define TICK_SHIFT 20

static __always_inline __u64 now_ns(const struct config *cfg)
{
	return bpf_ktime_get_coarse_ns() + cfg->clock_offset;
}

static __always_inline __u32 ticks(__u64 ns)
{
	return ns >> TICK_SHIFT;
}

/* Is a tick past? Right for 26 days, and no timeout is longer. */
static __always_inline int past(__u32 tick, __u64 now)
{
	return (__s32)(ticks(now) - tick) >= 0;
}
