/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * From bytes to a struct packet: Ethernet, IPv4 with options, IPv6 with extension headers, TCP and UDP; and, in a function
 * of their own beside the main road, SCTP, AH and ESP.
 * Nothing is believed that was not checked against the packet's end.
 */
#pragma once

#define MAC_LEN 14
/* Where a packet's IP header begins when it comes in. The programs are built twice: for interfaces with Ethernet frames,
 * and for those without any link-layer header, like tun and WireGuard (LINKLESS). */
#ifdef LINKLESS
#define ETH_LEN 0
#else
#define ETH_LEN MAC_LEN
#endif
#define IPV4_MIN 20
#define IPV6_LEN 40
#define TCP_MIN 20
#define UDP_LEN 8
#define SCTP_LEN 12		/* the common header */
#define HEADROOM_MAX (ETH_LEN + 60 + TCP_MIN)	/* the longest headers that are looked at in one piece */
#define EXTENSIONS_MAX 8
#define VLAN_ID 0x0fff
/* gso_size of merged SCTP packets. Their first piece is the headers, and the others are packets' chunks: it must stay so,
 * nothing may be pulled together. */
#define GSO_BY_FRAGS 0xffff
#define L4_MAX 1024		/* no transport header is looked for beyond */

enum { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_ACK = 16 };

/* Whose packet it is. */
enum packet_kind {
	KIND_PLAIN,		/* TCP's or UDP's */
	KIND_SCTP,
	KIND_SEALED,		/* AH's or ESP's: the ports are not to be seen, it goes with the UDP connection 500 -> 500
				 * (facts 2.2), and its tuple is that */
	KIND_PIECE,		/* a fragment without the ports (fragment.h) */
};

/* Which part of a datagram. */
enum packet_piece {
	PIECE_ALL,
	PIECE_FIRST,		/* the first fragment, which has the ports: 1 as the bit "more fragments" is */
	PIECE_KNOWN,		/* the same, and its datagram is known by now (fragment.h) */
	PIECE_LATER,		/* another one */
	PIECE_CALLS,		/* the first one, for which others wait */
};

struct packet {
	struct tuple tuple;
	__u32 length;		/* from the IP header on */
	__u32 uncounted;	/* 0: the stack has routed it to us, and has taken its hop off the TTL */
	__u16 l4;		/* offset of the transport header from the frame's start */
	union {
		__u8 tcp_flags;
		__u8 sctp_event;	/* sctp.h */
	};
	__u8 ttl;
	__u8 tos;
	__u8 dont_fragment;
	__u8 truncated;		/* ports are there, the rest of the transport header is not */
	__u8 kind;		/* enum packet_kind */
	__u8 fragment;		/* enum packet_piece */
};

/* Beside TCP and UDP, what may belong to a connection. */
static __always_inline int rarer(__u8 protocol)
{
	return protocol == IPPROTO_SCTP || protocol == IPPROTO_ESP || protocol == IPPROTO_AH;
}

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* The sum over the IPv4 header, options included, is all ones if it arrived whole. */
static __always_inline int ipv4_header_sound(const struct iphdr *ip, const void *end)
{
	const __u32 *word = (const void *)ip;
	__u64 sum = (__u64)word[0] + word[1] + word[2] + word[3] + word[4];

	if (ip->ihl > 5) {
#pragma unroll
		for (int i = 5; i < 15; i++) {
			if (i >= ip->ihl)
				break;
			if ((const void *)(word + i + 1) > end)
				return 0;
			sum += word[i];
		}
	}
	return fold(sum) == 0xffff;
}

