/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Fragments. The first one has the ports: it goes the way of every packet, and what was decided for it is remembered.
 * The others follow it, in a program of their own (followers.h):
 *
 *   first:   parse -> announce its datagram -> [let go of those that wait for it] -> as every packet -> remember
 *   others:  parse -> what was decided for the first? -> the same, but only addresses are rewritten
 *            not known yet: wait (held.h)
 *
 * A transport checksum is over the whole datagram, and stands in the first fragment. It changes with address and port
 * only, so mending it there is enough. What cannot be mended without the whole is left: a UDP datagram without a checksum
 * stays without one; of SCTP, see rewrite_rarer().
 *
 * Rules of this file:
 *  - Whose datagram it is the first "first fragment" decides. Another one with other ports, while the datagram is not
 *    whole, is an attempt to overlap, and is dropped.
 *  - Fragments of which nothing could be ours are handed up at once. Those of one datagram go the same way, all of them:
 *    if the first was handed up, the stack gets the others too.
 *  - The first announces itself before it looks for those that wait; who is to wait looks for the announcement after it
 *    has lain down. So one of the two sees the other, without a lock.
 */
#pragma once

#include "held.h"

enum { DATAGRAMS = 16384, FRAGMENT_HEADER = 8 };
#define IPV4_NS (30 * SECOND)	/* the stack's own patience: net.ipv4.ipfrag_time, ip6frag_time */
#define IPV6_NS (60 * SECOND)
#define ANNOUNCED_NS (20 * MSEC)	/* how long a first fragment may be on its way through here: it is microseconds */
#define WHOLE_NS SECOND		/* duplicates of a datagram's fragments still find it */

/* What becomes of a datagram's fragments. */
struct datagram {
	__u64 deadline;
	struct way way;
	__u32 dest;		/* 1 + number of the real server whose traffic it counts as; 0: nobody's (DEST_NONE, too) */
	__u32 seen;		/* bytes of it that came, duplicates too */
	__u32 total;		/* all of its bytes; 0: the last fragment was not here yet */
	__u16 sport;
	__u16 dport;
	__u16 reason;		/* what the first one was counted under; RECEIVED: it is just being decided on */
	__u8 method;		/* enum method */
	__u8 reply;
	__u8 whole;		/* all of it was here */
	__u8 unused;
};

MAP(datagrams, BPF_MAP_TYPE_LRU_HASH, struct piece_key, struct datagram, DATAGRAMS, 0);

/* The fragment at hand. Not on the stack, of which there is little. */
struct piece {
	struct piece_key key;
	__u32 start;		/* offset of its part of the datagram from the frame's start */
	__u32 size;		/* of that part */
	__u32 offset;		/* in the datagram */
	__u32 last;
	__u32 ours;		/* it could be */
	struct datagram datagram;	/* what was, or is being, decided */
	struct found found;
};

MAP(pieces, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct piece, 1, 0);

/* To or from where fragments could be ours: a bit for what the address of a service, or of a LVS-NAT real server, hashes
 * to. Set by Python; a bit once set stays, since connections outlive their services. */
MAP(parties, BPF_MAP_TYPE_ARRAY, __u32, __u64, PARTY_BITS / 64, BPF_F_MMAPABLE);

static __always_inline int is_party(const union address *address)
{
	__u32 bit = (address->word[0] ^ address->word[1] ^ address->word[2] ^ address->word[3]) * PARTY_FACTOR >> 16;
	__u64 *word = at(&parties, bit / 64);

	return word && *word >> bit % 64 & 1;
}

/* What a fragment says of itself, into `pieces`. 0: it makes no sense. */
__noinline int piece_read(struct __sk_buff *skb, const struct packet *p)
{
	const struct config *cfg = at(&config, 0);
	struct piece *f = at(&pieces, 0);
	__u32 where = ETH_LEN + IPV6_LEN, end, bits = 0, found = 0;
	__u8 next, header[8];
	__u16 half[2];

	if (!p || !f || !cfg)
		return 0;
	end = p->length + ETH_LEN;
	__builtin_memset(&f->key, 0, sizeof(f->key));
	f->key.src = p->tuple.src;
	f->key.dst = p->tuple.dst;
	f->key.family = p->tuple.family;
	f->datagram.dest = 0;
	if (p->tuple.family == AF_INET) {
		if (bpf_skb_load_bytes(skb, ETH_LEN + 4, half, 4) ||
		    bpf_skb_load_bytes(skb, ETH_LEN + 9, &f->key.protocol, 1))
			return 0;
		f->key.id = half[0];
		f->offset = (bpf_ntohs(half[1]) & 0x1fff) * 8;
		f->last = !(half[1] & bpf_htons(0x2000));
		where = p->l4;
		/* the transport header of a first fragment begins where the fragment does */
		found = 1;
	} else {
		if (bpf_skb_load_bytes(skb, ETH_LEN + 6, &next, 1))
			return 0;
#pragma clang loop unroll(disable)
		for (int i = 0; i < EXTENSIONS_MAX && !found; i++) {
			if (where + 8 > end || bpf_skb_load_bytes(skb, where, header, 8))
				return 0;
			if (next == IPPROTO_FRAGMENT) {
				bits = header[2] << 8 | header[3];
				__builtin_memcpy(&f->key.id, header + 4, 4);
				found = 1;
			}
			where += next == IPPROTO_AH ? (header[1] + 2) * 4 : found ? 8 : (header[1] + 1) * 8;
			next = header[0];
		}
		f->offset = bits & 0xfff8;
		f->last = !(bits & 1);
	}
	if (!found || where > end || f->offset + (end - where) > 0xffff)
		return 0;
	f->start = where;
	f->size = end - where;
	f->ours = (cfg->families & SERVES_MARKS) || is_party(&p->tuple.dst) || is_party(&p->tuple.src);
	return 1;
}

