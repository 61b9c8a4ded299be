/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * ICMP errors about packets of connections: each goes to that side of its connection which sent what is quoted in it,
 * and speaks there of the addresses that this side knows (facts 6.10, 6.11).
 *
 *   parse -> read the quote -> find the quoted packet's connection, from either side -> translate -> forward
 *
 * What is quoted is a packet on its way from one side to the other, so the reversed quote is a key of the connection:
 * the client's if it was a reply that hit trouble, the real server's if it was a request.
 * An error changes no state and starts no timer anew.
 *
 * Where the stack forwards a connection's packets (conntrack), it forwards these, too, and to connection tracking they are
 * related: what they quote is what the stack has seen of the connection. complaint.h undoes on egress what it must not
 * have been.
 */
#pragma once

enum { ICMP_HEAD = 8, ICMP4_QUENCH = 4, ICMP6_INFORMATIONAL = 128 };

/* What an error quotes, and the connection that it is about. Not on the stack, of which there is little. */
struct quote {
	struct packet error;	/* the error itself */
	struct packet packet;	/* the packet to which it would be an answer: its tuple is the quoted one, reversed */
	struct tuple aside;	/* what leads to a connection whose real server expects the VIP (BACK_ASIDE) */
	struct found found;
	struct way way;
	__u32 ip;		/* offset of the quoted IP header */
	__u32 l4;		/* of the quoted transport header */
	__u32 dest;		/* number of the connection's real server */
	__u32 tunnel;		/* a tunnel leads there */
	__u32 flags;		/* enum conn_flag, of the connection */
};

MAP(quotes, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct quote, 1, 0);

static __always_inline int is_icmp(const struct packet *p)
{
	return p->tuple.protocol == (p->tuple.family == AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6);
}

/* Is an ICMP message of this type an error that connections care for? */
static __always_inline int is_error(__u8 family, __u8 type)
{
	if (family == AF_INET6)
		return type < ICMP6_INFORMATIONAL;
	return type == ICMP4_UNREACHABLE || type == ICMP4_QUENCH || type == ICMP4_EXCEEDED;
}

/* The IP packet at q->ip, of the family that q->packet has: whose it is, and as much of its length as is there, into
 * q->packet. RECEIVED: it may be a connection's. */
__noinline int quoted_read(struct __sk_buff *skb, const struct packet *p)
{
	struct quote *q = at(&quotes, 0);
	__u32 end, length, family;
	struct packet *quoted;
	int why;

	if (!p || !q)
		return UP_MALFORMED;
	quoted = &q->packet;
	end = p->length + ETH_LEN;
	family = quoted->tuple.family;
	__builtin_memset(quoted, 0, sizeof(*quoted));
	quoted->tuple.family = family;
	if (family == AF_INET) {
		struct iphdr ip;

		if (q->ip + IPV4_MIN > end || bpf_skb_load_bytes(skb, q->ip, &ip, IPV4_MIN))
			return UP_MALFORMED;
		if (ip.version != 4 || ip.ihl < 5)
			return UP_MALFORMED;
		if (ip.frag_off & bpf_htons(0x1fff))
			return UP_RELATED_UNKNOWN;
		length = bpf_ntohs(ip.tot_len);
		quoted->l4 = q->ip + ip.ihl * 4;
		quoted->tos = ip.tos;
		quoted->dont_fragment = !!(ip.frag_off & bpf_htons(0x4000));
		quoted->tuple.protocol = ip.protocol;
		quoted->tuple.src.word[0] = ip.saddr;
		quoted->tuple.dst.word[0] = ip.daddr;
		if (ip.protocol != IPPROTO_TCP && ip.protocol != IPPROTO_UDP && !rarer(ip.protocol))
			return UP_RELATED_UNKNOWN;
	} else {
		__u16 payload;

		if (q->ip + IPV6_LEN > end || bpf_skb_load_bytes(skb, q->ip + 4, &payload, 2) ||
		    bpf_skb_load_bytes(skb, q->ip + 6, &quoted->tuple.protocol, 1) ||
		    bpf_skb_load_bytes(skb, q->ip + 8, &quoted->tuple.src, 16) ||
		    bpf_skb_load_bytes(skb, q->ip + 24, &quoted->tuple.dst, 16))
			return UP_MALFORMED;
		length = IPV6_LEN + bpf_ntohs(payload);
		quoted->l4 = q->ip + IPV6_LEN;
		quoted->dont_fragment = 1;
		why = walk_ipv6(skb, quoted, end);
		if (why != RECEIVED)
			return why == UP_MALFORMED ? why : UP_RELATED_UNKNOWN;
	}
	quoted->length = end - q->ip < length ? end - q->ip : length;
	q->l4 = quoted->l4;
	if (quoted->tuple.protocol == IPPROTO_ESP || quoted->tuple.protocol == IPPROTO_AH) {
		quoted->kind = KIND_SEALED;
		quoted->tuple.protocol = IPPROTO_UDP;
		quoted->tuple.sport = quoted->tuple.dport = bpf_htons(500);
		return RECEIVED;
	}
	quoted->kind = quoted->tuple.protocol == IPPROTO_SCTP ? KIND_SCTP : KIND_PLAIN;
	if (q->l4 + 4 > end || bpf_skb_load_bytes(skb, q->l4, &quoted->tuple.sport, 2) ||
	    bpf_skb_load_bytes(skb, q->l4 + 2, &quoted->tuple.dport, 2))
		return UP_MALFORMED;
	return RECEIVED;
}

