/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Without the kernel's neighbour code for one packet in 64.
 *
 * Replaces: ask_neighbour
 */

static __always_inline int ask_neighbour(__u32 packets_before)
{
	return packets_before == 0;
}
