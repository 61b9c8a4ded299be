/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * From a packet and its connection to a verdict: route, TTL, MTU in the kernel's order (facts 6.8), then the
 * forwarding method.
 */
#pragma once

/* What a connection says about the way of a packet. */
struct way {
	union address address;	/* of a request: the real server's; of a reply: its new source */
	__u16 port;		/* the new one under LVS-NAT */
	__u8 nat;
	__u8 stays;		/* enum stay */
};

/* What becomes of a packet that is not sent from here. */
enum stay {
	STAYS_NOT,
	STAYS_HERE,		/* the real server is the director, or the packet is on its way out of it: the stack's */
	STAYS_ROUTED,		/* the stack is to route and filter it */
	COMES_HOME,		/* the client is the director */
};

/* What icmp.h can answer. */
enum error {
	ERROR_PORT,
	ERROR_HOST,
	ERROR_TTL,
	ERROR_TOO_BIG,
	ERROR_ORPHAN,		/* as ERROR_PORT, from the director's own address */
	ERROR_RELAYED,		/* somebody else's: its type and code are the upper bytes of outcome.mtu */
};

/* What is to become of a packet beside its reason. */
struct outcome {
	int verdict;
	__u32 error;		/* 1 + enum error: the ICMP message to answer with; the verdict is that answer's then */
	__u32 mtu;		/* what is told there; without an error: the packet is to go in pieces that fit this (cut.h) */
};

/* Sources that the stack would never accept; only asked for new connections. */
static __always_inline int martian(struct __sk_buff *skb, const struct packet *p)
{
	__u32 src = bpf_ntohl(p->tuple.src.word[0]);

	if (p->tuple.family == AF_INET6)
		return (src >> 24) == 0xff || (!p->tuple.src.word[0] && !p->tuple.src.word[1] && !p->tuple.src.word[2] &&
					       bpf_ntohl(p->tuple.src.word[3]) <= 1 &&
					       skb->ingress_ifindex != LO_IFINDEX);
	return (src >> 24) == 0 || (src >> 28) >= 0xe || ((src >> 24) == 127 && skb->ingress_ifindex != LO_IFINDEX);
}

/* What is not sent from here is the stack's, translated; its hop is not counted here. What comes home to a client on the
 * director has the VIP as its source, which IPv4 takes for an address of its own that nobody else may use, unless it
 * comes by lo; and this packet path sees it there again. */
__noinline int stay(struct __sk_buff *skb, struct packet *p, const struct way *way, struct outcome *out, __u32 reply)
{
	if (!p || !way || !out)
		return DROPPED_REWRITE_FAILED;
	out->verdict = TC_ACT_SHOT;
	if (way->nat && !nat_rewrite(skb, p, &way->address, way->port, REWRITE_STAYS | !!reply))
		return DROPPED_REWRITE_FAILED;
	out->verdict = TC_ACT_UNSPEC;
	if (way->stays != COMES_HOME)
		return way->stays == STAYS_ROUTED ? FORWARDED_BY_STACK : FORWARDED_LOCAL;
	if (skb->ingress_ifindex == LO_IFINDEX || p->tuple.family != AF_INET)
		return FORWARDED_LOCAL;
	out->verdict = to_lo(skb);
	return FORWARDED_LOCAL;
}

/* A packet of this length (or its segments) does not fit out->mtu: shorten its segments, after which all is well and
 * out->mtu is 0, or it is to be cut. 0: neither can be. */
static __always_inline int cut_prepare(struct __sk_buff *skb, const struct packet *p, struct outcome *out, __u32 length)
{
	__u32 mtu = out->mtu;

	if (!skb->gso_size)
		return 1;
	out->mtu = 0;
	return cut_segments(skb, p, length - mtu);
}