static __always_inline int same_piece(const struct piece_key *a, const struct piece_key *b)
{
	const __u64 *x = (const void *)a, *y = (const void *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3] && x[4] == y[4];
}

/* The first slot of the set in which fragments of the datagram at hand may be. */
static __always_inline __u32 held_set(const struct piece_key *key)
{
	__u32 mix = key->src.word[0] ^ key->src.word[3] ^ key->dst.word[0] ^ key->dst.word[3] ^ key->id;

	return (__u32)((__u64)(mix * 0x9e3779b1u) * (HELD / HELD_SET) >> 32) * HELD_SET;
}

/* What is known of the datagram at hand, into `pieces`. Another CPU may just be giving its place to another one: what was
 * copied holds if it is still there afterwards. */
__noinline int datagram_find(__u64 now)
{
	struct piece *f = at(&pieces, 0);
	struct piece_key key;
	struct datagram *d;

	if (!f)
		return 0;
	key = f->key;		/* Linux 6.1 wants keys on the stack */
	d = bpf_map_lookup_elem(&datagrams, &key);
	if (!d || d->deadline <= now)
		return 0;
	f->datagram = *d;
	barrier();
	d = bpf_map_lookup_elem(&datagrams, &key);
	return d && d->deadline == f->datagram.deadline;
}

/* Does one of these slots have a fragment of the datagram at hand? */
__noinline int held_any(void)
{
	struct piece *f = at(&pieces, 0);
	struct held *h;
	__u32 set;

	if (!f)
		return 0;
	set = held_set(&f->key);
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < HELD_SET; i++) {
		h = at(&held, set + i);
		if (h && h->state == HELD_THERE && same_piece(&h->key, &f->key))
			return 1;
	}
	return 0;
}

/* A first fragment comes. RECEIVED: it goes on as every packet. p->fragment PIECE_CALLS: others wait for it. */
__noinline int first_comes(struct __sk_buff *skb, struct packet *p, struct outcome *out, __u64 now)
{
	struct piece *f = at(&pieces, 0);
	struct datagram announced = { .reason = RECEIVED };
	struct piece_key key;

	if (!p || !out || !f)
		return UP_FRAGMENT;
	if (!piece_read(skb, p)) {
		p->fragment = PIECE_LATER;
		return UP_MALFORMED;
	}
	p->fragment = PIECE_KNOWN;
	if (!f->ours)
		return RECEIVED;
	if (!datagram_find(now)) {
		announced.deadline = now + ANNOUNCED_NS;
		key = f->key;
		bpf_map_update_elem(&datagrams, &key, &announced, BPF_ANY);
	} else if (f->datagram.reason != RECEIVED && !f->datagram.whole &&
		   (f->datagram.sport != p->tuple.sport || f->datagram.dport != p->tuple.dport)) {
		p->fragment = PIECE_LATER;
		out->verdict = TC_ACT_SHOT;
		return DROPPED_FRAGMENT;
	}
	f->datagram.dest = f->datagram.method = 0;
	if (held_any()) {
		p->fragment = PIECE_CALLS;
		out->verdict = TC_ACT_SHOT;
		return DROPPED_FRAGMENT;
	}
	return RECEIVED;
}

/* A first fragment is on its way to that real server, or from it. */
__noinline int first_goes(const struct way *way, __u32 dest, __u32 method, __u32 reply)
{
	struct piece *f = at(&pieces, 0);

	if (!way || !f)
		return 0;
	f->datagram.way = *way;
	f->datagram.dest = 1 + dest;
	f->datagram.method = method;
	f->datagram.reply = reply;
	return 0;
}

/* The connection in which one has gone. It is looked for once more, so that the main road need not say where it was. */
__noinline int first_find(const struct packet *p)
{
	const struct config *cfg = at(&config, 0);
	struct piece *f = at(&pieces, 0);

	if (!p || !f || !cfg)
		return 0;
	return !!conn_find(&p->tuple, now_ns(cfg), &f->found);
}

__noinline int first_find_plain(const struct packet *p)
{
	const struct config *cfg = at(&config, 0);
	struct piece *f = at(&pieces, 0);

	if (!p || !f || !cfg)
		return 0;
	if (f->found.life || !may_be_plain_reply(&p->tuple))
		return 0;
	f->found.from_server = find_plain_reply(p, &f->found, now_ns(cfg));
	return 0;
}