/* What the error quotes, reversed: the packet to which the quoted one would be an answer. */
__noinline int quote_read(struct __sk_buff *skb, const struct packet *p)
{
	struct quote *q = at(&quotes, 0);
	union address address;
	struct packet *quoted;
	__u16 port;
	__u8 type;
	int why;

	if (!p || !q)
		return UP_MALFORMED;
	if (p->l4 + ICMP_HEAD > p->length + ETH_LEN || bpf_skb_load_bytes(skb, p->l4, &type, 1))
		return UP_MALFORMED;
	if (!is_error(p->tuple.family, type))
		return UP_PROTOCOL;
	quoted = &q->packet;
	quoted->tuple.family = p->tuple.family;
	q->ip = p->l4 + ICMP_HEAD;
	why = quoted_read(skb, p);
	if (why != RECEIVED)
		return why;
	address = quoted->tuple.src;
	port = quoted->tuple.sport;
	quoted->tuple.src = quoted->tuple.dst;
	quoted->tuple.sport = quoted->tuple.dport;
	quoted->tuple.dst = address;
	quoted->tuple.dport = port;
	quoted->length = p->length;
	quoted->ttl = p->ttl;
	quoted->tos = p->tos;
	quoted->uncounted = p->uncounted;
	return RECEIVED;
}

/* Is the error's own checksum right? Only asked where it is going to be changed: a wrong one must not be made right. */
__noinline int error_sound(struct __sk_buff *skb, const struct packet *p)
{
	struct sum_over over = { .skb = skb };
	__u64 sum = 0;

	if (!p)
		return 0;
	over.at = p->l4;
	over.left = p->length + ETH_LEN - p->l4;
	if (p->tuple.family == AF_INET6) {
		sum = bpf_htonl(over.left) + (__u64)bpf_htonl(IPPROTO_ICMPV6);
#pragma unroll
		for (int i = 0; i < 4; i++)
			sum += (__u64)p->tuple.src.word[i] + p->tuple.dst.word[i];
	}
	over.sum = fold(sum);
	bpf_loop(65536 / SUM_CHUNK, sum_over_step, &over, 0);
	return !over.left && fold((__u32)over.sum) == 0xffff;
}

/* Another address and port in what is quoted, and the error's own address that goes with it: the destination of what goes
 * to a real server, whose packet is quoted as from the VIP; the source of what goes to a client. The quoted transport
 * checksum stays: it may not even be there. */
