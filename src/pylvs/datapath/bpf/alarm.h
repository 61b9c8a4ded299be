/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Which defences are on (facts 9.4), decided once a second and when a command changes a mode.
 *
 * Rules of this file:
 *  - A mode is a command's word, except that automatic off (1) and automatic on (2) become each other here, by
 *    compare-and-swap: whatever a command writes meanwhile stays.
 *  - What follows from the modes stands in `runtime`, a word each: packets read no more than that.
 */
#pragma once

enum defence_mode { DEFENCE_OFF, DEFENCE_AUTO_OFF, DEFENCE_AUTO_ON, DEFENCE_ON };

/* ---- are we short of memory? ---------------------------------------------------------------------------------- */

#define SCARCE 16		/* less than one slot in so many is free: the table is short of memory */
#define FILL_GROUPS 256		/* groups to guess from how many slots are free */

/* Pages of memory; -1: not known. */
static __always_inline __s64 free_pages(const struct config *cfg)
{
	__s64 pages = 0;

	if (cfg->free_pages)
		return cfg->free_pages - 1;
	if (!cfg->free_pages_at || bpf_probe_read_kernel(&pages, sizeof(pages), (const void *)cfg->free_pages_at))
		return -1;
	return pages > 0 ? pages : 0;
}

struct fill_walk {
	__u64 used;
	__u32 group;
	__u32 stride;
};

static long fill_step(__u64 i, struct fill_walk *w)
{
	struct group *g = group_at(w->group + i * w->stride);

	if (g)	/* in bounds that a verifier sees: or it would count with us, round by round */
		w->used = (w->used + g->used) & (2 * FILL_GROUPS * GROUP_SLOTS - 1);
	return 0;
}

/* What the table's free slots are worth in pages: the threshold where it begins to be scarce, nothing when it is full. */
static __always_inline __s64 table_pages(__s64 threshold)
{
	__u32 old = table_target(), all = GROUPS(old), count = all < FILL_GROUPS ? all : FILL_GROUPS, parity;
	struct fill_walk w = {};
	__u64 slots;

	if (!count)
		return threshold;
	parity = old ? table_parity ^ PARITY : table_parity;
	w.stride = all / count;
	w.group = (bpf_get_prandom_u32() & (w.stride - 1)) | parity;	/* numbers of groups are powers of two */
	bpf_loop(count, fill_step, &w, 0);
	slots = (__u64)count * GROUP_SLOTS;
	return w.used < slots ? threshold * SCARCE * (slots - w.used) / slots : 0;
}

/* ---- what is on ------------------------------------------------------------------------------------------------ */

/* The mode that holds now. */
static __always_inline __u32 defence_mode(__s64 *mode, int low)
{
	__s64 now = *mode, next = low ? DEFENCE_AUTO_ON : DEFENCE_AUTO_OFF;

	if (now != DEFENCE_AUTO_OFF && now != DEFENCE_AUTO_ON)
		return now;
	if (now != next && __sync_val_compare_and_swap(mode, now, next) != now)
		return *mode;
	return next;
}

/* Decide anew which defences are on. */
__noinline int defend(void)
{
	const struct config *cfg = at(&config, 0);
	struct sysctls *sys = at(&sysctls, 0);
	struct runtime *rt = at(&runtime, 0);
	__s64 threshold, available, memory;
	__u32 mode;
	int low;

	if (!cfg || !sys || !rt)
		return 1;
	threshold = sys->amemthresh > 0 ? sys->amemthresh : 0;
	memory = free_pages(cfg);
	available = table_pages(threshold);
	if (memory >= 0 && memory < available)
		available = memory;
	low = available < threshold;
	rt->memory = memory;
	rt->available = available;
	rt->secure = defence_mode(&sys->secure_tcp, low) > DEFENCE_AUTO_OFF;
	rt->drop_entry = defence_mode(&sys->drop_entry, low) > DEFENCE_AUTO_OFF;
	mode = defence_mode(&sys->drop_packet, low);
	if (mode == DEFENCE_ON) {
		rt->drop_rate = sys->am_droprate;
	} else if (mode == DEFENCE_AUTO_ON && low) {
		rt->drop_counter = (__u64)threshold / (__u64)(threshold - available);
		rt->drop_rate = rt->drop_counter;
	} else {
		rt->drop_rate = 0;
	}
	return 0;
}
