/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The way to a next hop, and the last step of every forwarded packet.
 *
 * IPVS routes requests as the director's own output: no source, no mark. A lookup "as from lo" is that; it needs
 * conf.lo.forwarding, which is set when the programs are loaded, and not ip_forward.
 *
 * A lookup costs as much as the rest of a packet's way. So each CPU remembers what it was told, for one tick of the
 * clock (a few milliseconds): that a route or a neighbour has changed is noticed with the next.
 */
#pragma once

#define LO_IFINDEX 1
#define PATHS 256
#define NEIGHBOUR_MASK 15

/* Link-layer addresses, as they stand at a frame's beginning: which is two bytes before a multiple of four. */
struct hop {
	__u16 half[6];
};

/* A route as it was told, and when. A cache line. */
struct path {
	union address dst;
	union address src;
	__u64 tick;
	__u32 ifindex;
	__u16 mtu;
	struct hop hop;
	__u16 family;
	__u32 asked;	/* how often the kernel was asked for what is or was here */
};

_Static_assert(sizeof(struct path) == 64 && __builtin_offsetof(struct path, hop) % 4 == 2, "all at their places");

MAP(paths, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct path, PATHS, 0);

enum routed {
	ROUTED,			/* with the neighbour's link-layer address */
	ROUTED_UNRESOLVED,	/* the neighbour has still to be asked for */
	ROUTED_NOWHERE,		/* no route, or an address of our own */
	ROUTED_TOO_BIG,		/* fib.mtu_result says what would fit */
};

/* What must fit the path: the packet, or each segment that it will be cut into. */
static __always_inline __u32 wire_length(struct __sk_buff *skb, const struct packet *p)
{
	__u32 head = p->l4 - ETH_LEN + SCTP_LEN;
	__u8 offset = 0;

	if (!skb->gso_size)
		return p->length;
	if (p->kind == KIND_SCTP)	/* its segments differ in length, and only their mean is known */
		return head + (skb->gso_segs ? (p->length - head) / skb->gso_segs : 0);
	if (p->tuple.protocol != IPPROTO_TCP)
		return p->l4 - ETH_LEN + UDP_LEN + skb->gso_size;
	bpf_skb_load_bytes(skb, p->l4 + 12, &offset, 1);
	return p->l4 - ETH_LEN + (offset >> 4) * 4 + skb->gso_size;
}

static __always_inline int same_address(const union address *a, const union address *b, __u8 family)
{
	if (family == AF_INET)
		return a->word[0] == b->word[0];
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

static __always_inline __u32 path_place(const union address *src, const union address *dst)
{
	__u32 mix = dst->word[0] ^ dst->word[1] ^ dst->word[2] ^ dst->word[3] ^ src->word[0] ^ src->word[3];

	return mix * 0x61c88647 >> 24;
}

static __always_inline struct path *path_of(const union address *src, const union address *dst)
{
	return at(&paths, path_place(src, dst));
}

static __always_inline enum routed routed_as(long answer)
{
	switch (answer) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		return ROUTED;
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		return ROUTED_UNRESOLVED;
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		return ROUTED_TOO_BIG;
	}
	return ROUTED_NOWHERE;
}

/* What the kernel says, now. `length` 0: whatever its length. */
static __always_inline enum routed route_ask(struct __sk_buff *skb, struct bpf_fib_lookup *fib, __u8 family,
					     const union address *src, const union address *dst, __u32 length)
{
	__builtin_memset(fib, 0, sizeof(*fib));
	fib->family = family;
	fib->ifindex = LO_IFINDEX;
	/* without a length the kernel would take that of the packet at hand, which may be on its way to be cut */
	fib->tot_len = length > 0xffff ? 0xffff : length ? length : 1;
	if (family == AF_INET) {
		fib->ipv4_src = src->word[0];
		fib->ipv4_dst = dst->word[0];
	} else {
		__builtin_memcpy(fib->ipv6_src, src, 16);
		__builtin_memcpy(fib->ipv6_dst, dst, 16);
	}
	return routed_as(bpf_fib_lookup(skb, fib, sizeof(*fib), 0));
}

