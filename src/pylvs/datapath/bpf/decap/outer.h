/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What is around the inner packet: the outer IP header, then GRE's or GUE's (facts 6.7). Nothing is changed here, and
 * whatever is not exactly as expected is handed up as it came.
 */
#pragma once

#define ETH_LEN 14
#define IPV6_LEN 40
#define UDP_LEN 8
#define GRE_LEN 4
#define GUE_LEN 4
#define GRE_CHECKSUM 0x8000
#define GUE_PRIVATE 1			/* flags: 32 more of them follow */
#define GUE_REMCSUM 0x80000000		/* of those: remote checksum offload */
#define IPV4_PIECE 0x3fff		/* an offset, or more to come */
#define EXTENSIONS_MAX 3

struct outer {
	union address src;
	union address dst;
	__u32 at;		/* what comes next, from the frame's start; in the end the inner packet */
	__u32 end;		/* of the outer packet: Ethernet may have padded it */
	__u32 sum_at;		/* what a checksum covers from, or 0: there is none */
	__u32 seed;		/* what else it covers: the pseudo header */
	__u16 field;		/* the checksum itself */
	__u16 remote_start;	/* GUE's remote checksum offload: the sum from here in the inner packet ... */
	__u16 remote_field;	/* ... belongs here. 0: not wanted */
	__u8 family;
	__u8 protocol;
	__u8 ecn;
	__u8 inner;		/* the inner packet's protocol number: 4 or 41 */
	__u8 unwrapped;		/* enum decap_reason, if it all goes well */
};

static __always_inline int outer_ipv4(struct __sk_buff *skb, struct outer *o)
{
	struct scratch_bytes *room = at(&scratch, 0);
	struct iphdr ip;
	__u32 length;

	if (!room || bpf_skb_load_bytes(skb, ETH_LEN, &ip, sizeof(ip)))
		return DECAP_UP_OTHER;
	o->protocol = ip.protocol;
	o->family = AF_INET;
	o->src.word[0] = ip.saddr;
	o->dst.word[0] = ip.daddr;
	o->ecn = ip.tos & 3;
	length = ip.ihl * 4;
	o->at = ETH_LEN + length;
	o->end = skb->gso_size ? skb->len : ETH_LEN + bpf_ntohs(ip.tot_len);
	if (ip.version != 4 || length < sizeof(ip) || o->end > skb->len || o->end < o->at)
		return DECAP_UP_MALFORMED;
	/* the stack would have done this, and does not see this header any more */
	if (bpf_skb_load_bytes(skb, ETH_LEN, room->byte, length) ||
	    fold(bpf_csum_diff(NULL, 0, (__be32 *)room->byte, length, 0)) != 0xffff)
		return DECAP_UP_MALFORMED;
	o->seed = fold((__u64)ip.saddr + ip.daddr);
	return ip.frag_off & bpf_htons(IPV4_PIECE) ? DECAP_UP_FRAGMENT : DECAP_RECEIVED;
}

static __always_inline int outer_ipv6(struct __sk_buff *skb, struct outer *o)
{
	struct ipv6hdr ip;
	__u8 next[2];

	if (bpf_skb_load_bytes(skb, ETH_LEN, &ip, sizeof(ip)))
		return DECAP_UP_OTHER;
	o->protocol = ip.nexthdr;
	o->family = AF_INET6;
	__builtin_memcpy(&o->src, &ip.saddr, 16);
	__builtin_memcpy(&o->dst, &ip.daddr, 16);
	o->ecn = bpf_ntohs(*(__u16 *)&ip) >> 4 & 3;
	o->at = ETH_LEN + IPV6_LEN;
	o->end = skb->gso_size ? skb->len : ETH_LEN + IPV6_LEN + bpf_ntohs(ip.payload_len);
	if (ip.version != 6 || o->end > skb->len)
		return DECAP_UP_MALFORMED;
	o->seed = fold((__u32)bpf_csum_diff(NULL, 0, (__be32 *)&ip.saddr, 32, 0));
	/* Linux's own tunnels over IPv6 tell in an option how deep they may be nested */
#pragma unroll
	for (int i = 0; i < EXTENSIONS_MAX; i++) {
		if (o->protocol != IPPROTO_HOPOPTS && o->protocol != IPPROTO_DSTOPTS)
			break;
		if (o->at + 8 > o->end || bpf_skb_load_bytes(skb, o->at, next, sizeof(next)))
			return DECAP_UP_MALFORMED;
		o->protocol = next[0];
		o->at += (next[1] + 1) * 8;
	}
	return o->protocol == IPPROTO_FRAGMENT ? DECAP_UP_FRAGMENT : DECAP_RECEIVED;
}

