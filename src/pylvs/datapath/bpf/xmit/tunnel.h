/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * LVS-TUN: a request travels in another IP packet from the director to the real server, by itself (ipip), or behind the
 * headers of GRE, or of UDP and GUE (wrap.h). The families of the two packets are independent of each other.
 *
 * Where a tunnel begins, routing says: its choice for this destination. Kernels before Linux 6.7 do not tell a program;
 * there it is what was learned for this real server, as long as its packets leave by the same interface, and else the
 * first address of the interface.
 */
#pragma once

enum {
	IPV4_TUNNEL_MIN = 68,	/* no packet may need to be shorter than this to get through */
	IPV6_TUNNEL_MIN = 1280,
	FIB_SOURCE = 1 << 4,	/* BPF_FIB_LOOKUP_SRC, which older headers do not have */
	MTU_ANY = 0xffff,
};

#define EINVAL 22

/* What was asked for the packet at hand. Not on the stack: there is too little. */
struct tunnel_way {
	struct wrap wrap;
	union address source;
	__u32 addresses;	/* the sum of this one and the real server's */
	__u32 mtu;
	__u32 unresolved;	/* the next hop's link-layer address has still to be asked for */
	struct bpf_fib_lookup fib;
};

MAP(tunnel_ways, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct tunnel_way, 1, 0);

/* Where a tunnel to a real server begins, for kernels that do not say it. */
static __always_inline void source_learned(const struct dest *d, __u32 ifindex, union address *source)
{
	struct own_address key = { .ifindex = ifindex };
	union address *known;

	if (d->source_ifindex == ifindex) {
		*source = d->source;
		return;
	}
	if (d->family == AF_INET)
		key.address.word[2] = bpf_htonl(0xffff);
	known = bpf_map_lookup_elem(&own_addresses, &key);
	if (!known) {
		key.ifindex = 0;
		known = bpf_map_lookup_elem(&own_addresses, &key);
	}
	if (known)
		*source = *known;
	else
		*source = d->source;	/* better than none */
}

/* What the real server's tunnel is like. */
static __always_inline void tunnel_shape(struct wrap *w, const struct dest *d)
{
	__u32 type;

	w->tunnel = *(volatile const __u32 *)&d->tunnel;
	w->ipv6 = d->family == AF_INET6;
	type = w->tunnel & TUNNEL_TYPE;
	w->head = w->ipv6 ? IPV6_LEN : IPV4_MIN;
	w->extra = type == TUNNEL_GUE ? UDP_LEN + GUE_LEN :
		   type != TUNNEL_GRE ? 0 :
		   w->tunnel & (TUNNEL_CSUM | TUNNEL_REMCSUM) ? GRE_SUMMED_LEN : GRE_LEN;
}

/* IPV4_DF, if the outer packet is to have it as the client's has. */
static __always_inline __u32 tunnel_unbroken(const struct packet *p)
{
	const struct sysctls *sys;

	if (p->dont_fragment && p->tuple.family == AF_INET) {
		sys = at(&sysctls, 0);
		return sys && sys->pmtu_disc ? IPV4_DF : 0;
	}
	return 0;
}

/* All that the packet's tunnel is like. */
static __always_inline void tunnel_describe(struct wrap *w, const struct packet *p, const struct dest *d)
{
	tunnel_shape(w, d);
	w->dont_fragment = tunnel_unbroken(p);
}

static __always_inline int tunnel_narrow(const struct wrap *w, __u32 mtu)
{
	__s32 room = mtu - w->head - w->extra;

	return room < (w->ipv6 ? IPV6_TUNNEL_MIN : IPV4_TUNNEL_MIN);
}

#include "swift.h"

/* The way to a real server: its MTU and the tunnel's source, into `tunnel_ways`, and the next hop. 0: there is none.
 * Asked twice: a kernel that is asked whether too long a packet fits says the MTU, and nothing else. */
