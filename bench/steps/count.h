/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Without the counters of real server, service and director.
 *
 * Replaces: count
 */

static __always_inline void count(const struct dest *d, __u32 dest, enum traffic what, __u32 bytes)
{
}
