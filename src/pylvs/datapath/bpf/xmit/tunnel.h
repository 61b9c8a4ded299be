/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * LVS-TUN: a request travels in another IP packet from the director to the real server, by itself (ipip), or behind the
 * headers of GRE, or of UDP and GUE (facts 6.7). The families of the two packets are independent of each other.
 *
 *   Ethernet | outer IP | GRE, or UDP and GUE | the client's packet, its TTL counted down
 *
 * Merged packets (gso_size) stay merged: the kernel cuts them when they leave, and copies the outer headers for each
 * piece. It cannot be told to sum up each piece anew; so the tunnel's own checksum is left out for these, which GUE and
 * GRE say in their headers. What they carry has its own.
 *
 * Where a tunnel begins, routing says: its choice for this destination. Kernels before Linux 6.7 do not tell a program;
 * there it is what was learned for this real server, as long as its packets leave by the same interface, and else the
 * first address of the interface.
 */
#pragma once

enum {
	GUE_LEN = 4,
	GRE_LEN = 4,
	GRE_SUMMED_LEN = 8,
	GRE_SUMMED = 0x8000,
	IPV4_TUNNEL_MIN = 68,	/* no packet may need to be shorter than this to get through */
	IPV6_TUNNEL_MIN = 1280,
	ECN = 3,
	ECN_CE = 3,
	ECN_ECT0 = 2,
	IPV4_DF = 0x4000,
	FIB_SOURCE = 1 << 4,	/* BPF_FIB_LOOKUP_SRC, which older headers do not have */
	MTU_ANY = 0xffff,
};

#define EINVAL 22

/* The tunnel of the packet at hand. Not on the stack: there is too little. */
struct wrap {
	union address source;
	__u32 tunnel;		/* enum tunnel; read once, it may change */
	__u32 head;		/* bytes of the outer IP header */
	__u32 extra;		/* and of what is behind it */
	__u32 mtu;		/* of the way */
	__u32 dont_fragment;	/* IPV4_DF, or 0 */
	__u32 ident;		/* of the packet before */
	__u16 family;		/* the real server's */
	__u16 unresolved;	/* the next hop's link-layer address has still to be asked for */
	__u32 pieces;		/* what comes out will be cut up (cut.h) */
	__u32 summed;		/* the tunnel has a checksum, and... */
	__s32 pending;		/* ...what it carries has one that is not finished (sum.h) */
	struct bpf_fib_lookup fib;
};

MAP(wraps, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct wrap, 1, 0);

/* Where tunnels begin that take the path of the same place in `paths`. Those are remembered as if from 0.0.0.1, from
 * where nothing comes. */
MAP(tunnel_sources, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, union address, PATHS, 0);

#define TUNNEL_KEY { .word = { bpf_htonl(1) } }

static __always_inline union address *tunnel_source(const union address *key, const union address *dst)
{
	return at(&tunnel_sources, path_place(key, dst));
}

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

/* The way to a real server: its MTU and the tunnel's source, into `wraps`, and the next hop. 0: there is none.
 * Asked twice: a kernel that is asked whether too long a packet fits says the MTU, and nothing else. */
__noinline int tunnel_route(struct __sk_buff *skb, __u32 dest, __u64 now)
{
	struct dest *d = at(&dests, dest);
	struct wrap *w = at(&wraps, 0);
	const union address key = TUNNEL_KEY;
	struct bpf_fib_lookup *fib;
	union address *source;
	struct path *path;
	int answer = 0;

	if (!d || !w)
		return 0;
	fib = &w->fib;
	source = tunnel_source(&key, &d->address);
	path = path_of(&key, &d->address);
	if (!source || !path)
		return 0;
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
	w->unresolved = answer == BPF_FIB_LKUP_RET_NO_NEIGH;
	if (answer != BPF_FIB_LKUP_RET_SUCCESS)
		return w->unresolved;
	path->dst = d->address;
	path->src = key;
	path->family = d->family;
	path->ifindex = fib->ifindex;
	path->mtu = w->mtu;
	path->hop = hop_of(fib);
	path->tick = now;
	*source = w->source;
	return 1;
}

static __always_inline __u8 outer_tos(__u8 tos)
{
	return (tos & ECN) == ECN_CE ? (tos & ~ECN) | ECN_ECT0 : tos;
}

/* GUE's source port: of each flow another one, so that routers and network cards can tell flows apart. */
static __always_inline __u16 gue_port(const struct packet *p)
{
	const struct config *cfg = at(&config, 0);
	__u32 hash = table_hash(&p->tuple), first, last;

	if (!cfg)
		return 0;
	first = cfg->local_ports & 0xffff;
	last = cfg->local_ports >> 16;
	hash ^= hash << 16;
	return bpf_htons(first + ((__u64)hash * (last - first) >> 32));
}

