/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What is too big for its way, and may be fragmented: IPv4 without DF, and a tunnel's outer packet. The packet is copied,
 * and becomes one piece after another; each but the last leaves as a clone, the last as packets do.
 *
 * A TCP packet that was merged from smaller ones (gso_size) has not to be cut up: it will be, into segments, and shorter
 * ones get through as they are.
 */
#pragma once

enum {
	CUT_MOST = 16384,	/* bytes behind the IP header */
	CUT_STEPS = 512,
	CUT_FRAGMENT_LEN = 8,	/* IPv6's extra header */
	CUT_PADDING = 2,
	IPV4_MORE = 0x2000,
};

/* Where the packet at hand is to go in pieces. Per CPU, since there is too little stack. */
struct cut {
	__u8 padding[CUT_PADDING];	/* so that the IP header is at a multiple of four */
	__u8 header[ETH_LEN + IPV6_LEN + CUT_FRAGMENT_LEN];
	__u32 ifindex;
	__u32 unresolved;	/* the next hop's link-layer address has still to be asked for */
	__u32 shift;		/* bytes of a tunnel before the client's packet */
	struct bpf_redir_neigh next;
};

MAP(cuts, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct cut, 1, 0);

struct cut_bytes {
	__u8 byte[2 * CUT_MOST];	/* the second half for the verifier alone */
};
MAP(cut_room, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct cut_bytes, 1, 0);

/* This packet is to go to a next hop in pieces. */
static __always_inline void cut_later(const struct bpf_fib_lookup *fib, int unresolved, __u32 shift)
{
	struct cut *cut = at(&cuts, 0);

	if (!cut)
		return;
	cut->ifindex = fib->ifindex;
	cut->unresolved = unresolved;
	cut->shift = shift;
	__builtin_memset(&cut->next, 0, sizeof(cut->next));
	cut->next.nh_family = fib->family;
	if (fib->family == AF_INET)
		cut->next.ipv4_nh = fib->ipv4_dst;
	else
		__builtin_memcpy(cut->next.ipv6_nh, fib->ipv6_dst, 16);
}

/* Let the segments of a merged TCP packet be so much shorter: a header comes, which they give room to, and goes, which
 * they do not get back. 0: it cannot be. */
__noinline int cut_segments(struct __sk_buff *skb, const struct packet *p, __u32 by)
{
	if (!p || p->kind != KIND_PLAIN || p->tuple.protocol != IPPROTO_TCP || !by || by > 1024 ||
	    by + UDP_LEN > skb->gso_size)
		return 0;
	return !bpf_skb_adjust_room(skb, by, BPF_ADJ_ROOM_MAC, 0) &&
	       !bpf_skb_adjust_room(skb, -(__s32)by, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO);
}

struct cut_walk {
	struct __sk_buff *skb;
	__u32 at;
	__u32 left;
	__u32 step;
	__u32 ident;		/* IPv6's */
	__u32 next_header;
	__u32 failed;
	__u32 own;		/* IPv4's fragment bits as they were */
};

/* `own`: the fragment bits of the packet that is cut, which may be a fragment itself: what was behind it still is. */
static __always_inline __u32 cut_header4(struct cut *cut, __u32 at, __u32 size, int more, __u32 own)
{
	struct iphdr *ip = (void *)cut->header + ETH_LEN;
	__u32 *word = (void *)ip;

	ip->tot_len = bpf_htons(IPV4_MIN + size);
	ip->frag_off = bpf_htons((at / 8 + own) | (more ? IPV4_MORE : 0));
	ip->check = 0;
	ip->check = ~fold((__u64)word[0] + word[1] + word[2] + word[3] + word[4]);
	return ETH_LEN + IPV4_MIN;
}

static __always_inline __u32 cut_header6(struct cut *cut, const struct cut_walk *walk, __u32 size, int more)
{
	struct ipv6hdr *ip = (void *)cut->header + ETH_LEN;
	__u32 *word = (void *)(ip + 1);

	ip->payload_len = bpf_htons(CUT_FRAGMENT_LEN + size);
	ip->nexthdr = IPPROTO_FRAGMENT;
	word[0] = bpf_htonl(walk->next_header << 24 | walk->at | (more ? 1 : 0));
	word[1] = walk->ident;
	return ETH_LEN + IPV6_LEN + CUT_FRAGMENT_LEN;
}

