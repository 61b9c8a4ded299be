/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Without setting the time of a connection's end, but for the first time.
 *
 * Replaces: conn_touch
 */

static __always_inline void conn_touch(struct conn *c, __u64 now)
{
	if ((__s32)(c->expires - ticks(now)) < 60 * 1000)
		c->expires = conn_deadline(c->timeout, now);
}
