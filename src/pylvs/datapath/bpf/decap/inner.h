/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The inner packet: what the client sent to the VIP.
 */
#pragma once

struct inner {
	union address src;
	union address dst;
	__u32 length;
	__u32 pseudo;		/* sum of its addresses */
	__u16 l4;		/* offset of the transport header in it */
	__u8 protocol;
	__u8 family;
	__u8 ecn;
};

/* Is the inner packet whole? Its header's own checksum is the stack's business. */
static __always_inline int inner_read(struct __sk_buff *skb, const struct outer *o, struct inner *in)
{
	if (o->inner == IPPROTO_IPIP) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, o->at, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
			return 0;
		in->family = AF_INET;
		in->src.word[0] = ip.saddr;
		in->dst.word[0] = ip.daddr;
		in->l4 = ip.ihl * 4;
		in->length = bpf_ntohs(ip.tot_len);
		/* the ports of a piece that is not the first are not there */
		in->protocol = ip.frag_off & bpf_htons(IPV4_PIECE) ? IPPROTO_FRAGMENT : ip.protocol;
		in->ecn = ip.tos & 3;
		in->pseudo = fold((__u64)ip.saddr + ip.daddr);
	} else {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, o->at, &ip, sizeof(ip)) || ip.version != 6)
			return 0;
		in->family = AF_INET6;
		__builtin_memcpy(&in->src, &ip.saddr, 16);
		__builtin_memcpy(&in->dst, &ip.daddr, 16);
		in->l4 = IPV6_LEN;
		in->length = IPV6_LEN + bpf_ntohs(ip.payload_len);
		in->protocol = ip.nexthdr;
		in->ecn = bpf_ntohs(*(__u16 *)&ip) >> 4 & 3;
		in->pseudo = fold((__u32)bpf_csum_diff(NULL, 0, (__be32 *)&ip.saddr, 32, 0));
	}
	if (skb->gso_size)
		in->length = o->end - o->at;
	return in->length >= in->l4 && o->at + in->length <= o->end &&
	       (!o->remote_field || o->remote_field + 2u <= in->length);
}

enum ecn { NOT_ECT, ECT_1, ECT_0, CE };

/* RFC 6040, 4.2: what the inner packet shall say; negative: it must be dropped. */
static __always_inline int ecn_after(__u8 outer, __u8 inner)
{
	if (inner == NOT_ECT)
		return outer == CE ? -1 : NOT_ECT;
	if (outer == CE || inner == CE)
		return CE;
	return outer == ECT_1 ? ECT_1 : inner;
}

/* The outer headers are off. */
static __always_inline int ecn_put(struct __sk_buff *skb, const struct inner *in, __u8 ecn)
{
	__be16 was, word;

	if (bpf_skb_load_bytes(skb, ETH_LEN, &was, sizeof(was)))
		return 0;
	if (in->family == AF_INET) {
		word = (was & bpf_htons(0xfffc)) | bpf_htons(ecn);
		/* the header sums up to the same as before: whatever a device has summed up stays right */
		return !bpf_l3_csum_replace(skb, ETH_LEN + 10, was, word, sizeof(word)) &&
		       !bpf_skb_store_bytes(skb, ETH_LEN, &word, sizeof(word), 0);
	}
	word = (was & bpf_htons(0xffcf)) | bpf_htons(ecn << 4);
	return !bpf_skb_store_bytes(skb, ETH_LEN, &word, sizeof(word), BPF_F_RECOMPUTE_CSUM);
}
