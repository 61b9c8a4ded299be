/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * ICMP errors about the director's own tunnel packets (facts 6.10): routers on the way to a real server address them to
 * the director, but what they are about is a client's packet. What they say about the path's MTU is remembered, and the
 * client is told, as if the director had found out by itself.
 *
 * Believed is only what quotes a tunnel that leads to the real server of a connection, with a packet of that connection
 * in it. The client is told where the families of the two packets are the same; where they are not, it is told when its
 * next packet is too big for what was learned.
 */
#pragma once

enum {
	ICMP_MTU_AT = 6,	/* of fragmentation needed: 16 bits */
	ICMP6_MTU_AT = 4,	/* of packet too big: 32 bits */
	GUE_AT = UDP_LEN,	/* behind the UDP header */
};

/* Where the quoted packet's tunnel leads, into q->way, and where what it carries begins, into q->ip. RECEIVED: it is a
 * tunnel; its type is in q->tunnel, of GUE with the port. */
__noinline int tunnel_read(struct __sk_buff *skb, const struct packet *p)
{
	struct quote *q = at(&quotes, 0);
	__u32 end, ip, words;
	__u16 field[2];
	__u8 protocol;

	if (!p || !q)
		return UP_MALFORMED;
	end = p->length + ETH_LEN;
	ip = p->l4 + ICMP_HEAD;
	__builtin_memset(&q->way, 0, sizeof(q->way));
	if (p->tuple.family == AF_INET) {
		struct iphdr head;

		if (ip + IPV4_MIN > end || bpf_skb_load_bytes(skb, ip, &head, IPV4_MIN))
			return UP_MALFORMED;
		if (head.version != 4 || head.ihl < 5 || (head.frag_off & bpf_htons(0x1fff)) ||
		    head.saddr != p->tuple.dst.word[0])
			return UP_RELATED_UNKNOWN;
		protocol = head.protocol;
		q->way.address.word[0] = head.daddr;
		words = head.ihl;
	} else {
		if (ip + IPV6_LEN > end || bpf_skb_load_bytes(skb, ip + 6, &protocol, 1) ||
		    bpf_skb_load_bytes(skb, ip + 24, &q->way.address, 16))
			return UP_MALFORMED;
		words = IPV6_LEN / 4;
	}
	ip += words * 4;
	if (protocol == IPPROTO_IPIP || protocol == IPPROTO_IPV6) {
		q->tunnel = TUNNEL_IPIP;
	} else if (protocol == IPPROTO_GRE) {
		if (ip + GRE_LEN > end || bpf_skb_load_bytes(skb, ip, field, sizeof(field)))
			return UP_MALFORMED;
		if (field[0] & ~bpf_htons(GRE_SUMMED))
			return UP_RELATED_UNKNOWN;
		protocol = field[1] == bpf_htons(ETH_P_IP) ? IPPROTO_IPIP :
			   field[1] == bpf_htons(ETH_P_IPV6) ? IPPROTO_IPV6 : 0;
		q->tunnel = TUNNEL_GRE;
		ip += field[0] ? GRE_SUMMED_LEN : GRE_LEN;
	} else if (protocol == IPPROTO_UDP) {
		if (ip + UDP_LEN + GUE_LEN > end || bpf_skb_load_bytes(skb, ip + 2, field, 2))
			return UP_MALFORMED;
		q->tunnel = TUNNEL_GUE | (__u32)bpf_ntohs(field[0]) << TUNNEL_PORT_SHIFT;
		if (bpf_skb_load_bytes(skb, ip + GUE_AT, field, sizeof(field)))
			return UP_MALFORMED;
		if (field[1])
			return UP_RELATED_UNKNOWN;
		protocol = bpf_ntohs(field[0]);	/* version, kind and length of options are 0 */
		if (field[0] & bpf_htons(0xff00))
			return UP_RELATED_UNKNOWN;
		ip += UDP_LEN + GUE_LEN;
	} else {
		return UP_RELATED_UNKNOWN;
	}
	q->ip = ip;
	q->packet.tuple.family = protocol == IPPROTO_IPIP ? AF_INET : protocol == IPPROTO_IPV6 ? AF_INET6 : 0;
	return q->packet.tuple.family ? RECEIVED : UP_RELATED_UNKNOWN;
}

