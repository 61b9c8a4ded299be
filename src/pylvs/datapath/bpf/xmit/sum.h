/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Checksums over what a packet carries. A sender on the same machine, and whoever merges packets, leaves a transport
 * checksum to the device that will send the packet: the field holds the sum of the pseudo header, and the device adds
 * what is from the transport header on. Nothing says that of a packet but the field itself.
 */
#pragma once

/* The sum, folded, of a packet's bytes from `from` on, to which `sum` is added; -1: they are not all there. */
__noinline int sum_of(struct __sk_buff *skb, __u32 from, __u32 size, __u32 sum)
{
	struct sum_over over = { .skb = skb, .at = from, .left = FIRST(size, size), .sum = sum };

	if (size > 65535)
		return -1;
	bpf_loop(65536 / SUM_CHUNK, sum_over_step, &over, 0);
	return over.left ? -1 : fold((__u32)over.sum);
}

static __always_inline __u32 sum_at(const struct packet *p)
{
	return p->l4 + (p->tuple.protocol == IPPROTO_TCP ? 16 : 6);
}

/* Is the transport checksum of the packet whose IP header stands `shift` bytes behind its usual place still to be
 * finished? Then the field holds the pseudo header's sum, and it is not by chance right as it is. -1: nobody can tell. */
__noinline int sum_pending(struct __sk_buff *skb, const struct packet *p, __u32 shift)
{
	__u32 *addresses = at(&scratch, 0), sum, size;
	__u16 field;
	int total;

	if (!p || !addresses)
		return -1;
	if (p->kind != KIND_PLAIN || p->fragment ||	/* a fragment was finished before it was cut */
	    (p->tuple.protocol != IPPROTO_TCP && p->tuple.protocol != IPPROTO_UDP))
		return 0;
	size = p->length + ETH_LEN - p->l4;
	if (bpf_skb_load_bytes(skb, sum_at(p) + shift, &field, 2))
		return -1;
	if (p->tuple.family == AF_INET) {
		if (bpf_skb_load_bytes(skb, ETH_LEN + shift + 12, addresses, 8))
			return -1;
		sum = bpf_csum_diff(NULL, 0, addresses, 8, 0);
	} else {
		if (bpf_skb_load_bytes(skb, ETH_LEN + shift + 8, addresses, 32))
			return -1;
		sum = bpf_csum_diff(NULL, 0, addresses, 32, 0);
	}
	sum = fold((__u64)sum + bpf_htons(p->tuple.protocol) + bpf_htons(size));
	if (sum != field)
		return 0;
	total = sum_of(skb, p->l4 + shift, size, sum);
	return total < 0 ? -1 : total != 0xffff;
}
