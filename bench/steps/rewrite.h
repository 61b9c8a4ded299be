/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Without changing addresses and ports, with their checksums.
 *
 * Replaces: nat_rewrite
 */

__noinline int nat_rewrite(struct __sk_buff *skb, const struct packet *p, const union address *new_addr, __u16 new_port,
			   int reply)
{
	barrier_var(new_port);	/* or the compiler would not pass them */
	barrier_var(reply);
	return p && new_addr && decrement_ttl(skb, p->tuple.family);
}
