/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What the stack says, or passes on, about packets of connections that it has had in its hands: ICMP errors, and the
 * resets of a firewall that rejects. It knows the connection as between client and real server; who reads it knows the VIP.
 *
 *   to the client, about a request:      the quoted destination becomes the VIP, and so does whoever speaks
 *   to the real server, about a reply:   of LVS-NAT it is right as it is; of LVS-DR and LVS-TUN the VIP is put back, as
 *                                        in requests
 *   the director's own, about a reply of a service whose address is elsewhere:   by lo, as its requests
 */
#pragma once

/* The connection whose real server, expecting the VIP, has these addresses at its side; or NULL. */
static __always_inline struct conn *complaint_aside(struct quote *q, const struct tuple *quoted, __u32 reversed, __u64 now)
{
	struct tuple *key = &q->aside;
	struct conn *c;

	key->src = reversed ? quoted->dst : quoted->src;
	key->dst = reversed ? quoted->src : quoted->dst;
	key->sport = reversed ? quoted->dport : quoted->sport;
	key->dport = reversed ? quoted->sport : quoted->dport;
	key->protocol = quoted->protocol ^ BACK_ASIDE;
	key->family = quoted->family;
	key->unused = 0;
	c = conn_find(key, now, &q->found);
	return q->found.from_server ? c : NULL;
}

/* An error that leaves, as it came to the stack: into `quotes`. RECEIVED: it may be about a connection. */
__noinline int complaint_read(struct __sk_buff *skb)
{
	struct quote *q = at(&quotes, 0);

	if (!q)
		return UP_PROTOCOL;
	__builtin_memset(&q->error, 0, sizeof(q->error));
	if (parse(skb, &q->error) != UP_PROTOCOL || q->error.fragment || !is_icmp(&q->error))
		return UP_PROTOCOL;
	q->error.uncounted = 1;
	return quote_read(skb, &q->error);
}

/* Whom is it about? RECEIVED: the connection's that is in `quotes` then, with the addresses to be put there; a request's
 * (q->found.from_server), or a reply's. */
__noinline int complaint_find(struct __sk_buff *skb, __u64 now)
{
	__u32 own = !skb->ingress_ifindex;
	struct quote *q = at(&quotes, 0);
	struct conn *c;

	if (!q)
		return UP_PROTOCOL;
	c = conn_find(&q->packet.tuple, now, &q->found);
	if (TWO_TABLES && !c && q->found.again)
		return UP_JUST_ENDED;
	if (c && !q->found.from_server)
		return own ? SENT_TO_LO : UP_PROTOCOL;
	if (c) {
		q->way.port = c->vport;
		if (!own && !(c->status & STATUS_FLAG(CONN_STACK)))
			return UP_PROTOCOL;
	} else if (own) {	/* nobody else has seen a request to such a real server's address */
		c = complaint_aside(q, &q->packet.tuple, 0, now);
		q->way.port = q->packet.tuple.sport;
	} else {
		c = complaint_aside(q, &q->packet.tuple, 1, now);
		q->way.port = q->packet.tuple.dport;
		q->found.from_server = 0;
	}
	if (!c)
		return UP_PROTOCOL;
	conn_vaddr(c, &q->way.address);
	q->tunnel = conn_method(c) == METHOD_TUNNEL;
	q->way.nat = conn_method(c) == METHOD_MASQ;
	q->dest = c->dest;
	return conn_same(c, &q->found) ? RECEIVED : UP_JUST_ENDED;
}

/* To the client, in the VIP's name. */
__noinline int complaint_to_client(struct __sk_buff *skb, struct outcome *out, __u64 now)
{
	struct quote *q = at(&quotes, 0);
	struct dest *d;

	if (!q || !out)
		return SENT_REPLY;
	d = at(&dests, q->dest);
	out->verdict = TC_ACT_SHOT;
	if (!quote_translate(skb, &q->error, 1))
		return SENT_REPLY;
	if (d && q->way.nat)
		count(d, q->dest, A_REPLY, q->error.length);
	out->verdict = reroute(skb, &q->error, &q->way, now);
	return SENT_REPLY;
}

/* To a real server that expects the VIP, and perhaps into its tunnel. */
__noinline int complaint_to_server(struct __sk_buff *skb, struct outcome *out, __u64 now)
{
	struct quote *q = at(&quotes, 0);

	if (!q || !out)
		return SENT_REQUEST;
	out->verdict = TC_ACT_SHOT;
	if (!quote_translate(skb, &q->error, 0))
		return SENT_REQUEST;
	out->verdict = TC_ACT_UNSPEC;
	if (!q->tunnel)
		return SENT_REQUEST;
	q->error.tuple.dst = q->way.address;
	uncount_hop(skb, &q->error);
	tunnel_request(skb, &q->error, q->dest, out, now);
	out->error = 0;		/* about an error there is none */
	return SENT_REQUEST;
}

/* The director resets what its firewall has rejected, in the name of a real server that the client does not know. */
__noinline int complaint_reset(struct __sk_buff *skb, struct outcome *out, __u64 now)
{
	struct quote *q = at(&quotes, 0);
	struct conn *c;

	if (!out || !q || skb->ingress_ifindex)
		return RECEIVED;
	__builtin_memset(&q->error, 0, sizeof(q->error));
	__builtin_memset(&q->way, 0, sizeof(q->way));
	if (parse(skb, &q->error) != RECEIVED || q->error.truncated || q->error.tuple.protocol != IPPROTO_TCP)
		return RECEIVED;
	c = complaint_aside(q, &q->error.tuple, 0, now);
	if (!c)
		return RECEIVED;
	conn_vaddr(c, &q->way.address);
	q->way.port = q->error.tuple.sport;
	if (!conn_same(c, &q->found))
		return RECEIVED;
	q->way.nat = 1;
	q->way.stays = STAYS_HERE;
	stay(skb, &q->error, &q->way, out, 1);
	return SENT_REPLY;
}

static __always_inline int complaint_way(struct __sk_buff *skb, struct outcome *out)
{
	const struct config *cfg = at(&config, 0);
	struct quote *q = at(&quotes, 0);
	int reason;
	__u64 now;

	if (!cfg || !q)
		return RECEIVED;
	now = now_ns(cfg);
	reason = complaint_read(skb);
	if (reason != RECEIVED)
		return complaint_reset(skb, out, now);
	reason = complaint_find(skb, now);
	if (reason == SENT_TO_LO && (cfg->egress & EGRESS_OWN))
		out->verdict = to_lo(skb);
	if (reason != RECEIVED)
		return reason;
	if (q->found.from_server)
		return complaint_to_client(skb, out, now);
	return complaint_to_server(skb, out, now);
}

/* What was passed on by `egress`. */
SEC("tc")
int complaint(struct __sk_buff *skb)
{
	struct outcome out = { .verdict = TC_ACT_UNSPEC };
	int reason = UP_JUST_ENDED;
	struct quote *q;

#pragma clang loop unroll(disable)
	for (int i = 0; i < (TWO_TABLES ? 2 : 1) && reason == UP_JUST_ENDED; i++)
		reason = complaint_way(skb, &out);
	q = at(&quotes, 0);
	if (q && out.mtu) {
		out.verdict = cut_up(skb, &q->error, out.mtu);
		if (out.verdict < 0)
			out.verdict = TC_ACT_SHOT;
	}
	if (reason == SENT_REPLY || reason == SENT_REQUEST || (reason == SENT_TO_LO && out.verdict != TC_ACT_UNSPEC))
		sent(reason, &out);
	else if (q && for_nobody(&q->error))
		out.verdict = TC_ACT_SHOT;
	return out.verdict;
}
