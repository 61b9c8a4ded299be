/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Without routing: every packet goes the same way out of the interface that it came in by.
 *
 * Replaces: route
 */

static __always_inline enum routed route(struct __sk_buff *skb, struct bpf_fib_lookup *fib, __u8 family,
					 const union address *src, const union address *dst, __u32 length, int ask,
					 __u64 now)
{
	__builtin_memset(fib, 0, sizeof(*fib));
	barrier_var(now);	/* or the compiler would not pass it */
	fib->ifindex = skb->ifindex;
	return ROUTED;
}
