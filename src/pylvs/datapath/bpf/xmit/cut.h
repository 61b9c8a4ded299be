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
	CUT_ROW = 16384,	/* a packet's bytes lie in rows: no value of a per-CPU map may be longer than 32 KiB */
	CUT_ROWS = 4,
	CUT_UNIT = 2048,	/* so much is copied at a time */
	CUT_PIECE = 15360,	/* no piece carries more: the kernel would not make it */
	CUT_STEPS = 8192 + 64,	/* 64 KiB in pieces of eight bytes, and units that begin in one row and end in another */
	CUT_FRAGMENT_LEN = 8,	/* IPv6's extra header */
	CUT_PADDING = 2,
	CUT_HEADER = 128,	/* room for the longest: a link-layer header and IPv4's with options */
	CUT_ONCE = 1024,
	IPV4_MAX = 60,
	IPV4_MORE = 0x2000,
	OPTION_END = 0,
	OPTION_NOTHING = 1,
	OPTION_COPIED = 0x80,	/* into every fragment (RFC 791, 3.1) */
};

/* Where the packet at hand is to go in pieces. Per CPU, since there is too little stack. */
/* How far the work has come. */
struct cut_walk {
	__u32 at;		/* of the piece at hand in what is cut */
	__u32 done;		/* bytes of it that are in their place */
	__u32 left;		/* bytes from there on */
	__u32 step;
	__u32 head;		/* bytes before them in each piece */
	__u32 ident;		/* IPv6's; 0: it is IPv4 */
	__u32 next_header;
	__u32 failed;
	__u32 own;		/* IPv4's fragment bits as they were */
};

struct cut {
	__u8 padding[CUT_PADDING];	/* so that the IP header is at a multiple of four */
	__u8 header[CUT_HEADER];
	__u32 ifindex;
	__u32 unresolved;	/* the next hop's link-layer address has still to be asked for */
	__u32 shift;		/* bytes before the client's packet that were not there when it came */
	struct bpf_redir_neigh next;
	struct cut_walk walk;	/* here, not on the stack: or the verifier follows every length */
	__u32 option;		/* where the next one begins */
	__u32 option_goes;	/* the one at hand is not for all pieces */
};

MAP(cuts, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct cut, 1, 0);

struct cut_bytes {
	__u8 byte[CUT_ROW + CUT_UNIT];	/* the last ones for the verifier alone */
};
MAP(cut_room, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct cut_bytes, CUT_ROWS, 0);

/* This packet is to go to a next hop in pieces. */
static __always_inline void cut_later(const struct bpf_fib_lookup *fib, int unresolved, __u32 shift)
{
	struct cut *cut = at(&cuts, 0);

	if (!cut)
		return;
	cut->ifindex = fib->ifindex;
	cut->unresolved = unresolved;
	cut->shift = shift + MAC_LEN - ETH_LEN;
	__builtin_memset(&cut->next, 0, sizeof(cut->next));
	cut->next.nh_family = fib->family;
	if (fib->family == AF_INET)
		cut->next.ipv4_nh = fib->ipv4_dst;
	else
		__builtin_memcpy(cut->next.ipv6_nh, fib->ipv6_dst, 16);
}

struct cut_shorter {
	struct __sk_buff *skb;
	__u32 by;		/* bytes that are still too many */
};

