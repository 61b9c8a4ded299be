/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Everything but forwarding requests: no route, no rewriting, no sending.
 *
 * Replaces: forward_request
 */

__noinline int forward_request(struct __sk_buff *skb, struct packet *p, const struct way *way, struct outcome *out,
			       __u64 now)
{
	if (!p || !way || !out)
		return DROPPED_REWRITE_FAILED;
	barrier_var(skb);	/* or the compiler would not pass them */
	barrier_var(now);
	out->verdict = TC_ACT_SHOT;
	return FORWARDED_ROUTE;
}