/* What the kernel says of a packet that it forwards, by its own addresses, and where it came in. */
__noinline int route_forwarded(struct __sk_buff *skb, struct bpf_fib_lookup *fib, const struct packet *p, __u32 length)
{
	if (!fib || !p)
		return ROUTED_NOWHERE;
	__builtin_memset(fib, 0, sizeof(*fib));
	fib->family = p->tuple.family;
	fib->ifindex = skb->ingress_ifindex;
	fib->tot_len = length > 0xffff ? 0xffff : length;
	fib->tos = p->tos;
	if (p->tuple.family == AF_INET) {
		fib->ipv4_src = p->tuple.src.word[0];
		fib->ipv4_dst = p->tuple.dst.word[0];
	} else {
		__builtin_memcpy(fib->ipv6_src, &p->tuple.src, 16);
		__builtin_memcpy(fib->ipv6_dst, &p->tuple.dst, 16);
	}
	return routed_as(bpf_fib_lookup(skb, fib, sizeof(*fib), 0));
}

static __always_inline struct hop hop_of(const struct bpf_fib_lookup *fib)
{
	struct hop hop;

	__builtin_memcpy(&hop, fib->dmac, 6);
	__builtin_memcpy((void *)&hop + 6, fib->smac, 6);
	return hop;
}

/* What this CPU was told within this tick of the clock about the way from src (all zero: as the director likes) to dst,
 * or NULL. It holds all that a packet needs but the next hop's address. */
static __always_inline struct path *path_known(__u8 family, const union address *src, const union address *dst,
					       __u64 now)
{
	struct path *path = path_of(src, dst);

	if (path && path->tick == now && path->family == family && same_address(&path->dst, dst, family) &&
	    same_address(&path->src, src, family))
		return path;
	return NULL;
}

/* The same way, asked for and remembered. `neighbour`: whether the kernel's neighbour code is to do the sending, which
 * keeps its knowledge of the next hop fresh: for one of these packets in 16, and for all while the next hop is unknown. */
static __always_inline enum routed route(struct __sk_buff *skb, struct bpf_fib_lookup *fib, __u8 family,
					 const union address *src, const union address *dst, __u32 length, __u64 now,
					 int *neighbour)
{
	enum routed routed = route_ask(skb, fib, family, src, dst, length);
	struct path *path = path_of(src, dst);

	*neighbour = 1;
	if (routed != ROUTED || !path)
		return routed;
	*neighbour = (path->asked++ & NEIGHBOUR_MASK) == 0;
	if (!fib->mtu_result)
		return routed;
	path->dst = *dst;
	path->src = *src;
	path->family = family;
	path->ifindex = fib->ifindex;
	path->mtu = fib->mtu_result;
	path->hop = hop_of(fib);
	path->tick = now;
	return routed;
}

/* Room for an Ethernet header before a packet that came without one. What leaves by an interface without link-layer
 * headers has it taken off again by the kernel. */
static __always_inline int link_header(struct __sk_buff *skb)
{
#ifdef LINKLESS
	void *data;

	if (bpf_skb_change_head(skb, MAC_LEN, 0))
		return 0;
	data = (void *)(long)skb->data;
	if (data + MAC_LEN > (void *)(long)skb->data_end)
		return 0;
	((__u16 *)data)[6] = skb->protocol;
#endif
	return 1;
}

/* Write a next hop's addresses into a frame. */
static __always_inline int frame_address(struct __sk_buff *skb, const struct hop *hop)
{
	void *data = (void *)(long)skb->data;

	if (data + MAC_LEN > (void *)(long)skb->data_end)
		return 0;
	*(__u16 *)data = hop->half[0];
	*(__u32 *)(data + 2) = *(__u32 *)&hop->half[1];
	*(__u32 *)(data + 6) = *(__u32 *)&hop->half[3];
	*(__u16 *)(data + 10) = hop->half[5];
	return 1;
}

/* Out of an interface, to a next hop, with an Ethernet header before it already. */
static __always_inline long frame_to(struct __sk_buff *skb, __u32 ifindex, const struct hop *hop)
{
	return frame_address(skb, hop) ? bpf_redirect(ifindex, 0) : TC_ACT_SHOT;
}