/* A request to its real server. */
__noinline int forward_request(struct __sk_buff *skb, struct packet *p, const struct way *way, struct outcome *out,
			       __u64 now)
{
	union address any = {};
	struct bpf_fib_lookup fib;
	enum routed routed;
	struct path *path;
	int neighbour = 0;
	__u32 length;

	if (!p || !way || !out)
		return DROPPED_REWRITE_FAILED;
	out->verdict = TC_ACT_SHOT;
	if (!p->uncounted)
		uncount_hop(skb, p);
	length = wire_length(skb, p);
	path = path_known(p->tuple.family, &any, &way->address, now);
	if (!path || p->ttl <= 1 || length > path->mtu) {
		path = NULL;
		routed = route(skb, &fib, p->tuple.family, &any, &way->address, length, now, &neighbour);
		if (routed == ROUTED_NOWHERE) {
			out->error = 1 + ERROR_HOST;
			return DROPPED_NO_ROUTE;
		}
		if (p->ttl <= 1) {
			out->error = 1 + ERROR_TTL;
			return DROPPED_TTL_EXCEEDED;
		}
		if (routed == ROUTED_TOO_BIG) {
			out->mtu = fib.mtu_result;
			if (p->dont_fragment) {
				/* what is quoted has been counted as a hop already */
				if (decrement_ttl(skb, p->tuple.family))
					out->error = 1 + ERROR_TOO_BIG;
				return DROPPED_TOO_BIG;
			}
			if (!cut_prepare(skb, p, out, length))
				return DROPPED_NEEDS_FRAGMENTS;
			routed = route_ask(skb, &fib, p->tuple.family, &any, &way->address, 0);
			neighbour = routed != ROUTED;
		}
	}
	if (way->stays) {
		out->verdict = TC_ACT_UNSPEC;
		out->mtu = 0;	/* the stack cuts what must be cut */
		return FORWARDED_BY_STACK;	/* whoever called does the rest */
	}
	if (way->nat ? !nat_rewrite(skb, p, &way->address, way->port, 0) : !decrement_ttl(skb, p->tuple.family))
		return DROPPED_REWRITE_FAILED;
	if (path)
		out->verdict = transmit_to(skb, path->ifindex, &path->hop);
	else
		out->verdict = transmit(skb, &fib, neighbour);
	if (out->mtu)
		cut_later(&fib, neighbour, 0);
	return way->nat ? FORWARDED_NAT_REQUEST : FORWARDED_ROUTE;
}

static __always_inline int reroutes(void)
{
	const struct sysctls *sys = at(&sysctls, 0);

	return sys && sys->snat_reroute;
}

/* The way of a reply: as the VIP's (snat_reroute), or as that of any packet that came so and is forwarded, of which nothing
 * is remembered (facts 6.5). */
static __always_inline enum routed route_reply(struct __sk_buff *skb, struct bpf_fib_lookup *fib, const struct packet *p,
					       const union address *vaddr, const union address *caddr, __u32 length,
					       __u64 now, int *neighbour)
{
	enum routed routed;

	if (reroutes())
		return route(skb, fib, p->tuple.family, vaddr, caddr, length, now, neighbour);
	routed = route_forwarded(skb, fib, p, length);
	*neighbour = routed == ROUTED_UNRESOLVED || (bpf_get_prandom_u32() & NEIGHBOUR_MASK) == 0;
	return routed;
}

/* A real server's answer to its client. What the stack's own forwarding would refuse goes up as it came, so that the
 * stack says why to the real server. */
__noinline int forward_reply(struct __sk_buff *skb, struct packet *p, const struct way *way, struct outcome *out,
			     __u64 now)
{
	struct bpf_fib_lookup fib;
	enum routed routed;
	union address caddr;
	struct path *path;
	int neighbour = 0;
	__u32 length;

	if (!p || !way || !out)
		return DROPPED_REWRITE_FAILED;
	if (p->ttl <= 1)
		return UP_REPLY_TTL;
	if (!way->nat)
		return UP_REPLY_UNCHANGED;
	caddr = p->tuple.dst;
	length = wire_length(skb, p);
	path = path_known(p->tuple.family, &way->address, &caddr, now);
	if (!path || length > path->mtu) {
		path = NULL;
		routed = route_reply(skb, &fib, p, &way->address, &caddr, length, now, &neighbour);
		if (routed == ROUTED_NOWHERE)
			return UP_REPLY_NOT_ROUTED;
		if (routed == ROUTED_TOO_BIG && p->dont_fragment)
			return UP_REPLY_TOO_BIG;
		if (routed == ROUTED_TOO_BIG) {
			out->verdict = TC_ACT_SHOT;
			out->mtu = fib.mtu_result;
			if (!cut_prepare(skb, p, out, length))
				return DROPPED_NEEDS_FRAGMENTS;
			routed = reroutes() ? route_ask(skb, &fib, p->tuple.family, &way->address, &caddr, 0) :
					      route_forwarded(skb, &fib, p, 0);
			neighbour = routed != ROUTED;
		}
	}
	out->verdict = TC_ACT_SHOT;
	if (!nat_rewrite(skb, p, &way->address, way->port, 1))
		return DROPPED_REWRITE_FAILED;
	if (path)
		out->verdict = transmit_to(skb, path->ifindex, &path->hop);
	else
		out->verdict = transmit(skb, &fib, neighbour);
	if (out->mtu)
		cut_later(&fib, neighbour, 0);
	return FORWARDED_NAT_REPLY;
}

/* What was forwarded but has to go in pieces does so now. Returns what became of it. */
static __always_inline int in_pieces(struct __sk_buff *skb, const struct packet *p, struct outcome *out, int reason)
{
	if (reason > FORWARDED_RELATED)
		return reason;
	out->verdict = cut_up(skb, p, out->mtu);
	if (out->verdict >= 0)
		return reason;
	out->verdict = TC_ACT_SHOT;
	return DROPPED_NEEDS_FRAGMENTS;
}
