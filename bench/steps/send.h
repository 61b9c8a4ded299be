/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Without addressing the frame and redirecting it.
 *
 * Replaces: transmit_to
 */

static __always_inline long transmit_to(struct __sk_buff *skb, __u32 ifindex, const struct hop *hop)
{
	return TC_ACT_REDIRECT;
}