__noinline int quote_translate(struct __sk_buff *skb, struct packet *p, __u32 reply)
{
	struct quote *q = at(&quotes, 0);
	__u32 sum, inner, outer, ipv4;
	const union address *old_inner, *old_outer;
	__u16 old_port, port;
	__s64 diff;

	if (!p || !q)
		return 0;
	ipv4 = p->tuple.family == AF_INET;
	sum = p->l4 + 2;
	port = q->way.port;
	old_port = reply ? q->packet.tuple.sport : q->packet.tuple.dport;
	old_inner = reply ? &q->packet.tuple.src : &q->packet.tuple.dst;	/* which is the quoted destination or source */
	old_outer = reply ? &p->tuple.src : &p->tuple.dst;
	if (q->packet.kind != KIND_SEALED && port != old_port) {
		if (bpf_l4_csum_replace(skb, sum, old_port, port, 2) ||
		    bpf_skb_store_bytes(skb, q->l4 + (reply ? 2 : 0), &port, 2, 0))
			return 0;
	}
	if (ipv4) {
		inner = q->ip + (reply ? 16 : 12);
		outer = ETH_LEN + (reply ? 12 : 16);
		/* as the quoted header's sum changes along with its address, the error's does not change */
		return !bpf_l3_csum_replace(skb, q->ip + 10, old_inner->word[0], q->way.address.word[0], 4) &&
		       !bpf_skb_store_bytes(skb, inner, &q->way.address, 4, 0) &&
		       !bpf_l3_csum_replace(skb, ETH_LEN + 10, old_outer->word[0], q->way.address.word[0], 4) &&
		       !bpf_skb_store_bytes(skb, outer, &q->way.address, 4, 0);
	}
	inner = q->ip + (reply ? 24 : 8);
	outer = ETH_LEN + (reply ? 8 : 24);
	diff = bpf_csum_diff((__be32 *)old_inner, 16, (__be32 *)&q->way.address, 16, 0);
	if (bpf_l4_csum_replace(skb, sum, 0, diff, 0))
		return 0;
	diff = bpf_csum_diff((__be32 *)old_outer, 16, (__be32 *)&q->way.address, 16, 0);
	address_changed(skb, diff);
	return !bpf_l4_csum_replace(skb, sum, 0, diff, BPF_F_PSEUDO_HDR) &&
	       !bpf_skb_store_bytes(skb, inner, &q->way.address, 16, 0) &&
	       !bpf_skb_store_bytes(skb, outer, &q->way.address, 16, 0);
}

/* To the real server: what a client, or a router on the way to it, says about a reply. */
static __always_inline int related_request(struct __sk_buff *skb, struct packet *p, struct quote *q, struct outcome *out,
					   __u64 now)
{
	int reason;

	if ((q->way.nat || q->way.stays) && !quote_translate(skb, p, 0))
		return DROPPED_REWRITE_FAILED;
	if (q->way.stays == STAYS_HERE)
		return FORWARDED_LOCAL;
	q->way.nat = 0;		/* from here on it is routed like any other packet */
	if (q->tunnel)
		reason = q->way.stays ? tunnel_stays(skb, p, q->dest, out, now) : tunnel_request(skb, p, q->dest, out, now);
	else
		reason = forward_request(skb, p, &q->way, out, now);
	out->error = 0;		/* about an error there is none */
	return reason == FORWARDED_ROUTE || reason == FORWARDED_TUNNEL ? FORWARDED_RELATED : reason;
}

/* To the client: what a real server, or a router on the way to it, says about a request. */
__noinline int related_reply(struct __sk_buff *skb, struct packet *p, struct outcome *out, __u64 now)
{
	struct quote *q = at(&quotes, 0);
	struct bpf_fib_lookup fib;
	enum routed routed;
	union address caddr;
	int neighbour = 0;

	if (!p || !out || !q)
		return DROPPED_REWRITE_FAILED;
	if (q->flags & CONN_OWN) {	/* the client is the director: it comes home, as replies do */
		out->verdict = TC_ACT_SHOT;
		if (!quote_translate(skb, p, 1))
			return DROPPED_REWRITE_FAILED;
		q->way.nat = 0;
		q->way.stays = COMES_HOME;
		return stay(skb, p, &q->way, out, 1);
	}
	/* as of every reply: what the stack's own forwarding would refuse goes up as it came */
	if (p->ttl <= 1)
		return UP_REPLY_TTL;
	caddr = p->tuple.dst;
	routed = route(skb, &fib, p->tuple.family, &q->way.address, &caddr, p->length, now, &neighbour);
	if (routed == ROUTED_NOWHERE)
		return UP_REPLY_NOT_ROUTED;
	if (routed == ROUTED_TOO_BIG)
		return UP_REPLY_TOO_BIG;
	out->verdict = TC_ACT_SHOT;
	if (!quote_translate(skb, p, 1) || !decrement_ttl(skb, p->tuple.family))
		return DROPPED_REWRITE_FAILED;
	out->verdict = transmit(skb, &fib, neighbour);
	return FORWARDED_RELATED;
}