__noinline int tunnel_route(struct __sk_buff *skb, __u32 dest, __u64 now)
{
	struct dest *d = at(&dests, dest);
	struct tunnel_way *w = at(&tunnel_ways, 0);
	const struct config *cfg = at(&config, 0);
	struct bpf_fib_lookup *fib;
	struct tunnel_path *path;
	struct wrap shape = {};
	int answer = 0;

	if (!d || !w || !cfg)
		return 0;
	path = tunnel_path_of(d);
	if (!path)
		return 0;
	fib = &w->fib;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 2; i++) {
		__builtin_memset(fib, 0, sizeof(*fib));
		fib->family = d->family;
		fib->ifindex = LO_IFINDEX;
		fib->tot_len = i ? 1 : MTU_ANY;
		if (d->family == AF_INET)
			fib->ipv4_dst = d->address.word[0];
		else
			__builtin_memcpy(fib->ipv6_dst, &d->address, 16);
		answer = bpf_fib_lookup(skb, fib, sizeof(*fib), i ? FIB_SOURCE : 0);
		if (!i)
			w->mtu = answer == BPF_FIB_LKUP_RET_FRAG_NEEDED ? fib->mtu_result : MTU_ANY;
	}
	w->mtu = mtu_known(&d->address, w->mtu, now);
	if (answer == -EINVAL) {
		fib->tot_len = 1;
		answer = bpf_fib_lookup(skb, fib, sizeof(*fib), 0);
		if (answer == BPF_FIB_LKUP_RET_SUCCESS || answer == BPF_FIB_LKUP_RET_NO_NEIGH)
			source_learned(d, fib->ifindex, &w->source);
	} else if (d->family == AF_INET) {
		__builtin_memset(&w->source, 0, 16);
		w->source.word[0] = fib->ipv4_src;
	} else {
		__builtin_memcpy(&w->source, fib->ipv6_src, 16);
	}
	w->addresses = wrap_addresses(&w->source, &d->address);
	w->unresolved = answer == BPF_FIB_LKUP_RET_NO_NEIGH;
	if (answer != BPF_FIB_LKUP_RET_SUCCESS)
		return w->unresolved;
	tunnel_shape(&shape, d);
	__builtin_memcpy(path->to, &d->address, 16);
	path->from = w->source;
	path->family = d->family;
	path->ifindex = fib->ifindex;
	path->mtu = w->mtu;
	path->hop = hop_of(fib);
	path->next.nh_family = fib->family;
	__builtin_memcpy(path->next.ipv6_nh, fib->ipv6_dst, 16);	/* or IPv4's, which stands there */
	path->addresses = bpf_ntohs(w->addresses);
	swift_prepare(path, &shape, cfg);
	path->room = tunnel_narrow(&shape, w->mtu) ? 0 : w->mtu - path->outer;
	path->tick = now;
	return 1;
}

/* Has the tunnel a checksum of its own? A merged packet has none. */
static __always_inline int tunnel_summed(struct __sk_buff *skb, struct wrap *w)
{
	if (!(w->tunnel & TUNNEL_TYPE) || !(w->tunnel & (TUNNEL_CSUM | TUNNEL_REMCSUM)))
		return 0;
	if (!skb->gso_size)
		return 1;
	if ((w->tunnel & TUNNEL_TYPE) == TUNNEL_GRE)
		w->extra = GRE_LEN;
	return 0;
}

/* A packet for which all is known that has to be, not merged, and of its real server's family. RECEIVED: it is another
 * one. */
static __noinline int tunnel_swiftly(struct __sk_buff *skb, const struct packet *p, const struct dest *d,
				     struct outcome *out, __u64 now)
{
	struct tunnel_path *path;
	int reason;

	if (!p->uncounted || p->ttl <= 1 || p->kind != KIND_PLAIN || p->fragment)
		return RECEIVED;
	path = tunnel_path_known(d, now);
	if (!path || p->length > path->room)
		return RECEIVED;
	if (path->family == AF_INET)
		reason = swift(skb, p, path, tunnel_unbroken(p), 0);
	else
		reason = swift(skb, p, path, 0, 1);
	out->verdict = reason == FORWARDED_TUNNEL ?
		       bpf_redirect_neigh(path->ifindex, &path->next, sizeof(path->next), 0) : TC_ACT_SHOT;
	return reason;
}

/* The same for one that needs room behind its Ethernet header (wrap.h). */
__noinline int tunnel_quickly(struct __sk_buff *skb, struct packet *p, __u32 dest, struct outcome *out, __u64 now)
{
	struct dest *d = at(&dests, dest);
	struct wrap w = { .carried = NO_SUM };
	struct tunnel_path *path;

	if (!p || !out || !d)
		return DROPPED_REWRITE_FAILED;
	if (!p->uncounted || p->ttl <= 1)
		return RECEIVED;
	path = tunnel_path_known(d, now);
	if (!path || wire_length(skb, p) > path->room)
		return RECEIVED;
	tunnel_describe(&w, p, d);
	if (tunnel_summed(skb, &w)) {
		w.carried = carried_known(skb, p);
		if (w.carried < 0)
			return RECEIVED;
	}
	out->verdict = TC_ACT_SHOT;
	if (!decrement_ttl(skb, p->tuple.family) || !wrap_room(skb, &w) ||
	    !wrap_write(skb, p, &w, &path->from, &d->address, bpf_htons(path->addresses)))
		return DROPPED_REWRITE_FAILED;
	out->verdict = transmit_to(skb, path->ifindex, &path->hop);
	return FORWARDED_TUNNEL;
}

/* Put the packet into the tunnel that `tunnel_ways` tells of. */
__noinline int tunnel_wrap(struct __sk_buff *skb, const struct packet *p, __u32 dest)
{
	struct tunnel_way *way = at(&tunnel_ways, 0);
	struct dest *d = at(&dests, dest);

	if (!p || !d || !way || !wrap_room(skb, &way->wrap))
		return 0;
	return wrap_write(skb, p, &way->wrap, &way->source, &d->address, way->addresses);
}

