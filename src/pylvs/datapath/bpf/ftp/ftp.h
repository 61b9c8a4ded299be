/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The FTP helper (facts section 10): the packets of LVS-NAT control connections, and those for which a connection for
 * data waits.
 *
 *   parse -> find the connection, or take the one that waits
 *         -> a request: unshift what it acknowledges, listen to what the client asks for
 *         -> a reply: rewrite the answer to that, shift its sequence number
 *         -> then the way of all connections' packets
 *
 * It listens while the control connection is established, to nothing that comes in pieces: of a fragmented segment the
 * numbers are shifted, and nothing is read. What it cannot do (the table is full, too many shifts) it lets be said again:
 * the packet is dropped.
 */
#pragma once

#include "read.h"
#include "stream.h"
#include "data.h"

static __always_inline struct ftp_talk *ftp_talk(const struct ftp_visit *v)
{
	return bpf_map_lookup_elem(&ftp_talks, &v->key);
}

/* The same, made if there is none; NULL: there is no room, or the connection is just ending. */
__noinline int ftp_begin(void)
{
	struct ftp_visit *v = at(&ftp_visits, 0);
	struct ftp_talk fresh = {};
	struct conn *c;

	if (!v)
		return 0;
	if (ftp_talk(v))
		return 1;
	if (bpf_map_update_elem(&ftp_talks, &v->key, &fresh, BPF_NOEXIST) && !ftp_talk(v))
		return 0;
	c = conn_at(v->found.number);
	if (c && conn_same(c, &v->found))
		return 1;
	/* whoever has ended it did not find this; who has moved it lets it be made again */
	bpf_map_delete_elem(&ftp_talks, &v->key);
	return 0;
}

/* Where a packet's payload and options are. */
static __always_inline void ftp_measure(struct __sk_buff *skb, struct ftp_visit *v)
{
	struct packet *p = &v->packet;
	__u32 end = p->length + ETH_LEN;
	__u8 offset = 0;

	bpf_skb_load_bytes(skb, p->l4 + 12, &offset, 1);
	offset = (offset >> 4) * 4;
	v->payload = p->l4 + offset;
	v->size = v->options = 0;
	if (offset < TCP_MIN || v->payload > end)
		return;
	v->options = offset - TCP_MIN;
	v->size = end - v->payload;
}

/* The packet's connection, in v->found; its life is 0 if there is none. */
__noinline int ftp_find(struct __sk_buff *skb, __u64 now)
{
	const struct config *cfg = at(&config, 0);
	struct ftp_visit *v = at(&ftp_visits, 0);
	struct packet *p;
	struct conn *c;
	int reason;

	if (!v || !cfg)
		return UP_JUST_ENDED;
	p = &v->packet;
	__builtin_memset(p, 0, sizeof(*p));
	v->changed = v->wanted_port = v->mode = 0;
	v->found.life = 0;
	reason = parse(skb, p);
	if (reason != RECEIVED)
		return reason;
	p->uncounted = cfg->mark_device ^ skb->ingress_ifindex;
	ftp_measure(skb, v);
	c = conn_find(&p->tuple, now, &v->found);
	if (!c)
		return TWO_TABLES && v->found.again ? UP_JUST_ENDED : RECEIVED;
	if (c->status & STATUS_FLAG(CONN_NO_CPORT))	/* and the client's port is 0: it cannot be told from one that waits */
		return DROPPED_BY_HELPER;
	conn_key(c, &v->key);
	return RECEIVED;
}

/* What a client wants. RECEIVED, or why it is to say it again. */
__noinline int ftp_listen_client(struct __sk_buff *skb)
{
	struct ftp_reading *r = at(&ftp_readings, 0);
	struct ftp_visit *v = at(&ftp_visits, 0);
	struct ftp_talk *talk;
	struct conn *c;

	if (!v || !r || !ftp_load(skb, v->payload, v->size, v->packet.tuple.family == AF_INET6) || !ftp_read_client())
		return RECEIVED;
	if (r->asked) {
		if (!ftp_begin())
			return DROPPED_BY_HELPER;
		talk = ftp_talk(v);
		if (talk)
			talk->asked = r->asked - 1;
		return RECEIVED;
	}
	talk = ftp_talk(v);
	if (talk)
		talk->asked = FTP_NOT_ASKED;
	c = conn_at(v->found.number);
	if (!c)
		return DROPPED_BY_HELPER;
	v->wanted = v->key;
	v->wanted.src = r->address;
	v->wanted.sport = r->port;
	v->wanted.dport = bpf_htons(bpf_ntohs(v->key.dport) - 1);
	v->wanted_port = bpf_htons(bpf_ntohs(c->dport) - 1);
	return RECEIVED;
}

