/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Fragments that are not their datagram's first one: they do what was decided for that, or wait for it.
 */
#pragma once

/* Something of the datagram was seen; when all of it was, its identification may soon be another one's. */
__noinline int datagram_seen(__u64 now)
{
	struct piece *f = at(&pieces, 0);
	struct piece_key key;
	struct datagram *d;
	__u32 seen;

	if (!f)
		return 0;
	key = f->key;
	d = bpf_map_lookup_elem(&datagrams, &key);
	if (!d)
		return 0;
	seen = __sync_fetch_and_add(&d->seen, f->size) + f->size;
	if (f->last)
		d->total = f->offset + f->size;
	if (d->total && seen >= d->total && !d->whole) {
		d->whole = 1;
		d->deadline = now + WHOLE_NS;
	}
	return 0;
}

/* To the interface's own ingress, to come again. It was counted as received, and will be once more. */
static __always_inline int come_again(struct __sk_buff *skb)
{
	if (bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS))
		return 0;
	unnote(RECEIVED);
	return 1;
}

/* What is the stack's, translated, like the first one. */
__noinline int follow_up(struct __sk_buff *skb, struct packet *p, struct outcome *out, __u64 now)
{
	struct piece *f = at(&pieces, 0);
	int reason;

	if (!p || !out || !f)
		return UP_FRAGMENT;
	f->datagram.way.stays = f->datagram.reply ? COMES_HOME : STAYS_HERE;
	if (f->datagram.reason == FORWARDED_BY_STACK) {
		f->datagram.way.stays = STAYS_ROUTED;
		if (f->datagram.method == METHOD_TUNNEL)
			reason = tunnel_stays(skb, p, f->datagram.dest - 1, out, now);
		else
			reason = forward_request(skb, p, &f->datagram.way, out, now);
		if (reason != FORWARDED_BY_STACK)
			return reason;
		f->datagram.way.nat = 1;
	}
	return stay(skb, p, &f->datagram.way, out, f->datagram.reply);
}

/* What the first one did, its others do. */
__noinline int follow_first(struct __sk_buff *skb, struct packet *p, struct outcome *out, __u64 now)
{
	struct piece *f = at(&pieces, 0);
	__u32 reason;

	if (!p || !out || !f)
		return UP_FRAGMENT;
	datagram_seen(now);
	reason = f->datagram.reason;
	if (reason < UP_NOT_IP || reason == UP_REPLY_UNCHANGED) {
		p->kind = KIND_PIECE;
		p->tuple.sport = f->datagram.sport;
		p->tuple.dport = f->datagram.dport;
		if (reason == FORWARDED_BY_STACK || reason == FORWARDED_LOCAL)
			reason = follow_up(skb, p, out, now);
		else if (f->datagram.method == METHOD_TUNNEL && !f->datagram.reply)
			reason = tunnel_request(skb, p, f->datagram.dest - 1, out, now);
		else
			reason = f->datagram.reply ? forward_reply(skb, p, &f->datagram.way, out, now) :
						     forward_request(skb, p, &f->datagram.way, out, now);
		if (f->datagram.method == METHOD_BYPASS)
			reason = past_all(reason);
		if (out->error != 1 + ERROR_TOO_BIG || p->tuple.family == AF_INET)
			out->error = 0;		/* the first one was answered, if any is */
	} else if (reason < HELD_FRAGMENT) {
		reason = UP_FRAGMENT;
	} else {
		reason = DROPPED_FRAGMENT;
		out->verdict = TC_ACT_SHOT;
	}
	if (counts(&f->datagram, reason))
		count_bytes(p, f->size);
	return reason;
}

/* Is there room in the set? 1 + the slot, which is ours to fill then. */
__noinline __u32 held_take(__u64 now)
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
		if (h && (held_give_up(h, now) || (h->state == HELD_FREE && held_move(h, HELD_FREE, HELD_FILLING))))
			return 1 + set + i;
	}
	return 0;
}

/* A fragment's bytes, out of the packet at hand or into it. Link-layer headers stay: that of one who was sent here is as
 * good as another's. Two comparisons, apart from each other: what compilers make of a range the verifier of Linux 6.1 does
 * not follow. 0: that worked. */
static __always_inline int held_copy(struct __sk_buff *skb, struct held_bytes *bytes, __u32 length, int into)
{
	barrier_var(length);
	if (length > HELD_LENGTH)
		return -1;
	barrier_var(length);
	if (length < IPV4_MIN)
		return -1;
	barrier_var(length);
	return into ? bpf_skb_store_bytes(skb, ETH_LEN, bytes, length, BPF_F_RECOMPUTE_CSUM) :
		      bpf_skb_load_bytes(skb, ETH_LEN, bytes, length);
}

