/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * From a packet and its connection to a verdict: route, TTL, MTU in the kernel's order (facts 6.8), then the
 * forwarding method.
 */
#pragma once

/* The kernel's neighbour code sends a connection's first packet and then one in 64. The packet at hand is counted
 * already; replies go by the requests' number. */
#define ASK_MASK 63

static __always_inline int ask_neighbour(const struct conn *c)
{
	return (c->packets & ASK_MASK) == 1;
}

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

/* A request to its real server. */
static __always_inline int forward_request(struct __sk_buff *skb, struct packet *p, struct conn *c,
					   const struct dest *d, __u64 now, int *verdict)
{
	int nat = conn_method(c) == METHOD_MASQ, ask = ask_neighbour(c);
	__u8 family = p->tuple.family;
	struct bpf_fib_lookup fib;
	union address daddr = c->daddr, any = {};
	enum routed routed;

	if (d->flags & DEST_LOCAL)
		return UP_LOCAL_REAL_SERVER;
	*verdict = TC_ACT_SHOT;
	routed = route(skb, &fib, family, &any, &daddr, wire_length(skb, p), ask, now);
	if (routed == ROUTED_NOWHERE) {
		*verdict = icmp_answer(skb, p, ERROR_HOST, 0, now);
		return DROPPED_NO_ROUTE;
	}
	if (p->ttl <= 1) {
		*verdict = icmp_answer(skb, p, ERROR_TTL, 0, now);
		return DROPPED_TTL_EXCEEDED;
	}
	if (routed == ROUTED_TOO_BIG) {
		if (!p->dont_fragment)
			return DROPPED_NEEDS_FRAGMENTS;
		/* what is quoted has been counted as a hop already */
		if (decrement_ttl(skb, family))
			*verdict = icmp_answer(skb, p, ERROR_TOO_BIG, fib.mtu_result, now);
		return DROPPED_TOO_BIG;
	}
	if (nat ? !nat_rewrite(skb, p, &daddr, c->dport, 0) : !decrement_ttl(skb, family))
		return DROPPED_REWRITE_FAILED;
	*verdict = transmit(skb, &fib, ask || routed == ROUTED_UNRESOLVED);
	return nat ? FORWARDED_NAT_REQUEST : FORWARDED_ROUTE;
}

/* A real server's answer to its client. What the stack's own forwarding would refuse goes up as it came, so that the
 * stack says why to the real server. */
static __always_inline int forward_reply(struct __sk_buff *skb, struct packet *p, struct conn *c, __u64 now,
					 int *verdict)
{
	int ask = ask_neighbour(c);
	union address vaddr = c->vaddr, caddr = c->caddr;
	struct bpf_fib_lookup fib;
	enum routed routed;

	if (p->ttl <= 1)
		return UP_REPLY_TTL;
	if (conn_method(c) != METHOD_MASQ)
		return UP_REPLY_UNCHANGED;
	routed = route(skb, &fib, p->tuple.family, &vaddr, &caddr, wire_length(skb, p), ask, now);
	if (routed == ROUTED_NOWHERE)
		return UP_REPLY_NOT_ROUTED;
	if (routed == ROUTED_TOO_BIG && p->dont_fragment)
		return UP_REPLY_TOO_BIG;
	*verdict = TC_ACT_SHOT;
	if (routed == ROUTED_TOO_BIG)
		return DROPPED_NEEDS_FRAGMENTS;
	if (!nat_rewrite(skb, p, &vaddr, c->vport, 1))
		return DROPPED_REWRITE_FAILED;
	*verdict = transmit(skb, &fib, ask || routed == ROUTED_UNRESOLVED);
	return FORWARDED_NAT_REPLY;
}