/* Room for a header has its limits: so many bytes at once. */
static long cut_shorter_step(__u64 i, struct cut_shorter *walk)
{
	__u32 once = walk->by > CUT_ONCE ? CUT_ONCE : walk->by;

	if (!once || bpf_skb_adjust_room(walk->skb, once, BPF_ADJ_ROOM_MAC, 0) ||
	    bpf_skb_adjust_room(walk->skb, -(__s32)once, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return 1;
	walk->by -= once;
	return 0;
}

/* Let the segments of a merged TCP packet be so much shorter: a header comes, which they give room to, and goes, which
 * they do not get back. 0: it cannot be. */
__noinline int cut_segments(struct __sk_buff *skb, const struct packet *p, __u32 by)
{
	struct cut_shorter walk = {.skb = skb, .by = by};

	if (!p || p->kind != KIND_PLAIN || p->tuple.protocol != IPPROTO_TCP || !by || by + UDP_LEN > skb->gso_size)
		return 0;
	bpf_loop(64 * 1024 / CUT_ONCE, cut_shorter_step, &walk, 0);
	return !walk.by;
}

/* Only some options are meant for all fragments: the others turn to nothing, behind the first one, and take as much room
 * as before (as in the kernel). What makes no sense is left as it is. */
__noinline int cut_options(void)
{
	struct cut *cut = at(&cuts, 0);

	if (!cut)
		return 0;
	cut->option = MAC_LEN + IPV4_MIN;
	cut->option_goes = 0;
#pragma clang loop unroll(disable)
	for (__u32 i = MAC_LEN + IPV4_MIN; i < MAC_LEN + IPV4_MAX; i++) {
		__u32 end = MAC_LEN + (cut->header[MAC_LEN] & 15) * 4;

		barrier();	/* what is read anew is unknown: or the verifier follows every length */
		if (i >= end)
			break;
		if (i == cut->option) {	/* one begins */
			__u8 kind = cut->header[i];
			__u32 next = i + (kind == OPTION_NOTHING ? 1 : cut->header[i + 1]);

			if (kind == OPTION_END || next == i || (next == i + 1 && kind != OPTION_NOTHING) || next > end)
				break;
			cut->option = next;
			cut->option_goes = !(kind & OPTION_COPIED);
			barrier();
		}
		if (cut->option_goes)
			cut->header[i] = OPTION_NOTHING;
	}
	return 0;
}

/* `own`: the fragment bits of the packet that is cut, which may be a fragment itself: what was behind it still is. */
static __always_inline void cut_header4(struct cut *cut, const struct cut_walk *walk, __u32 size, int more)
{
	struct iphdr *ip = (void *)cut->header + MAC_LEN;

	ip->tot_len = bpf_htons(walk->head - MAC_LEN + size);
	ip->frag_off = bpf_htons((walk->at / 8 + walk->own) | (more ? IPV4_MORE : 0));
	ip->check = 0;
	/* behind the header there are zeros */
	ip->check = ~fold((__u32)bpf_csum_diff(NULL, 0, (__be32 *)ip, IPV4_MAX, 0));
}

static __always_inline void cut_header6(struct cut *cut, const struct cut_walk *walk, __u32 size, int more)
{
	struct ipv6hdr *ip = (void *)cut->header + MAC_LEN;
	__u32 *word = (void *)(ip + 1);

	ip->payload_len = bpf_htons(CUT_FRAGMENT_LEN + size);
	ip->nexthdr = IPPROTO_FRAGMENT;
	word[0] = bpf_htonl(walk->next_header << 24 | walk->at | (more ? 1 : 0));
	word[1] = walk->ident;
}

/* Some more of the piece at hand; when all of it is there, it leaves. 1: that was the last one, or it cannot be. */
__noinline int cut_more(struct __sk_buff *skb)
{
	struct cut *cut = at(&cuts, 0);
	__u32 from, size, unit, row;
	struct cut_bytes *room;
	struct cut_walk *walk;
	int more;

	if (!cut)
		return 1;
	walk = &cut->walk;
	more = walk->left > walk->step;
	size = more ? walk->step : walk->left;
	from = walk->at + walk->done;
	row = from % CUT_ROW & (CUT_ROW - 8);
	room = at(&cut_room, from / CUT_ROW);
	walk->failed = 1;
	if (!room || !size)
		return 1;
	if (!walk->done) {
		if (walk->ident)
			cut_header6(cut, walk, size, more);
		else
			cut_header4(cut, walk, size, more);
		if (bpf_skb_change_tail(skb, walk->head + size, 0) ||
		    bpf_skb_store_bytes(skb, 0, cut->header, within(walk->head, CUT_HEADER), BPF_F_RECOMPUTE_CSUM))
			return 1;
		if (!walk->at && !walk->own && walk->head > MAC_LEN + IPV4_MIN && !walk->ident)
			cut_options();
	}
	unit = size - walk->done;
	if (unit > CUT_ROW - row)
		unit = CUT_ROW - row;
	if (unit > CUT_UNIT)
		unit = CUT_UNIT;
	unit = within(unit, CUT_UNIT);
	if (bpf_skb_store_bytes(skb, walk->head + walk->done, room->byte + row, unit, BPF_F_RECOMPUTE_CSUM))
		return 1;
	walk->done += unit;
	walk->failed = 0;
	if (walk->done < size)
		return 0;
	walk->at += size;
	walk->left -= size;
	walk->done = 0;
	if (!more)
		return 1;
	/* only one packet can wait for a neighbour's answer, and it is the last; the client sends again */
	if (!cut->unresolved)
		bpf_clone_redirect(skb, cut->ifindex, 0);
	return 0;
}

struct cut_packet {
	struct __sk_buff *skb;
};

static long cut_step(__u64 i, struct cut_packet *packet)
{
	return cut_more(packet->skb) != 0;
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

/* Keep what is behind the headers. Its rows are full but for the last one. */
__noinline int cut_keep(struct __sk_buff *skb, __u32 head, __u32 size)
{
	struct cut_bytes *room;
	__u32 row;

#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < CUT_ROWS; i++) {
		if (size <= i * CUT_ROW)
			return 1;
		room = at(&cut_room, i);
		row = size - i * CUT_ROW;
		if (row > CUT_ROW)
			row = CUT_ROW;
		if (!room || bpf_skb_load_bytes(skb, head + i * CUT_ROW, room->byte, within(row, CUT_ROW)))
			return 0;
	}
	return size <= CUT_ROWS * CUT_ROW;
}

/* The headers of all pieces. What is behind them: zeros. */
static __always_inline int cut_head(struct __sk_buff *skb, struct cut *cut, int ipv6)
{
	__u8 first;

	if (bpf_skb_load_bytes(skb, MAC_LEN, &first, 1))
		return 0;
	__builtin_memset(cut->header, 0, CUT_HEADER);
	if (ipv6)
		return bpf_skb_load_bytes(skb, 0, cut->header, MAC_LEN + IPV6_LEN) ? 0 : MAC_LEN + IPV6_LEN;
	if (first >> 4 != 4 || (first & 15) < 5 ||
	    bpf_skb_load_bytes(skb, 0, cut->header, within(MAC_LEN + (first & 15) * 4, CUT_HEADER)))
		return 0;
	return MAC_LEN + (first & 15) * 4;
}

/* Send the packet, which has all its new headers, in pieces of this MTU. The verdict for the last one; -1: it cannot be
 * cut. */
__noinline int cut_up(struct __sk_buff *skb, const struct packet *p, __u32 mtu)
{
	int ipv6 = skb->protocol == bpf_htons(ETH_P_IPV6), pending;
	struct cut_packet packet = {.skb = skb};
	struct cut *cut = at(&cuts, 0);
	struct cut_walk *walk;
	__u32 size;

	if (!p || !cut)
		return -1;
	walk = &cut->walk;
	__builtin_memset(walk, 0, sizeof(*walk));
	pending = sum_pending(skb, p, cut->shift);
	if (pending < 0 || (pending && !cut_finish_sum(skb, p, cut->shift)))
		return -1;
	walk->head = cut_head(skb, cut, ipv6);
	if (!walk->head)
		return -1;
	size = p->length + ETH_LEN + cut->shift - walk->head;
	if ((__s32)size < 8 || !cut_keep(skb, walk->head, size))
		return -1;
	walk->left = size;
	if (ipv6) {
		walk->ident = bpf_get_prandom_u32() | 1;
		walk->next_header = cut->header[MAC_LEN + 6];
		walk->head += CUT_FRAGMENT_LEN;
	} else {
		walk->own = (cut->header[MAC_LEN + 6] << 8 | cut->header[MAC_LEN + 7]) & 0x3fff;
	}
	walk->step = mtu + MAC_LEN - walk->head;
	if ((__s32)walk->step < 8)
		return -1;
	walk->step &= ~7u;
	if (walk->step > CUT_PIECE)
		walk->step = CUT_PIECE;
	if (pending && bpf_skb_adjust_room(skb, -(__s32)(p->l4 + cut->shift + 2), BPF_ADJ_ROOM_MAC, 0))
		return -1;
	bpf_loop(CUT_STEPS, cut_step, &packet, 0);
	if (walk->failed || walk->left)
		return -1;
	if (cut->unresolved)
		return bpf_redirect_neigh(cut->ifindex, &cut->next, sizeof(cut->next), 0);
	return bpf_redirect(cut->ifindex, 0);
}