/* Any other one: the checks of facts 6.8, in their order. */
__noinline int tunnel_slowly(struct __sk_buff *skb, struct packet *p, __u32 dest, struct outcome *out, __u64 now)
{
	struct tunnel_way *way = at(&tunnel_ways, 0);
	struct dest *d = at(&dests, dest);
	__u32 length, room;
	struct wrap *w;

	if (!p || !out || !d || !way)
		return DROPPED_REWRITE_FAILED;
	w = &way->wrap;
	out->verdict = TC_ACT_SHOT;
	if (!p->uncounted)
		uncount_hop(skb, p);
	if (!tunnel_route(skb, dest, now)) {
		out->error = 1 + ERROR_HOST;
		return DROPPED_NO_ROUTE;
	}
	if (p->ttl <= 1) {
		out->error = 1 + ERROR_TTL;
		return DROPPED_TTL_EXCEEDED;
	}
	tunnel_describe(w, p, d);
	if (tunnel_narrow(w, way->mtu))
		return DROPPED_TUNNEL_TOO_NARROW;
	if (!decrement_ttl(skb, p->tuple.family))
		return DROPPED_REWRITE_FAILED;
	length = wire_length(skb, p);
	w->pieces = 0;
	room = way->mtu - w->head - w->extra;
	if (length > room) {
		out->mtu = room;
		if (w->dont_fragment || p->tuple.family == AF_INET6) {
			out->error = 1 + ERROR_TOO_BIG;
			return DROPPED_TOO_BIG;
		}
		if (!cut_prepare(skb, p, out, length))
			return DROPPED_NEEDS_FRAGMENTS;
		w->pieces = !!out->mtu;
	}
	w->carried = NO_SUM;
	if (tunnel_summed(skb, w)) {
		w->carried = carried_sum(skb, p);
		if (w->carried < 0)
			return DROPPED_REWRITE_FAILED;
	}
	if (!tunnel_wrap(skb, p, dest))
		return DROPPED_REWRITE_FAILED;
	out->verdict = transmit(skb, &way->fib, way->unresolved);
	if (out->mtu) {
		out->mtu = way->mtu;
		cut_later(&way->fib, way->unresolved, w->head + w->extra);
	}
	return FORWARDED_TUNNEL;
}

/* A request that the stack is to route to the other end before it goes into the tunnel, as it leaves (egress.h): does it
 * fit there, and does it get there? */
__noinline int tunnel_stays(struct __sk_buff *skb, struct packet *p, __u32 dest, struct outcome *out, __u64 now)
{
	struct tunnel_way *way = at(&tunnel_ways, 0);
	struct dest *d = at(&dests, dest);
	struct tunnel_path *path;
	struct wrap *w;
	__u32 mtu;

	if (!p || !out || !d || !way)
		return DROPPED_REWRITE_FAILED;
	w = &way->wrap;
	out->verdict = TC_ACT_SHOT;
	if (!p->uncounted)
		uncount_hop(skb, p);
	path = tunnel_path_known(d, now);
	if (!path && !tunnel_route(skb, dest, now)) {
		out->error = 1 + ERROR_HOST;
		return DROPPED_NO_ROUTE;
	}
	if (p->ttl <= 1) {
		out->error = 1 + ERROR_TTL;
		return DROPPED_TTL_EXCEEDED;
	}
	mtu = path ? path->mtu : way->mtu;
	tunnel_describe(w, p, d);
	if (tunnel_narrow(w, mtu))
		return DROPPED_TUNNEL_TOO_NARROW;
	mtu -= w->head + w->extra;
	if (wire_length(skb, p) > mtu && (w->dont_fragment || p->tuple.family == AF_INET6)) {
		if (!decrement_ttl(skb, p->tuple.family))
			return DROPPED_REWRITE_FAILED;
		out->mtu = mtu;
		out->error = 1 + ERROR_TOO_BIG;
		return DROPPED_TOO_BIG;
	}
	out->verdict = TC_ACT_UNSPEC;
	return FORWARDED_BY_STACK;
}

/* A request to a real server at the other end of a tunnel. */
static __always_inline int tunnel_request(struct __sk_buff *skb, struct packet *p, __u32 dest, struct outcome *out,
					  __u64 now)
{
	struct dest *d = at(&dests, dest);
	int reason = RECEIVED;

	if (d && d->family == p->tuple.family && !skb->gso_size)
		reason = tunnel_swiftly(skb, p, d, out, now);
	if (reason == RECEIVED)
		reason = tunnel_quickly(skb, p, dest, out, now);
	return reason == RECEIVED ? tunnel_slowly(skb, p, dest, out, now) : reason;
}