/* Keep a copy of a fragment until its first one comes. */
__noinline int hold(struct __sk_buff *skb, const struct packet *p, struct outcome *out, __u64 now)
{
	struct piece *f = at(&pieces, 0);
	struct held_bytes *bytes;
	struct held *h;
	__u32 slot;

	if (!p || !out || !f)
		return UP_FRAGMENT;
	out->verdict = TC_ACT_SHOT;
	slot = held_take(now) - 1;
	h = at(&held, slot);
	bytes = at(&held_packets, slot);
	if (!h || !bytes)
		return DROPPED_HOLD_FULL;
	if (held_copy(skb, bytes, p->length, 0)) {
		*(volatile __u32 *)&h->state = HELD_FREE;
		return DROPPED_HOLD_FULL;
	}
	h->key = f->key;
	h->length = p->length;
	h->deadline = now + HELD_NS;
	held_move(h, HELD_FILLING, HELD_THERE);
	if (!datagram_find(now))
		return HELD_FRAGMENT;
	/* the first one came meanwhile: it has seen us, or nobody has */
	if (!held_move(h, HELD_THERE, HELD_FILLING))
		return HELD_FRAGMENT;
	*(volatile __u32 *)&h->state = HELD_FREE;
	return RECEIVED;
}

/* One that waits goes on, in the place of the packet at hand. */
__noinline int held_resume(struct __sk_buff *skb, __u32 slot)
{
	struct held_bytes *bytes = at(&held_packets, slot);
	struct held *h = at(&held, slot);
	struct piece *f = at(&pieces, 0);

	if (!f || !h || !bytes)
		return 0;
	if (h->state != HELD_THERE || !same_piece(&h->key, &f->key) || !held_move(h, HELD_THERE, HELD_FILLING))
		return 0;
	unnote(HELD_FRAGMENT);
	if (bpf_skb_change_tail(skb, ETH_LEN + h->length, 0) || held_copy(skb, bytes, h->length, 1) ||
	    bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS))
		note(DROPPED_FRAGMENT);
	else
		unnote(RECEIVED);
	*(volatile __u32 *)&h->state = HELD_FREE;
	return 1;
}

/* A first fragment for which others wait: it goes round once, and they behind it. */
static __always_inline int call(struct __sk_buff *skb, struct outcome *out)
{
	struct piece *f = at(&pieces, 0);
	int reason = DROPPED_FRAGMENT;
	struct piece_key key;
	__u32 set;

	if (!f)
		return DROPPED_FRAGMENT;
	out->verdict = TC_ACT_SHOT;
	if (come_again(skb)) {
		reason = RECEIVED;
	} else {
		key = f->key;
		bpf_map_delete_elem(&datagrams, &key);
	}
	set = held_set(&f->key);
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < HELD_SET; i++)
		held_resume(skb, set + i);
	return reason;
}

static __always_inline int fragment_way(struct __sk_buff *skb, struct packet *p, struct outcome *out)
{
	const struct config *cfg = at(&config, 0);
	struct piece *f = at(&pieces, 0);
	int reason;
	__u64 now;

	if (!cfg || !f)
		return UP_FRAGMENT;
	reason = parse(skb, p);
	if (!p->fragment)
		return UP_FRAGMENT;
	if (!piece_read(skb, p))
		return UP_MALFORMED;
	if (reason == RECEIVED)
		return call(skb, out);
	if (!f->ours || !(cfg->families & (p->tuple.family == AF_INET ? SERVES_IPV4 : SERVES_IPV6)) ||
	    p->tuple.protocol == IPPROTO_ICMPV6)
		return UP_FRAGMENT;
	p->uncounted = cfg->mark_device ^ skb->ingress_ifindex;
	now = now_ns(cfg);
	if (!datagram_find(now)) {
		reason = hold(skb, p, out, now);
		if (reason != RECEIVED)
			return reason;
	}
	out->verdict = TC_ACT_SHOT;
	if (f->datagram.reason == RECEIVED)	/* it is just being decided on */
		return come_again(skb) ? RECEIVED : DROPPED_FRAGMENT;
	out->verdict = TC_ACT_UNSPEC;
	return follow_first(skb, p, out, now);
}

/* All that are not the first, and a first one for which others wait. Counted as received it was in `ingress`. */
SEC("tc")
int fragment(struct __sk_buff *skb)
{
	struct outcome out = { .verdict = TC_ACT_UNSPEC };
	struct packet p = {};
	int reason = fragment_way(skb, &p, &out);

	if (reason == RECEIVED)		/* what comes again is counted then */
		return out.verdict;
	return done(skb, &p, &out, reason);
}