static __always_inline int outer_write(struct __sk_buff *skb, const struct packet *p, struct wrap *w,
				       const struct dest *d, __u8 protocol)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 size = w->extra + p->length;
	__u32 *word = data + ETH_LEN, ident = 0, first, second, third;

	/* whole words, and the sum of what has not to be read back: that would have to wait for the stores */
	if (w->family == AF_INET) {
		if ((void *)(word + 5) > end)
			return 0;
		((__u16 *)data)[6] = bpf_htons(ETH_P_IP);
		if (!w->dont_fragment)
			ident = (__u16)(++w->ident + bpf_get_smp_processor_id() * 40503);
		first = bpf_htonl(0x45000000 | (__u32)outer_tos(p->tos) << 16 | (__u16)(IPV4_MIN + size));
		second = bpf_htonl(ident << 16 | w->dont_fragment);
		third = bpf_htonl((__u32)(p->ttl - 1) << 24 | (__u32)protocol << 16);
		word[0] = first;
		word[1] = second;
		word[2] = third | bpf_htonl((__u32)bpf_ntohs((__u16)~fold((__u64)first + second + third + w->source.word[0] +
									  d->address.word[0])));
		word[3] = w->source.word[0];
		word[4] = d->address.word[0];
		return 1;
	}
	if ((void *)(word + 10) > end)
		return 0;
	((__u16 *)data)[6] = bpf_htons(ETH_P_IPV6);
	word[0] = bpf_htonl(0x60000000 | (__u32)outer_tos(p->tos) << 20);
	word[1] = bpf_htonl(size << 16 | (__u32)protocol << 8 | (__u8)(p->ttl - 1));
	__builtin_memcpy(word + 2, &w->source, 16);
	__builtin_memcpy(word + 6, &d->address, 16);
	return 1;
}

/* The sum over the tunnel's header and what it carries, as the real server will get it. -1: it cannot be told. */
static __always_inline int carried_sum(struct __sk_buff *skb, const struct packet *p, const struct wrap *w, __u32 sum)
{
	__u32 from = ETH_LEN + w->head, shift = w->head + w->extra;
	__u16 field;
	int total;

	if (w->pending < 0)
		return -1;
	if (!w->pending)
		return sum_of(skb, from, w->extra + p->length, sum);
	/* once it is finished, what is from the transport header on sums up to the complement of what the field holds now */
	if (bpf_skb_load_bytes(skb, sum_at(p) + shift, &field, 2))
		return -1;
	total = sum_of(skb, from, w->extra + p->l4 - ETH_LEN, sum);
	return total < 0 ? -1 : fold((__u32)total + (__u16)~field);
}

/* Make room for the outer headers. The kernel is told that they are a tunnel's, so that it can cut merged packets, and
 * devices can finish checksums inside; but then no packet can be made shorter any more, and so not what will be cut up
 * here. Of that IPv6 can only be the outer one. */
static __always_inline int outer_room(struct __sk_buff *skb, const struct wrap *w, __u32 type)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;
	__u32 size = w->head + w->extra;

	if (!w->pieces) {
		flags |= w->family == AF_INET ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV6;
		if (type == TUNNEL_GUE)
			flags |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
		else if (type == TUNNEL_GRE)
			flags |= BPF_F_ADJ_ROOM_ENCAP_L4_GRE;
	} else if (w->family == AF_INET6) {	/* which makes room for the difference of the two headers, too */
		size -= IPV6_LEN - IPV4_MIN;
		if (bpf_skb_change_proto(skb, bpf_htons(ETH_P_IPV6), 0))
			return 0;
	}
	return !bpf_skb_adjust_room(skb, size, BPF_ADJ_ROOM_MAC, flags);
}

/* Put the packet into its tunnel, as `wraps` says. */
__noinline int tunnel_wrap(struct __sk_buff *skb, struct packet *p, __u32 dest)
{
	struct wrap *w = at(&wraps, 0);
	struct dest *d = at(&dests, dest);
	__u32 type, carried, sum = 0;
	void *data, *end;
	__u16 *field;
	int total;

	if (!p || !w || !d || !decrement_ttl(skb, p->tuple.family))
		return 0;
	type = w->tunnel & TUNNEL_TYPE;
	carried = p->tuple.family == AF_INET ? IPPROTO_IPIP : IPPROTO_IPV6;
	if (type == TUNNEL_GRE)
		w->extra = w->summed ? GRE_SUMMED_LEN : GRE_LEN;
	if (!outer_room(skb, w, type))
		return 0;
	if (!outer_write(skb, p, w, d, type == TUNNEL_GUE ? IPPROTO_UDP : type == TUNNEL_GRE ? IPPROTO_GRE : carried))
		return 0;
	if (type == TUNNEL_IPIP)
		return 1;
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	field = data + ETH_LEN + (w->family == AF_INET ? IPV4_MIN : IPV6_LEN);
	if ((void *)(field + 6) > end)
		return 0;
	if (type == TUNNEL_GRE) {
		field[0] = bpf_htons(w->summed ? GRE_SUMMED : 0);
		field[1] = bpf_htons(p->tuple.family == AF_INET ? ETH_P_IP : ETH_P_IPV6);
		if (!w->summed)
			return 1;
		field[2] = 0;
		field[3] = 0;
	} else {
		field[0] = gue_port(p);
		field[1] = bpf_htons(w->tunnel >> TUNNEL_PORT_SHIFT);
		field[2] = bpf_htons(w->extra + p->length);
		field[3] = 0;
		field[4] = bpf_htons(carried);	/* version, kind and length of options are 0, and so are the flags */
		field[5] = 0;
		if (!w->summed)
			return 1;
		sum = fold((__u64)bpf_htons(IPPROTO_UDP) + field[2] +
			   (__u32)bpf_csum_diff(NULL, 0, (__be32 *)&w->source, 16, 0) +
			   (__u32)bpf_csum_diff(NULL, 0, (__be32 *)&d->address, 16, 0));
	}
	total = carried_sum(skb, p, w, sum);
	if (total < 0)
		return 0;
	sum = (__u16)~total;
	if (type == TUNNEL_GUE && !sum)
		sum = 0xffff;	/* 0 would mean that there is none */
	return !bpf_skb_store_bytes(skb, ETH_LEN + w->head + (type == TUNNEL_GUE ? 6 : 4), &sum, 2, 0);
}