/* schedule_icmp: a connection for what no connection knows, as if the quoted packet had an opening one. */
__noinline int related_schedule(struct __sk_buff *skb, struct outcome *out, __u64 now)
{
	const struct sysctls *sys = at(&sysctls, 0);
	struct birth *birth = at(&births, 0);
	struct quote *q = at(&quotes, 0);
	int reason;

	if (!out || !sys || !birth || !q)
		return UP_RELATED_UNKNOWN;
	if (!sys->schedule_icmp)
		return UP_RELATED_UNKNOWN;
	birth->once = birth->speaker = 0;
	if (q->packet.tuple.protocol == IPPROTO_TCP)
		q->packet.tcp_flags = TCP_SYN;
	else if (q->packet.kind == KIND_SCTP)
		q->packet.sctp_event = 1 + SCTP_E_INIT;
	birth->quoted = 1;
	reason = connect(skb, &q->packet, birth, NULL, &q->found, out, now);
	birth->quoted = 0;
	out->error = 0;
	if (reason == UP_NO_SERVICE)
		reason = UP_RELATED_UNKNOWN;
	if (reason == RECEIVED && birth->once) {	/* it ends with this packet */
		q->way.address = birth->daddr;
		q->way.port = birth->dport;
		q->way.nat = (birth->flags & CONN_METHOD) == METHOD_MASQ;
		q->tunnel = (birth->flags & CONN_METHOD) == METHOD_TUNNEL;
		if (q->way.nat && birth->manner == CONN_STACK)
			q->way.stays = STAYS_ROUTED;
		q->dest = birth->dest;
	} else if (reason == DROPPED_NO_DESTINATION) {
		out->verdict = TC_ACT_SHOT;
	}
	return reason;
}

/* Whose error is it? RECEIVED: that of the connection in `quotes`, if it is one's; found.life 0: of none. */
__noinline int related_find(struct __sk_buff *skb, __u64 now)
{
	const struct config *cfg = at(&config, 0);
	struct quote *q = at(&quotes, 0);
	struct packet *p;
	int reason;

	if (!cfg || !q)
		return UP_PROTOCOL;
	p = &q->error;
	__builtin_memset(p, 0, sizeof(*p));
	reason = parse(skb, p);
	if (reason != UP_PROTOCOL)
		return reason == RECEIVED ? UP_PROTOCOL : reason;
	if (!(cfg->families & (p->tuple.family == AF_INET ? SERVES_IPV4 : SERVES_IPV6)))
		return UP_NO_SERVICE;
	p->uncounted = cfg->mark_device ^ skb->ingress_ifindex;
	q->way.nat = q->way.stays = q->flags = 0;
	reason = quote_read(skb, p);
	if (reason != RECEIVED)
		return reason;
	if (conn_find(&q->packet.tuple, now, &q->found))
		return RECEIVED;
	if (TWO_TABLES && q->found.again)
		return UP_JUST_ENDED;
	if (may_be_plain_reply(&q->packet.tuple))
		q->found.from_server = find_plain_reply(&q->packet, &q->found, now) & 1;
	return RECEIVED;
}