/* What the connection in `pieces` says of the way of its packets. */
__noinline int first_directions(void)
{
	struct piece *f = at(&pieces, 0);
	struct conn *c;
	struct dest *d;
	__u32 dest;

	if (!f)
		return 0;
	c = conn_at(f->found.number);
	if (!c || !f->found.life)
		return 0;
	dest = c->dest;
	d = at(&dests, dest);
	if (!d && conn_method(c) != METHOD_BYPASS)
		return 0;
	f->datagram.way.nat = conn_method(c) == METHOD_MASQ;
	f->datagram.way.stays = 0;	/* as followers of another one have left it: they say where it goes themselves */
	f->datagram.way.address = f->key.dst;
	if (d)
		stack_address(d, dest, c->status & STATUS_FLAG(CONN_STACK) ? f->key.family : d->family,
			      &f->datagram.way.address);
	f->datagram.way.port = c->dport;
	f->datagram.method = conn_method(c);
	f->datagram.reply = f->found.from_server;
	if (f->found.from_server) {
		conn_vaddr(c, &f->datagram.way.address);
		f->datagram.way.port = c->vport;
	}
	if (conn_same(c, &f->found))
		f->datagram.dest = 1 + dest;
	return 0;
}

/* Does the datagram count as its real server's traffic, if this became of a fragment (facts 8.1)? */
static __always_inline int counts(const struct datagram *d, __u32 reason)
{
	return d->dest && (!d->reply || reason == FORWARDED_NAT_REPLY || reason == FORWARDED_LOCAL ||
					reason == UP_REPLY_UNCHANGED);
}

/* More, or less, bytes of a datagram that was counted as a packet when its first fragment came. `pieces` says whose. */
__noinline int count_bytes(const struct packet *p, __s32 bytes)
{
	const struct config *cfg = at(&config, 0);
	struct piece *f = at(&pieces, 0);
	const union address *address;
	union address known;
	struct counters *c;
	struct dest *dest;

	if (!p || !f || !cfg)
		return 0;
	dest = at(&dests, f->datagram.dest - 1);
	if (!dest || !(dest->flags & DEST_AVAILABLE))
		return 0;
	/* it may be another one's number by now */
	address = f->datagram.reply ? &p->tuple.src : &f->datagram.way.address;
	stack_address(dest, f->datagram.dest - 1, p->tuple.family, &known);
	if ((!f->datagram.reply || f->datagram.method == METHOD_MASQ) &&
	    !same_address(&dest->address, address, AF_INET6) && !same_address(&known, address, AF_INET6))
		return 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 3; i++) {
		c = at(&counters, i == 0 ? 0 : i == 1 ? service_counter(dest->service) :
							dest_counter(cfg, f->datagram.dest - 1));
		if (c && f->datagram.reply)
			c->outbytes += (__s64)bytes;
		else if (c)
			c->inbytes += (__s64)bytes;
	}
	return 0;
}

/* What became of a first fragment, for its others to follow. */
__noinline int first_remember(const struct packet *p, __u32 reason)
{
	const struct config *cfg = at(&config, 0);
	struct piece *f = at(&pieces, 0);
	struct piece_key key;
	struct datagram *d;
	__u64 now;

	if (!p || !f || !cfg)
		return 0;
	if (!f->datagram.dest && f->datagram.method != METHOD_BYPASS &&
	    (reason < UP_NOT_IP || reason == UP_REPLY_UNCHANGED))
		return 0;	/* its connection ended meanwhile */
	/* the kernel counts the datagram as it is after reassembly: without the fragment header */
	if (p->tuple.family == AF_INET6 && counts(&f->datagram, reason))
		count_bytes(p, -FRAGMENT_HEADER);
	if (!f->ours && !f->datagram.dest)
		return 0;
	now = now_ns(cfg);
	key = f->key;
	d = bpf_map_lookup_elem(&datagrams, &key);
	if (d && now < d->deadline && d->reason != RECEIVED && !d->whole)
		return 0;	/* a duplicate says nothing new */
	f->datagram.deadline = now + (p->tuple.family == AF_INET ? IPV4_NS : IPV6_NS);
	f->datagram.sport = p->tuple.sport;
	f->datagram.dport = p->tuple.dport;
	f->datagram.reason = reason;
	f->datagram.seen = f->size;
	f->datagram.total = 0;
	f->datagram.whole = 0;
	bpf_map_update_elem(&datagrams, &key, &f->datagram, BPF_ANY);
	return 0;
}

/* A first fragment has gone its way, or was stopped. One after the other, as there is little stack left. */
static __always_inline void first_went(const struct packet *p, int reason)
{
	struct piece *f = at(&pieces, 0);

	if (f && !f->datagram.dest) {
		if (!first_find(p))
			first_find_plain(p);
		first_directions();
	}
	first_remember(p, reason);
}
