/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Without addressing the frame and redirecting it.
 *
 * Replaces: transmit
 */

static __always_inline long transmit(struct __sk_buff *skb, const struct bpf_fib_lookup *fib, int ask)
{
	return TC_ACT_REDIRECT;
}