static __always_inline int tunnel_gre(struct __sk_buff *skb, struct outer *o)
{
	struct {
		__be16 flags;
		__be16 protocol;
		__be16 sum;
		__be16 reserved;
	} gre = {};

	if (o->at + GRE_LEN > o->end || bpf_skb_load_bytes(skb, o->at, &gre, GRE_LEN))
		return DECAP_UP_MALFORMED;
	if (gre.protocol == bpf_htons(ETH_P_IP))
		o->inner = IPPROTO_IPIP;
	else if (gre.protocol == bpf_htons(ETH_P_IPV6))
		o->inner = IPPROTO_IPV6;
	else
		return DECAP_UP_HEADER;
	if (gre.flags == bpf_htons(GRE_CHECKSUM)) {
		if (o->at + 8 > o->end || bpf_skb_load_bytes(skb, o->at, &gre, sizeof(gre)))
			return DECAP_UP_MALFORMED;
		o->sum_at = o->at;
		o->field = gre.sum;
		o->seed = 0;
		o->at += 4;
	} else if (gre.flags) {
		return DECAP_UP_HEADER;
	}
	o->at += GRE_LEN;
	o->unwrapped = DECAP_UNWRAPPED_GRE;
	return DECAP_RECEIVED;
}

/* What follows GUE's own header if that says so. */
static __always_inline int gue_private(struct __sk_buff *skb, struct outer *o, __u32 room)
{
	__be32 flags;
	__be16 sum[2];

	if (room < sizeof(flags) || bpf_skb_load_bytes(skb, o->at, &flags, sizeof(flags)))
		return DECAP_UP_HEADER;
	if (flags & ~bpf_htonl(GUE_REMCSUM))
		return DECAP_UP_HEADER;
	if (!flags)
		return DECAP_RECEIVED;
	if (room < sizeof(flags) + sizeof(sum) || bpf_skb_load_bytes(skb, o->at + 4, sum, sizeof(sum)))
		return DECAP_UP_HEADER;
	o->remote_start = bpf_ntohs(sum[0]);
	o->remote_field = bpf_ntohs(sum[1]);
	return o->remote_field && o->remote_field >= o->remote_start ? DECAP_RECEIVED : DECAP_UP_HEADER;
}

static __always_inline int tunnel_gue(struct __sk_buff *skb, struct outer *o, __u64 settings)
{
	struct {
		__be16 sport;
		__be16 dport;
		__be16 length;
		__be16 sum;
	} udp;
	struct {
		__u8 length;	/* and version, and whether it is a control message: both must be 0 */
		__u8 protocol;
		__be16 flags;
	} gue;
	union address port = {};
	__u32 start = o->at, room;
	int why = DECAP_RECEIVED;

	if (o->at + UDP_LEN > o->end || bpf_skb_load_bytes(skb, o->at, &udp, sizeof(udp)))
		return DECAP_UP_OTHER;
	port.word[0] = udp.dport;
	if (!member(settings, DECAP_PORT, 0, &port))
		return DECAP_UP_OTHER;
	if (!skb->gso_size) {
		if (start + bpf_ntohs(udp.length) > o->end)
			return DECAP_UP_MALFORMED;
		o->end = start + bpf_ntohs(udp.length);
	}
	o->at += UDP_LEN;
	if (o->at + GUE_LEN > o->end || bpf_skb_load_bytes(skb, o->at, &gue, sizeof(gue)))
		return DECAP_UP_MALFORMED;
	if (gue.length > 0x1f || gue.flags & ~bpf_htons(GUE_PRIVATE))
		return DECAP_UP_HEADER;
	o->inner = gue.protocol;
	if (o->inner != IPPROTO_IPIP && o->inner != IPPROTO_IPV6)
		return DECAP_UP_HEADER;
	o->at += GUE_LEN;
	room = gue.length * 4;
	if (gue.flags)
		why = gue_private(skb, o, room);
	o->at += room;
	if (udp.sum) {
		o->sum_at = start;
		o->field = udp.sum;
		o->seed = fold((__u64)o->seed + bpf_htons(IPPROTO_UDP) + udp.length);
	}
	o->unwrapped = DECAP_UNWRAPPED_GUE;
	return why;
}

/* DECAP_RECEIVED: the inner packet begins at o->at. */
static __always_inline int outer_read(struct __sk_buff *skb, struct outer *o, __u64 settings)
{
	int why;

	if (skb->protocol == bpf_htons(ETH_P_IP))
		why = outer_ipv4(skb, o);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		why = outer_ipv6(skb, o);
	else
		return DECAP_UP_OTHER;
	if (o->protocol != IPPROTO_IPIP && o->protocol != IPPROTO_IPV6 && o->protocol != IPPROTO_GRE &&
	    o->protocol != IPPROTO_UDP && why != DECAP_UP_FRAGMENT)
		return DECAP_UP_OTHER;
	if (o->protocol == IPPROTO_UDP && !(settings & DECAP_GUE))
		return DECAP_UP_OTHER;
	if (o->protocol == IPPROTO_GRE && !(settings & DECAP_GRE))
		return DECAP_UP_OTHER;
	if ((o->protocol == IPPROTO_IPIP || o->protocol == IPPROTO_IPV6) && !(settings & DECAP_IPIP))
		return DECAP_UP_OTHER;
	if (why != DECAP_RECEIVED)
		return why;
	if (o->protocol == IPPROTO_GRE)
		return tunnel_gre(skb, o);
	if (o->protocol == IPPROTO_UDP)
		return tunnel_gue(skb, o, settings);
	o->inner = o->protocol;
	o->unwrapped = DECAP_UNWRAPPED_IPIP;
	return DECAP_RECEIVED;
}