/* What the connection in `quotes` says about the way of its error. */
static __always_inline int related_directions(struct __sk_buff *skb, struct quote *q)
{
	struct conn *c = conn_at(q->found.number);
	struct dest *d;
	__u32 dest;

	if (!c || !conn_same(c, &q->found))
		return UP_JUST_ENDED;
	dest = c->dest;
	d = at(&dests, dest);
	if (!d && conn_method(c) != METHOD_BYPASS)
		return UP_JUST_ENDED;
	q->way.nat = conn_method(c) == METHOD_MASQ;
	q->tunnel = conn_method(c) == METHOD_TUNNEL;
	q->way.address = d ? d->address : q->error.tuple.dst;
	q->way.port = c->dport;
	q->dest = dest;
	q->flags = c->status >> 8;
	if (!q->found.from_server && d && d->flags & DEST_LOCAL) {
		if (!q->way.nat)
			return UP_LOCAL_REAL_SERVER;
		q->way.stays = STAYS_HERE;
		return RECEIVED;
	}
	if (!q->found.from_server) {
		if ((q->flags & CONN_STACK) && skb->ingress_ifindex != LO_IFINDEX) {
			q->way.stays = STAYS_ROUTED;
			if (d)
				stack_address(d, dest, q->error.tuple.family, &q->way.address);
		}
		if (!q->way.nat)	/* its VIP is put back on its way out */
			q->way.port = q->packet.tuple.dport;
		return RECEIVED;
	}
	conn_vaddr(c, &q->way.address);
	q->way.port = c->vport;
	return q->way.nat ? RECEIVED : UP_REPLY_UNCHANGED;
}

/* The error goes its way. */
__noinline int related_forward(struct __sk_buff *skb, struct outcome *out, __u64 now)
{
	struct quote *q = at(&quotes, 0);
	int reason = RECEIVED;
	struct conn *c;
	struct dest *d;

	if (!out || !q)
		return UP_JUST_ENDED;
	if (q->found.life)
		reason = related_directions(skb, q);
	if (reason == UP_JUST_ENDED)
		return reason;
	if (q->way.nat && !error_sound(skb, &q->error)) {
		out->verdict = TC_ACT_SHOT;
		return DROPPED_WRONG_CHECKSUM;
	}
	if (q->found.from_server && q->way.nat && (q->flags & CONN_STACK))
		return UP_REPLY_FOR_STACK;	/* translated and counted as it leaves */
	d = at(&dests, q->dest);
	if (d)
		count(d, q->dest, q->found.from_server ? A_REPLY : A_REQUEST, q->error.length);
	if (reason != RECEIVED)
		return reason;
	if (q->found.from_server)
		return related_reply(skb, &q->error, out, now);
	c = conn_at(q->found.number);
	if (c && q->found.life && !q->way.nat)
		c->packets++;
	return related_request(skb, &q->error, q, out, now);
}

#include "tunnelled.h"

static __always_inline int related_way(struct __sk_buff *skb, struct outcome *out)
{
	const struct config *cfg = at(&config, 0);
	struct quote *q = at(&quotes, 0);
	int reason;
	__u64 now;

	if (!cfg || !q)
		return UP_PROTOCOL;
	now = now_ns(cfg);
	reason = related_find(skb, now);
	/* the two packets of a tunnel need not be of one family */
	if (reason == UP_RELATED_UNKNOWN || reason == UP_NO_SERVICE || (reason == RECEIVED && !q->found.life)) {
		int own = tunnel_error(skb, out, now);

		if (own != UP_RELATED_UNKNOWN)
			return own;
		if (reason == RECEIVED)	/* its quote was written over */
			reason = related_find(skb, now);
	}
	if (reason == RECEIVED && !q->found.life)
		reason = related_schedule(skb, out, now);
	return reason == RECEIVED ? related_forward(skb, out, now) : reason;
}

SEC("tc")
int related(struct __sk_buff *skb)
{
	struct outcome out = { .verdict = TC_ACT_UNSPEC };
	int reason = UP_JUST_ENDED;
	struct quote *q;

#pragma clang loop unroll(disable)
	for (int i = 0; i < (TWO_TABLES ? 2 : 1) && reason == UP_JUST_ENDED; i++)
		reason = related_way(skb, &out);
	q = at(&quotes, 0);
	if (q && out.error)
		out.verdict = icmp_answer(skb, &q->packet, out.error - 1, out.mtu);
	else if (q && out.mtu)
		reason = in_pieces(skb, &q->error, &out, reason);
	note(reason);
	return out.verdict;
}
