/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The way to a next hop, and the last step of every forwarded packet.
 *
 * IPVS routes requests as the director's own output: no source, no mark. A lookup "as from lo" is that; it needs
 * conf.lo.forwarding, which is set when the programs are loaded, and not ip_forward.
 */
#pragma once

#define LO_IFINDEX 1

enum routed {
	ROUTED,			/* with the neighbour's link-layer address */
	ROUTED_UNRESOLVED,	/* the neighbour has still to be asked for */
	ROUTED_NOWHERE,		/* no route, or an address of our own */
	ROUTED_TOO_BIG,		/* fib.mtu_result says what would fit */
};

/* What must fit the path: the packet, or each segment that it will be cut into. */
static __always_inline __u32 wire_length(struct __sk_buff *skb, const struct packet *p)
{
	__u8 offset = 0;

	if (!skb->gso_size)
		return p->length;
	if (p->tuple.protocol != IPPROTO_TCP)
		return p->l4 - ETH_LEN + UDP_LEN + skb->gso_size;
	bpf_skb_load_bytes(skb, p->l4 + 12, &offset, 1);
	return p->l4 - ETH_LEN + (offset >> 4) * 4 + skb->gso_size;
}

static __always_inline enum routed route(struct __sk_buff *skb, struct bpf_fib_lookup *fib, __u8 family,
					 const union address *src, const union address *dst, __u32 length)
{
	__builtin_memset(fib, 0, sizeof(*fib));
	fib->family = family;
	fib->ifindex = LO_IFINDEX;
	fib->tot_len = length > 0xffff ? 0xffff : length;
	if (family == AF_INET) {
		fib->ipv4_src = src ? src->word[0] : 0;
		fib->ipv4_dst = dst->word[0];
	} else {
		if (src)
			__builtin_memcpy(fib->ipv6_src, src, 16);
		__builtin_memcpy(fib->ipv6_dst, dst, 16);
	}
	switch (bpf_fib_lookup(skb, fib, sizeof(*fib), 0)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		return ROUTED;
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		return ROUTED_UNRESOLVED;
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		return ROUTED_TOO_BIG;
	}
	return ROUTED_NOWHERE;
}

/* Out of the interface that route() found. `ask` lets the kernel's neighbour code do the sending, which keeps its
 * knowledge of the next hop fresh: done for one packet in many, and for all while the neighbour is unknown. */
static __always_inline long transmit(struct __sk_buff *skb, const struct bpf_fib_lookup *fib, int ask)
{
	void *data, *end;

	if (ask) {
		struct bpf_redir_neigh next = { .nh_family = fib->family };

		if (fib->family == AF_INET)
			next.ipv4_nh = fib->ipv4_dst;
		else
			__builtin_memcpy(next.ipv6_nh, fib->ipv6_dst, 16);
		return bpf_redirect_neigh(fib->ifindex, &next, sizeof(next), 0);
	}
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (data + ETH_LEN > end)
		return TC_ACT_SHOT;
	__builtin_memcpy(data, fib->dmac, 6);
	__builtin_memcpy(data + 6, fib->smac, 6);
	return bpf_redirect(fib->ifindex, 0);
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
		return 1;
	}
	if ((void *)(ip + 1) > end)
		return 0;
	check = ip->check + bpf_htons(0x0100);
	ip->check = check + (check >= 0xffff);
	ip->ttl--;
	return 1;
}