static __always_inline int parse_ipv4(struct __sk_buff *skb, struct packet *p)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + ETH_LEN;
	__u32 total;

	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return UP_MALFORMED;
	if (!ipv4_header_sound(ip, end))
		return UP_MALFORMED;
	total = bpf_ntohs(ip->tot_len);
	p->l4 = ETH_LEN + ip->ihl * 4;
	if (skb->gso_size)	/* a merged packet may be longer than the field can say */
		total = skb->len - ETH_LEN;
	if (total + ETH_LEN > skb->len || total + ETH_LEN < p->l4)
		return UP_MALFORMED;
	p->length = total;
	p->tuple.family = AF_INET;
	p->tuple.protocol = ip->protocol;
	p->tuple.src.word[0] = ip->saddr;
	p->tuple.dst.word[0] = ip->daddr;
	p->ttl = ip->ttl;
	p->tos = ip->tos;
	p->dont_fragment = !!(ip->frag_off & bpf_htons(0x4000));
	p->fragment = bpf_ntohs(ip->frag_off) >> 13 & PIECE_FIRST;
	if (ip->frag_off & bpf_htons(0x1fff))
		p->fragment = PIECE_LATER;
	if (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP && !rarer(ip->protocol))
		return UP_PROTOCOL;
	return p->fragment == PIECE_LATER ? UP_FRAGMENT : RECEIVED;
}

/* Past the extension headers of an IPv6 packet that ends at `end`: from p->l4, where a header of the kind
 * p->tuple.protocol begins, to the transport header, as both say then. RECEIVED: it is one that may belong to a connection.
 * UP_FRAGMENT: a fragment without one; the protocol is what the datagram begins with then.
 * A function of its own: most packets have none of this. */
__noinline int walk_ipv6(struct __sk_buff *skb, struct packet *p, __u32 end)
{
	__u32 at;
	__u8 next;

	if (!p)
		return UP_MALFORMED;
	at = p->l4;
	next = p->tuple.protocol;
#pragma clang loop unroll(disable)
	for (int i = 0; i < EXTENSIONS_MAX; i++) {
		__u8 header[4];

		p->l4 = at;
		p->tuple.protocol = next;
		if (at > L4_MAX)
			return UP_MALFORMED;
		if (next == IPPROTO_TCP || next == IPPROTO_UDP || next == IPPROTO_SCTP || next == IPPROTO_ESP)
			return RECEIVED;
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS && next != IPPROTO_AH &&
		    next != IPPROTO_FRAGMENT)
			return UP_PROTOCOL;
		if (at + 8 > end || bpf_skb_load_bytes(skb, at, header, sizeof(header)))
			return UP_MALFORMED;
		if (next == IPPROTO_FRAGMENT) {
			if (header[2] | (header[3] & 0xf8)) {
				p->tuple.protocol = header[0];
				p->fragment = PIECE_LATER;
				return UP_FRAGMENT;
			}
			p->fragment = header[3] & PIECE_FIRST;	/* else it is a fragment in name only */
			header[1] = 0;
		}
		/* over IPv6, AH is an extension header like the others: what is behind it counts */
		at += next == IPPROTO_AH ? (header[1] + 2) * 4 : (header[1] + 1) * 8;
		next = header[0];
	}
	return UP_MALFORMED;
}

static __always_inline int parse_ipv6(struct __sk_buff *skb, struct packet *p)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ipv6hdr *ip = data + ETH_LEN;
	if ((void *)(ip + 1) > end || ip->version != 6)
		return UP_MALFORMED;
	p->length = IPV6_LEN + bpf_ntohs(ip->payload_len);
	if (skb->gso_size)
		p->length = skb->len - ETH_LEN;
	if (p->length + ETH_LEN > skb->len)
		return UP_MALFORMED;
	p->tuple.family = AF_INET6;
	__builtin_memcpy(&p->tuple.src, &ip->saddr, 16);
	__builtin_memcpy(&p->tuple.dst, &ip->daddr, 16);
	p->ttl = ip->hop_limit;
	p->tos = (bpf_ntohs(*(__u16 *)ip) >> 4) & 0xff;
	p->dont_fragment = 1;
	p->tuple.protocol = ip->nexthdr;
	p->l4 = ETH_LEN + IPV6_LEN;
	if (ip->nexthdr == IPPROTO_TCP || ip->nexthdr == IPPROTO_UDP)
		return RECEIVED;
	return walk_ipv6(skb, p, p->length + ETH_LEN);
}