/* What the packet's tunnel is like, into `wraps`. */
static __always_inline void tunnel_describe(struct wrap *w, const struct packet *p, const struct dest *d,
					    const struct sysctls *sys)
{
	__u32 type;

	w->tunnel = *(volatile const __u32 *)&d->tunnel;
	w->family = d->family;
	type = w->tunnel & TUNNEL_TYPE;
	w->head = d->family == AF_INET ? IPV4_MIN : IPV6_LEN;
	w->extra = type == TUNNEL_GUE ? UDP_LEN + GUE_LEN :
		   type != TUNNEL_GRE ? 0 :
		   w->tunnel & (TUNNEL_CSUM | TUNNEL_REMCSUM) ? GRE_SUMMED_LEN : GRE_LEN;
	w->dont_fragment = sys->pmtu_disc && p->dont_fragment && p->tuple.family == AF_INET ? IPV4_DF : 0;
}

/* How long the packet, or each of its segments, will be. */
static __always_inline __u32 tunnel_length(struct __sk_buff *skb, const struct packet *p, const struct wrap *w)
{
	return wire_length(skb, p) + w->head + w->extra;
}

/* A request to a real server at the other end of a tunnel: the checks of facts 6.8, in their order, and then into it. */
__noinline int tunnel_request(struct __sk_buff *skb, struct packet *p, __u32 dest, struct outcome *out, __u64 now)
{
	const struct sysctls *sys = at(&sysctls, 0);
	struct dest *d = at(&dests, dest);
	const union address key = TUNNEL_KEY;
	struct wrap *w = at(&wraps, 0);
	union address *source;
	struct path *path;
	__u32 length, room;
	int whole;

	if (!p || !out || !sys || !d || !w)
		return DROPPED_REWRITE_FAILED;
	out->verdict = TC_ACT_SHOT;
	if (!p->uncounted)
		uncount_hop(skb, p);
	tunnel_describe(w, p, d, sys);
	path = path_known(w->family, &key, &d->address, now);
	source = tunnel_source(&key, &d->address);
	if (path && source && tunnel_length(skb, p, w) <= path->mtu) {
		w->mtu = path->mtu;
		w->source = *source;
	} else {
		path = NULL;
		if (!tunnel_route(skb, dest, now)) {
			out->error = 1 + ERROR_HOST;
			return DROPPED_NO_ROUTE;
		}
	}
	if (p->ttl <= 1) {
		out->error = 1 + ERROR_TTL;
		return DROPPED_TTL_EXCEEDED;
	}
	room = w->mtu - w->head - w->extra;
	if ((__s32)room < (w->family == AF_INET ? IPV4_TUNNEL_MIN : IPV6_TUNNEL_MIN))
		return DROPPED_TUNNEL_TOO_NARROW;
	length = tunnel_length(skb, p, w) - w->head - w->extra;
	whole = p->tuple.family == AF_INET6 || (p->dont_fragment && sys->pmtu_disc);
	if (length > room && whole) {
		if (decrement_ttl(skb, p->tuple.family)) {
			out->error = 1 + ERROR_TOO_BIG;
			out->mtu = room;
		}
		return DROPPED_TOO_BIG;
	}
	if (length > room) {
		out->mtu = room;
		if (!cut_prepare(skb, p, out, length))
			return DROPPED_NEEDS_FRAGMENTS;
	}
	w->pieces = !!out->mtu;
	w->summed = w->tunnel & TUNNEL_TYPE && w->tunnel & (TUNNEL_CSUM | TUNNEL_REMCSUM) && !skb->gso_size;
	if (w->summed)
		w->pending = sum_pending(skb, p, 0);
	if (!tunnel_wrap(skb, p, dest))
		return DROPPED_REWRITE_FAILED;
	if (path)
		out->verdict = transmit_to(skb, path->ifindex, &path->hop);
	else
		out->verdict = transmit(skb, &w->fib, w->unresolved);
	if (out->mtu) {
		out->mtu = w->mtu;
		cut_later(&w->fib, w->unresolved, w->head + w->extra);
	}
	return FORWARDED_TUNNEL;
}