/* A client's packet, before it goes on. RECEIVED, or what becomes of it instead. */
__noinline int ftp_request(struct __sk_buff *skb)
{
	struct ftp_visit *v = at(&ftp_visits, 0);
	struct ftp_talk *talk;
	struct conn *c;
	int established;
	__u64 shift;

	if (!v)
		return DROPPED_BY_HELPER;
	c = conn_at(v->found.number);
	if (!c || !conn_same(c, &v->found))
		return UP_JUST_ENDED;
	if (!(c->status & STATUS_FLAG(CONN_FTP)))
		return RECEIVED;
	established = (status_after(&v->packet, c->status, INPUT) & STATUS_STATE) == TCP_S_ESTABLISHED;
	if (v->packet.tcp_flags & TCP_SYN) {
		if (!established)	/* what comes now counts from elsewhere */
			bpf_map_delete_elem(&ftp_talks, &v->key);
		return RECEIVED;
	}
	if (!v->packet.fragment && !ftp_sound(skb))
		return DROPPED_WRONG_CHECKSUM;
	talk = ftp_talk(v);
	shift = talk ? *(volatile __u64 *)&talk->shift : 0;
	if (shift && (v->packet.tcp_flags & TCP_ACK) && !ftp_unshift(skb, shift))
		return DROPPED_BY_HELPER;
	if (!v->size || !established || v->packet.fragment)
		return RECEIVED;
	return ftp_listen_client(skb);
}

/* Is this the real server's answer to what was asked? Then v->mode says to what. */
__noinline int ftp_listen_server(struct __sk_buff *skb)
{
	struct ftp_reading *r = at(&ftp_readings, 0);
	struct ftp_visit *v = at(&ftp_visits, 0);
	struct ftp_talk *talk;
	__u64 answered;
	__u32 number;

	if (!v || !r || !tcp_get(skb, v, 4, &number))
		return DROPPED_BY_HELPER;
	talk = ftp_talk(v);
	if (!talk)
		return RECEIVED;
	answered = *(volatile __u64 *)&talk->answered;
	v->first = (answered >> 32) - number;
	v->again = (__u32)answered && v->first < v->size;
	if (!v->again)
		v->first = 0;
	v->mode = v->again ? (__u32)answered : talk->asked;
	if (!v->mode || !ftp_load(skb, v->payload, v->size, v->packet.tuple.family == AF_INET6) ||
	    !ftp_read_server(v->first, v->mode)) {
		v->mode = 0;
		return RECEIVED;
	}
	if (v->again)
		return RECEIVED;
	v->wanted = v->key;
	v->wanted.sport = 0;
	v->wanted.dport = v->wanted_port = r->port;
	return RECEIVED;
}

/* A real server's packet, before it goes on. RECEIVED, or what becomes of it instead. */
__noinline int ftp_reply(struct __sk_buff *skb)
{
	struct ftp_visit *v = at(&ftp_visits, 0);
	struct conn *c;

	if (!v)
		return DROPPED_BY_HELPER;
	c = conn_at(v->found.number);
	if (!c || !conn_same(c, &v->found))
		return UP_JUST_ENDED;
	if (!(c->status & STATUS_FLAG(CONN_FTP)) || (v->packet.tcp_flags & TCP_SYN))
		return RECEIVED;
	if (v->packet.fragment)
		return RECEIVED;
	if (!ftp_sound(skb))
		return DROPPED_WRONG_CHECKSUM;
	if (!v->size || (c->status & STATUS_STATE) != TCP_S_ESTABLISHED)
		return RECEIVED;
	return ftp_listen_server(skb);
}

/* The answer that was read becomes the VIP's; and the sequence number is shifted. RECEIVED, or why it is to be sent again. */
__noinline int ftp_answer(struct __sk_buff *skb)
{
	struct ftp_reading *r = at(&ftp_readings, 0);
	struct ftp_visit *v = at(&ftp_visits, 0);
	__u32 number, length, was;
	struct ftp_talk *talk;
	__u64 shift;

	if (!r || !v || !tcp_get(skb, v, 4, &number))
		return DROPPED_BY_HELPER;
	talk = ftp_talk(v);
	if (!talk)
		return RECEIVED;
	if (v->mode) {
		number += v->first;
		was = r->end - r->begin;
		length = ftp_line(v, &v->key.dst, r->port, v->mode);
		if ((length != was && !shift_on(talk, number, length - was)) || !ftp_rewrite(skb, length))
			return DROPPED_BY_HELPER;
	}
	if (v->mode && !v->again) {
		*(volatile __u64 *)&talk->answered = (__u64)number << 32 | v->mode;
		__sync_val_compare_and_swap(&talk->asked, v->mode, FTP_NOT_ASKED);
	}
	shift = *(volatile __u64 *)&talk->shift;
	return !shift || ftp_shift(skb, shift) ? RECEIVED : DROPPED_BY_HELPER;
}