/* The ports and TCP flags. UP_MALFORMED: not even the ports are there. */
static __always_inline int parse_transport(struct __sk_buff *skb, struct packet *p)
{
	__u32 left = p->length + ETH_LEN - p->l4, want = p->tuple.protocol == IPPROTO_TCP ? TCP_MIN : UDP_LEN;
	void *data, *end;
	__u16 *port;
	__u32 l4 = p->l4;

	if (p->length + ETH_LEN < l4 + 4)
		return UP_MALFORMED;
	p->truncated = left < want;
	l4 &= 0xfff;
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	port = data + l4;
	if ((void *)port + UDP_LEN > end || (want == TCP_MIN && (void *)port + TCP_MIN > end)) {
		/* short, or its headers lie in more than one piece */
		if (bpf_skb_pull_data(skb, left < want ? l4 + 4 : l4 + want))
			return UP_MALFORMED;
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
		port = data + l4;
		if ((void *)(port + 2) > end)
			return UP_MALFORMED;
	}
	p->tuple.sport = port[0];
	p->tuple.dport = port[1];
	if (p->tuple.protocol == IPPROTO_TCP && !p->truncated) {
		if ((void *)port + TCP_MIN > end)
			return UP_MALFORMED;
		p->tcp_flags = ((__u8 *)port)[13];
	}
	return RECEIVED;
}

#include "sctp.h"

/* What is neither TCP nor UDP. UP_MALFORMED: not even the ports are there. */
__noinline int parse_rarer(struct __sk_buff *skb, struct packet *p)
{
	__u32 end, left;
	__u16 ports[2];

	if (!p)
		return UP_MALFORMED;
	end = p->length + ETH_LEN;
	if (end < p->l4)
		return UP_MALFORMED;
	left = end - p->l4;
	if (p->tuple.protocol != IPPROTO_SCTP) {
		p->kind = KIND_SEALED;
		p->tuple.protocol = IPPROTO_UDP;
		p->tuple.sport = p->tuple.dport = bpf_htons(500);
		return RECEIVED;
	}
	if (left < sizeof(ports) || bpf_skb_load_bytes(skb, p->l4, ports, sizeof(ports)))
		return UP_MALFORMED;
	p->kind = KIND_SCTP;
	p->tuple.sport = ports[0];
	p->tuple.dport = ports[1];
	p->truncated = left < SCTP_LEN;
	if (!p->truncated)
		p->sctp_event = sctp_event(skb, p->l4 + SCTP_LEN, end);
	return RECEIVED;
}

/* RECEIVED if the packet is one that could be ours, else why it is handed up.
 * A function of its own for the verifier too: what follows need not be proven again for every way through here. */
static __always_inline int parse(struct __sk_buff *skb, struct packet *p)
{
	void *data, *end;
	int why;

	if (!p)
		return UP_MALFORMED;
	if (skb->protocol != bpf_htons(ETH_P_IP) && skb->protocol != bpf_htons(ETH_P_IPV6))
		return UP_NOT_IP;
	if (skb->pkt_type != PACKET_HOST)
		return UP_OTHER_HOST;
	if (skb->vlan_present) {
		if (skb->vlan_tci & VLAN_ID)	/* it comes again, untagged, on the VLAN's own interface */
			return UP_VLAN;
		if (bpf_skb_vlan_pop(skb))	/* a priority and nothing else: it is not to go on with the packet */
			return UP_MALFORMED;
	}
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (data + ETH_LEN + IPV6_LEN > end && skb->gso_size != GSO_BY_FRAGS) {
		/* a short packet, or one whose headers are not in the first piece */
		if (bpf_skb_pull_data(skb, skb->len < HEADROOM_MAX ? skb->len : HEADROOM_MAX))
			return UP_MALFORMED;
	}
	why = skb->protocol == bpf_htons(ETH_P_IP) ? parse_ipv4(skb, p) : parse_ipv6(skb, p);
	if (why != RECEIVED)
		return why;
	if (p->tuple.protocol != IPPROTO_TCP && p->tuple.protocol != IPPROTO_UDP)
		return parse_rarer(skb, p);
	return parse_transport(skb, p);
}
