/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Defences against floods (facts 9.4).
 */
#pragma once

/* Is this one of the packets that would create a connection and that drop_packet drops? */
static __always_inline int defence_drops(void)
{
	return 0;
}