/* Does this tunnel lead to the real server of the connection whose packet is in it? */
static __always_inline int tunnel_known(struct quote *q, const struct packet *p, struct wrap *w, __u64 now)
{
	struct conn *c = conn_find(&q->packet.tuple, now, &q->found);
	struct dest *d;

	if (!c || q->found.from_server || conn_method(c) != METHOD_TUNNEL)
		return 0;
	q->dest = c->dest;
	d = at(&dests, q->dest);
	if (!d || d->family != p->tuple.family || !same_address(&d->address, &q->way.address, d->family))
		return 0;
	tunnel_describe(w, &q->packet, d);
	if ((w->tunnel & TUNNEL_TYPE) != (q->tunnel & TUNNEL_TYPE))
		return 0;
	return (q->tunnel & TUNNEL_TYPE) != TUNNEL_GUE ||
	       w->tunnel >> TUNNEL_PORT_SHIFT == q->tunnel >> TUNNEL_PORT_SHIFT;
}

/* The MTU that the error tells; 0: it tells none. */
static __always_inline __u32 told_mtu(struct __sk_buff *skb, const struct packet *p, const __u8 *kind)
{
	__u32 mtu = 0;
	__u16 word;

	if (p->tuple.family == AF_INET6) {
		if (kind[0] != ICMP6_TOO_BIG || bpf_skb_load_bytes(skb, p->l4 + ICMP6_MTU_AT, &mtu, 4))
			return 0;
		mtu = bpf_ntohl(mtu);
		return mtu < IPV6_TUNNEL_MIN ? IPV6_TUNNEL_MIN : mtu;
	}
	if (kind[0] != ICMP4_UNREACHABLE || kind[1] != ICMP4_TOO_BIG ||
	    bpf_skb_load_bytes(skb, p->l4 + ICMP_MTU_AT, &word, 2))
		return 0;
	mtu = bpf_ntohs(word);
	return mtu < LEARNED_MTU_MIN ? LEARNED_MTU_MIN : mtu;
}

/* Is this error about a tunnel packet of ours? Then it ends here. UP_RELATED_UNKNOWN: it is not. */
__noinline int tunnel_error(struct __sk_buff *skb, struct outcome *out, __u64 now)
{
	struct quote *q = at(&quotes, 0);
	struct tunnel_way *way = at(&tunnel_ways, 0);
	__u32 mtu, strip, over, error;
	struct wrap *w;
	struct dest *d;
	__u8 kind[2];
	int reason;

	if (!out || !q || !way)
		return UP_RELATED_UNKNOWN;
	w = &way->wrap;
	if (bpf_skb_load_bytes(skb, q->error.l4, kind, sizeof(kind)) || !is_error(q->error.tuple.family, kind[0]))
		return UP_RELATED_UNKNOWN;
	reason = tunnel_read(skb, &q->error);
	if (reason == RECEIVED)
		reason = quoted_read(skb, &q->error);
	if (reason != RECEIVED)
		return UP_RELATED_UNKNOWN;
	if (!tunnel_known(q, &q->error, w, now))
		return UP_RELATED_UNKNOWN;
	out->verdict = TC_ACT_SHOT;
	if (!error_sound(skb, &q->error))
		return DROPPED_WRONG_CHECKSUM;
	mtu = told_mtu(skb, &q->error, kind);
	error = 1 + ERROR_RELAYED;
	over = (__u32)kind[0] << 24 | (__u32)kind[1] << 16;
	if (mtu) {
		mtu_learn(&q->way.address, mtu, now);
		if (!q->packet.dont_fragment)
			return DROPPED_TUNNEL_ERROR;
		error = 1 + ERROR_TOO_BIG;
		over = w->head + w->extra;
		over = mtu > over + IPV4_TUNNEL_MIN ? mtu - over : mtu;
	}
	if (q->packet.tuple.family != q->error.tuple.family)
		return DROPPED_TUNNEL_ERROR;
	strip = q->ip - ETH_LEN;
	if (bpf_skb_adjust_room(skb, -(__s32)strip, BPF_ADJ_ROOM_MAC, 0))
		return DROPPED_REWRITE_FAILED;
	d = at(&dests, q->dest);
	if (d)
		count(d, q->dest, A_REPLY, q->packet.length);
	q->packet.l4 -= strip;	/* it is all that is left of the error */
	q->packet.uncounted = 1;
	out->error = error;
	out->mtu = over;
	return DROPPED_TUNNEL_ERROR;
}
