/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Defences against floods, as packets meet them: drop_packet and conn_max (facts 9.4). Whether they are on is alarm.h's
 * to say, and what drop_entry drops is thin.h's.
 */
#pragma once

/* Is this one of the packets that would create a connection and that drop_packet drops? */
static __always_inline int defence_drops(void)
{
	struct runtime *rt = at(&runtime, 0);
	__s32 rate = rt ? rt->drop_rate : 0, left;

	if (!rt || !rate)
		return 0;
	if (rate <= 1 && *(volatile __s32 *)&rt->drop_counter <= 1)	/* a round of before comes to its end */
		return 1;
	left = __sync_fetch_and_add(&rt->drop_counter, -1);
	if (left > 1)
		return 0;
	if (left == 1) {	/* whoever counts meanwhile counts for the next round */
		__sync_fetch_and_add(&rt->drop_counter, rate);
		return 1;
	}
	/* nobody has begun a round yet, or another CPU is just about to */
	return __sync_val_compare_and_swap(&rt->drop_counter, left - 1, rate) == left - 1;
}

/* Has the director as many connections as it may have? */
__noinline int defence_full(void)
{
	const struct sysctls *sys = at(&sysctls, 0);
	const struct runtime *rt = at(&runtime, 0);

	return sys && rt && (__s64)rt->conns >= sys->conn_max;
}