/* Has the stack the connection's packets in its hands, too? Then what a real server says is read and rewritten when that
 * leaves: connection tracking counts both directions as the real server does. */
static __always_inline int ftp_by_stack(const struct ftp_visit *v)
{
	struct conn *c = conn_at(v->found.number);

	return c && (c->status & STATUS_FLAG(CONN_STACK));
}

/* The way of all connections' packets. */
__noinline int ftp_forward(struct __sk_buff *skb, struct outcome *out, __u64 now)
{
	const struct config *cfg = at(&config, 0);
	struct ftp_visit *v = at(&ftp_visits, 0);
	struct conn *c;

	if (!out || !cfg || !v)
		return UP_JUST_ENDED;
	c = conn_at(v->found.number);
	if (!c)
		return UP_JUST_ENDED;
	if (v->found.from_server)
		return reply(skb, &v->packet, cfg, &v->found, c, out, now);
	return request(skb, &v->packet, cfg, &v->found, c, out, now);
}

/* A packet of a connection: what is heard in it, and changed. RECEIVED, or what becomes of it instead. */
static __always_inline int ftp_listens(struct __sk_buff *skb, struct ftp_visit *v, __u64 now)
{
	int reason = v->found.from_server ? ftp_reply(skb) : ftp_request(skb);

	if (reason == RECEIVED && v->wanted_port)
		reason = ftp_agree(skb, now);
	if (reason == RECEIVED && v->wanted_port)
		reason = ftp_claim(v, &v->agreed, now);
	if (reason == RECEIVED && v->found.from_server)
		reason = ftp_answer(skb);
	return reason;
}

static __always_inline int ftp_way(struct __sk_buff *skb, struct ftp_visit *v, struct outcome *out)
{
	const struct config *cfg = at(&config, 0);
	int reason;
	__u64 now;

	if (!cfg)
		return UP_JUST_ENDED;
	now = now_ns(cfg);
	reason = ftp_find(skb, now);
	if (reason == RECEIVED && !v->found.life) {
		reason = ftp_take(now);
		if (reason == RECEIVED)
			reason = ftp_claim(v, &v->found, now);
	} else if (reason == RECEIVED && v->found.from_server && v->packet.ttl <= 1) {
		reason = UP_REPLY_TTL;
	} else if (reason == RECEIVED && v->found.from_server && ftp_by_stack(v)) {
		reason = !v->packet.fragment && !(v->packet.tcp_flags & TCP_SYN) && !ftp_sound(skb) ?
			 DROPPED_WRONG_CHECKSUM : UP_REPLY_FOR_STACK;
	} else if (reason == RECEIVED) {
		reason = ftp_listens(skb, v, now);
	}
	if (reason == RECEIVED)
		reason = ftp_forward(skb, out, now);
	if (TWO_TABLES && reason <= FORWARDED_TUNNEL)
		follow(&v->packet, &v->found, now);
	/* handed up is only what is as it came */
	if (v->changed && reason > FORWARDED_RELATED && reason < DROPPED_TRUNCATED)
		reason = DROPPED_BY_HELPER;
	if (reason >= DROPPED_TRUNCATED)
		out->verdict = TC_ACT_SHOT;
	return reason;
}

SEC("tc")
int ftp(struct __sk_buff *skb)
{
	struct outcome out = { .verdict = TC_ACT_UNSPEC };
	struct ftp_visit *v = at(&ftp_visits, 0);
	int reason = UP_JUST_ENDED;

	if (!v)
		return TC_ACT_SHOT;
#pragma clang loop unroll(disable)
	for (int i = 0; i < (TWO_TABLES ? 2 : 1) && reason == UP_JUST_ENDED; i++)
		reason = ftp_way(skb, v, &out);
	if (v->packet.fragment)
		first_went(&v->packet, reason);
	return done(skb, &v->packet, &out, reason);
}