/* To the next hop that route_ask() found, out of the interface where the packet is leaving. */
static __always_inline long set_hop(struct __sk_buff *skb, const struct bpf_fib_lookup *fib)
{
#ifndef LINKLESS
	void *data = (void *)(long)skb->data;

	if (data + MAC_LEN > (void *)(long)skb->data_end)
		return TC_ACT_SHOT;
	__builtin_memcpy(data, fib->dmac, 6);
#endif
	return TC_ACT_UNSPEC;
}

static __always_inline long transmit_to(struct __sk_buff *skb, __u32 ifindex, const struct hop *hop)
{
	return link_header(skb) ? frame_to(skb, ifindex, hop) : TC_ACT_SHOT;
}

/* Out of the interface that route() found, with an Ethernet header before it already. */
static __always_inline long frame_transmit(struct __sk_buff *skb, const struct bpf_fib_lookup *fib, int neighbour)
{
	struct hop hop = hop_of(fib);

	if (neighbour) {
		struct bpf_redir_neigh next = { .nh_family = fib->family };

		/* if a device has told the whole packet's sum, what stands here now is added to it; and the neighbour code
		 * puts its own here: that had better be the same */
		if ((hop.half[0] | hop.half[1] | hop.half[2]) && bpf_csum_update(skb, 0) >= 0)
			frame_address(skb, &hop);
		if (fib->family == AF_INET)
			next.ipv4_nh = fib->ipv4_dst;
		else
			__builtin_memcpy(next.ipv6_nh, fib->ipv6_dst, 16);
		return bpf_redirect_neigh(fib->ifindex, &next, sizeof(next), 0);
	}
	return frame_to(skb, fib->ifindex, &hop);
}

static __always_inline long transmit(struct __sk_buff *skb, const struct bpf_fib_lookup *fib, int neighbour)
{
	return link_header(skb) ? frame_transmit(skb, fib, neighbour) : TC_ACT_SHOT;
}

/* Let a packet come in by lo, which is known by no link-layer address. */
static __always_inline long to_lo(struct __sk_buff *skb)
{
	void *data;

	if (!link_header(skb))
		return TC_ACT_SHOT;
	data = (void *)(long)skb->data;
	if (data + MAC_LEN > (void *)(long)skb->data_end)
		return TC_ACT_SHOT;
	__builtin_memset(data, 0, 6);
	return bpf_redirect(LO_IFINDEX, BPF_F_INGRESS);
}

/* TTL or hop limit - 1, in place. */
static __always_inline int decrement_ttl(struct __sk_buff *skb, __u8 family)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ipv6hdr *ip6 = data + ETH_LEN;
	struct iphdr *ip = data + ETH_LEN;
	__u32 check;

	if (family == AF_INET6) {
		if ((void *)(ip6 + 1) > end)
			return 0;
		ip6->hop_limit--;
		bpf_csum_update(skb, (__u16)~bpf_htons(1));	/* if the network card has said the whole packet's sum */
		return 1;
	}
	if ((void *)(ip + 1) > end)
		return 0;
	check = ip->check + bpf_htons(0x0100);
	ip->check = check + (check >= 0xffff);
	ip->ttl--;
	return 1;
}

/* The hop that the stack took off when it routed the packet to us is given back: forwarding takes it, and nothing that
 * is handed up needs it, so that not even wrong routing rules can keep a packet going round. */
__noinline int uncount_hop(struct __sk_buff *skb, struct packet *p)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ipv6hdr *ip6 = data + ETH_LEN;
	struct iphdr *ip = data + ETH_LEN;
	__u32 check;

	if (!p || p->ttl == 255)
		return 0;
	p->uncounted = 1;
	p->ttl++;
	if (p->tuple.family == AF_INET6) {
		if ((void *)(ip6 + 1) > end)
			return 0;
		ip6->hop_limit++;
		bpf_csum_update(skb, bpf_htons(1));
		return 1;
	}
	if ((void *)(ip + 1) > end)
		return 0;
	check = ip->check + bpf_htons(0xfeff);	/* one's complement: less 0x0100 */
	ip->check = (check & 0xffff) + (check >> 16);
	ip->ttl++;
	return 1;
}