static long cut_step(__u64 i, struct cut_walk *walk)
{
	struct __sk_buff *skb = walk->skb;
	struct cut_bytes *room = at(&cut_room, 0);
	struct cut *cut = at(&cuts, 0);
	__u32 size, head, from = walk->at & (CUT_MOST - 8);
	int more = walk->left > walk->step;

	size = more ? walk->step : walk->left;
	walk->failed = 1;
	if (!room || !cut || !size)
		return 1;
	if (walk->ident)
		head = cut_header6(cut, walk, size, more);
	else
		head = cut_header4(cut, walk->at, size, more, walk->own);
	size = within(size, CUT_MOST);
	if (bpf_skb_change_tail(skb, head + size, 0) ||
	    bpf_skb_store_bytes(skb, 0, cut->header, ETH_LEN + IPV4_MIN, 0) ||
	    (walk->ident && bpf_skb_store_bytes(skb, 0, cut->header, sizeof(cut->header), 0)) ||
	    bpf_skb_store_bytes(skb, head, room->byte + from, size, 0))
		return 1;
	walk->at += size;
	walk->left -= size;
	walk->failed = 0;
	if (!more)
		return 1;
	/* only one packet can wait for a neighbour's answer, and it is the last; the client sends again */
	if (!cut->unresolved)
		bpf_clone_redirect(skb, cut->ifindex, 0);
	return 0;
}

/* A checksum that would be finished on the way out has to be right before the cut. What says that it is pending goes
 * when all that is before it goes; the headers come again with the pieces. */
static __always_inline int cut_finish_sum(struct __sk_buff *skb, const struct packet *p, __u32 shift)
{
	int total;
	__u16 sum;

	total = sum_of(skb, p->l4 + shift, p->length + ETH_LEN - p->l4, 0);
	if (total < 0)
		return 0;
	sum = ~total;
	if (!sum)
		sum = 0xffff;
	return !bpf_skb_store_bytes(skb, sum_at(p) + shift, &sum, 2, 0);
}

/* Send the packet, which has all its new headers, in pieces of this MTU. The verdict for the last one; -1: it cannot be
 * cut. */
__noinline int cut_up(struct __sk_buff *skb, const struct packet *p, __u32 mtu)
{
	int ipv6 = skb->protocol == bpf_htons(ETH_P_IPV6), pending;
	__u32 head = ETH_LEN + (ipv6 ? IPV6_LEN : IPV4_MIN), size;
	struct cut_bytes *room = at(&cut_room, 0);
	struct cut_walk walk = { .skb = skb };
	struct cut *cut = at(&cuts, 0);

	if (!p || !cut || !room)
		return -1;
	size = p->length + ETH_LEN + cut->shift - head;
	walk.step = mtu - (head - ETH_LEN) - (ipv6 ? CUT_FRAGMENT_LEN : 0);
	if ((__s32)walk.step < 8 || size < 8 || size > CUT_MOST)
		return -1;
	walk.step &= ~7u;
	pending = sum_pending(skb, p, cut->shift);
	if (pending < 0 || (pending && !cut_finish_sum(skb, p, cut->shift)))
		return -1;
	walk.left = size;
	size = within(size, CUT_MOST);
	if (bpf_skb_load_bytes(skb, head, room->byte, size) ||
	    bpf_skb_load_bytes(skb, 0, cut->header, ETH_LEN + IPV4_MIN) ||
	    (ipv6 && bpf_skb_load_bytes(skb, 0, cut->header, ETH_LEN + IPV6_LEN)))
		return -1;
	if (!ipv6 && cut->header[ETH_LEN] != 0x45)
		return -1;	/* which options are for the first piece alone: nobody has asked yet */
	if (!ipv6)
		walk.own = (cut->header[ETH_LEN + 6] << 8 | cut->header[ETH_LEN + 7]) & 0x3fff;
	if (ipv6) {
		walk.ident = bpf_get_prandom_u32() | 1;
		walk.next_header = cut->header[ETH_LEN + 6];
	}
	if (pending && bpf_skb_adjust_room(skb, -(__s32)(p->l4 + cut->shift + 2), BPF_ADJ_ROOM_MAC, 0))
		return -1;
	bpf_loop(CUT_STEPS, cut_step, &walk, 0);
	if (walk.failed || walk.left)
		return -1;
	if (cut->unresolved)
		return bpf_redirect_neigh(cut->ifindex, &cut->next, sizeof(cut->next), 0);
	return bpf_redirect(cut->ifindex, 0);
}
