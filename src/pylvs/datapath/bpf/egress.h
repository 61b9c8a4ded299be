/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * On TC egress of the director's interfaces, as long as there is something to do (config.egress):
 *
 *   replies of LVS-NAT real servers that the stack has had in its hands, because the real server is the director itself or
 *     because conntrack is on, get the service's address and port as their source;
 *   requests that the stack has forwarded, addressed to their real server (LVS-DR, LVS-TUN), get their VIP again, and go into
 *     their tunnel;
 *   what the director itself asks a service for whose address is another machine's is made to come in by lo, where
 *     `ingress` sees it like every request.
 * ICMP errors about any of these follow them (complaint.h).
 *
 * Of a datagram that the stack sends in fragments, the others follow the first one, as on ingress (fragment.h); they leave
 * in their order.
 *
 * Each is counted under a reason beginning with SENT_; all other packets pass by.
 */
#pragma once

/* The packet at hand. Not the one that came in: pieces and copies leave while the other program still works on that. (With
 * `pieces` it has done when it sends something.) */
struct departure {
	struct packet packet;
	__u32 tunnel;		/* 1 + number of the real server to which a tunnel takes it from here; 0: none */
};

MAP(leaving_packets, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct departure, 1, 0);

/* It goes into the tunnel to that real server, for it has its VIP again. */
static __always_inline void leave_by_tunnel(struct packet *p, const union address *vip, __u32 dest)
{
	struct departure *leaving = at(&leaving_packets, 0);

	p->tuple.dst = *vip;
	if (leaving)
		leaving->tunnel = 1 + dest;
}

/* The stack has routed a reply as its real server's, and the VIP's way may be another (facts 6.5). */
static __always_inline int reroute(struct __sk_buff *skb, const struct packet *p, const struct way *way, __u64 now)
{
	struct bpf_fib_lookup fib;
	union address caddr = p->tuple.dst;
	enum routed routed;
	int neighbour = 0;

	if (!reroutes())
		return TC_ACT_UNSPEC;
	routed = route(skb, &fib, p->tuple.family, &way->address, &caddr, 0, now, &neighbour);
	if ((routed != ROUTED && routed != ROUTED_UNRESOLVED) || (routed != ROUTED && fib.ifindex == skb->ifindex))
		return TC_ACT_UNSPEC;
	if (fib.ifindex != skb->ifindex)
		return transmit(skb, &fib, neighbour);
	return set_hop(skb, &fib);
}

/* A reply that the stack is sending. */
__noinline int egress_reply(struct __sk_buff *skb, struct packet *p, struct found *found, struct outcome *out, __u64 now)
{
	const struct config *cfg = at(&config, 0);
	struct way way = { .nat = 1, .stays = STAYS_HERE };
	struct conn *c;
	struct dest *d;
	__u32 dest;

	if (!p || !found || !out || !cfg)
		return RECEIVED;
	c = conn_at(found->number);
	if (!c)
		return RECEIVED;
	dest = c->dest;
	d = at(&dests, dest);
	way.port = c->vport;
	conn_vaddr(c, &way.address);
	if (!d || !conn_same(c, found))
		return RECEIVED;
	if (p->fragment)
		first_goes(&way, dest, METHOD_MASQ, 1);
	if (stay(skb, p, &way, out, 1) != FORWARDED_LOCAL)
		return SENT_REPLY;
	count(d, dest, A_REPLY, p->length);
	state_move(cfg, c, found, p, OUTPUT);
	if (assures(c, p, OUTPUT))
		template_assure(found->number, found->life);
	conn_touch(c, now);
	out->verdict = reroute(skb, p, &way, now);
	return SENT_REPLY;
}

/* A request that the stack is forwarding to its real server's address, though the real server expects the VIP. */
__noinline int egress_request(struct __sk_buff *skb, struct packet *p, struct outcome *out, __u64 now)
{
	struct way way = { .nat = 1, .stays = STAYS_HERE };
	struct found found = {};
	struct tuple key = {};
	__u32 dest, tunnel;
	struct conn *c;

	if (!p || !out)
		return RECEIVED;
	key.src = p->tuple.dst;
	key.dst = p->tuple.src;
	key.sport = p->tuple.dport;
	key.dport = p->tuple.sport;
	key.protocol = p->tuple.protocol ^ BACK_ASIDE;
	key.family = p->tuple.family;
	c = conn_find(&key, now, &found);
	if (!c || !found.from_server)
		return RECEIVED;
	conn_vaddr(c, &way.address);
	way.port = p->tuple.dport;
	dest = c->dest;
	tunnel = conn_method(c) == METHOD_TUNNEL;
	if (!conn_same(c, &found))
		return RECEIVED;
	if (p->fragment)
		first_goes(&way, dest, tunnel ? METHOD_TUNNEL : METHOD_ROUTE, 0);
	if (stay(skb, p, &way, out, 0) == FORWARDED_LOCAL && tunnel)
		leave_by_tunnel(p, &way.address, dest);
	return SENT_REQUEST;
}

/* A packet of one-packet scheduling that the stack is forwarding. */
__noinline int egress_passing(struct __sk_buff *skb, struct packet *p, struct outcome *out, __u64 now)
{
	struct way way = { .nat = 1, .stays = STAYS_HERE };
	struct passing *known;
	__u32 dest, method, reply;
	struct dest *d;

	if (!p || !out)
		return RECEIVED;
	known = passing_find(p, now);
	if (!known)
		return RECEIVED;
	way.address = known->address;
	way.port = known->port;
	dest = known->dest;
	method = known->method;
	reply = known->reply;
	if (p->fragment)
		first_goes(&way, dest, method, reply);
	if (stay(skb, p, &way, out, reply) != FORWARDED_LOCAL)
		return reply ? SENT_REPLY : SENT_REQUEST;
	if (!reply && method == METHOD_TUNNEL)
		leave_by_tunnel(p, &way.address, dest);
	if (!reply)
		return SENT_REQUEST;
	d = at(&dests, dest);
	if (d)
		count(d, dest, A_REPLY, p->length);
	out->verdict = reroute(skb, p, &way, now);
	return SENT_REPLY;
}

/* A fragment leaves that is not its datagram's first one. RECEIVED: nothing was done with that. */
__noinline int egress_piece(struct __sk_buff *skb, struct packet *p, struct outcome *out, __u64 now)
{
	struct piece *f = at(&pieces, 0);
	__u32 reason;

	if (!p || !out || !f || !piece_read(skb, p))
		return RECEIVED;
	f->key.leaving = 1;
	if (!datagram_find(now))
		return RECEIVED;
	datagram_seen(now);
	reason = f->datagram.reason;
	if (reason == SENT_TO_LO) {
		out->verdict = to_lo(skb);
		return reason;
	}
	p->kind = KIND_PIECE;
	p->tuple.sport = f->datagram.sport;
	p->tuple.dport = f->datagram.dport;
	if (stay(skb, p, &f->datagram.way, out, f->datagram.reply) != FORWARDED_LOCAL)
		return reason;
	if (!f->datagram.reply) {
		if (f->datagram.method == METHOD_TUNNEL)
			leave_by_tunnel(p, &f->datagram.way.address, f->datagram.dest - 1);
		return reason;
	}
	count_bytes(p, f->size);
	out->verdict = reroute(skb, p, &f->datagram.way, now);
	return reason;
}

/* A first fragment leaves. 0: it makes no sense. */
__noinline int egress_reads(struct __sk_buff *skb, struct packet *p)
{
	struct piece *f = at(&pieces, 0);

	if (!p || !f || !piece_read(skb, p))
		return 0;
	f->key.leaving = 1;
	p->fragment = PIECE_KNOWN;
	return 1;
}

/* What became of a first fragment that leaves, for its others to follow. */
__noinline int egress_first(const struct packet *p, __u32 reason)
{
	const struct config *cfg = at(&config, 0);
	struct piece *f = at(&pieces, 0);
	struct piece_key key;

	if (!p || !f || !cfg)
		return 0;
	key = f->key;
	if (reason != SENT_REPLY && reason != SENT_REQUEST && reason != SENT_TO_LO) {
		/* the others may not follow an older one of the same identification */
		if (bpf_map_lookup_elem(&datagrams, &key))
			bpf_map_delete_elem(&datagrams, &key);
		return 0;
	}
	if (p->tuple.family == AF_INET6 && reason == SENT_REPLY)
		count_bytes(p, -FRAGMENT_HEADER);
	f->datagram.deadline = now_ns(cfg) + (p->tuple.family == AF_INET ? IPV4_NS : IPV6_NS);
	f->datagram.reason = reason;
	f->datagram.sport = p->tuple.sport;
	f->datagram.dport = p->tuple.dport;
	f->datagram.seen = f->size;
	f->datagram.total = 0;
	f->datagram.whole = 0;
	bpf_map_update_elem(&datagrams, &key, &f->datagram, BPF_ANY);
	return 1;
}

/* RECEIVED: none of ours. */
static __always_inline int egress_way(struct __sk_buff *skb, struct packet *p, struct outcome *out)
{
	const struct config *cfg = at(&config, 0);
	__u32 own = !skb->ingress_ifindex;	/* nobody has sent it to us */
	struct found found = {};
	int reason = RECEIVED;
	struct conn *c;
	__u64 now;

	if (!cfg || !(cfg->egress & (own ? EGRESS_OWN | EGRESS_LOCAL | EGRESS_STACK : EGRESS_STACK)))
		return RECEIVED;
	reason = parse(skb, p);
	if (!(cfg->families & (p->tuple.family == AF_INET ? SERVES_IPV4 : SERVES_IPV6)))
		return RECEIVED;
	if (reason == UP_PROTOCOL && !p->fragment && is_icmp(p))
		return UP_PROTOCOL;
	now = now_ns(cfg);
	if (reason == UP_FRAGMENT)
		return egress_piece(skb, p, out, now);
	if (reason != RECEIVED || p->truncated)
		return RECEIVED;
	if (p->fragment && !egress_reads(skb, p))
		return RECEIVED;
	c = conn_find(&p->tuple, now, &found);
	if (TWO_TABLES && !c && found.again)
		return UP_JUST_ENDED;
	if (c && found.from_server && (own || (c->status & STATUS_FLAG(CONN_STACK))))
		return c->status & STATUS_FLAG(CONN_FTP) ? DROPPED_BY_HELPER : egress_reply(skb, p, &found, out, now);
	if (c && found.from_server)
		return RECEIVED;
	/* the stack does not say of all fragments that it makes whether they are its own */
	if (!c && (!own || (p->fragment && (cfg->egress & EGRESS_STACK)))) {
		reason = egress_request(skb, p, out, now);
		if (reason == RECEIVED)
			reason = egress_passing(skb, p, out, now);
	}
	if (!own || reason != RECEIVED)
		return reason;
	if (!c && (cfg->egress & EGRESS_STACK) && p->tuple.protocol == IPPROTO_TCP && (p->tcp_flags & TCP_RST))
		return UP_PROTOCOL;
	if (!(cfg->egress & EGRESS_OWN) || (!c && !(may_open(p) && service_find(p, packet_mark(skb, p, cfg)))))
		return RECEIVED;
	out->verdict = to_lo(skb);
	return SENT_TO_LO;
}

static __always_inline void sent(__u32 reason, const struct outcome *out)
{
	note(out->verdict == TC_ACT_SHOT ? SENT_FAILED : reason);
}

/* Nobody but a real server that it stands for has such an address: what is for none must not go round. */
static __always_inline int for_nobody(const struct packet *p)
{
	const struct config *cfg = at(&config, 0);
	const union address *to = &p->tuple.dst;

	if (!cfg || !(cfg->egress & EGRESS_OTHER))
		return 0;
	if (p->tuple.family == AF_INET)
		return (to->word[0] & bpf_htonl(0xff000000)) == bpf_htonl(STAND_IN_IPV4);
	return to->word[0] == bpf_htonl(STAND_IN_IPV6_FIRST) && to->word[1] == bpf_htonl(STAND_IN_IPV6_SECOND);
}

/* A request goes into its tunnel. What the stack has counted down is counted there. */
__noinline int egress_wrap(struct __sk_buff *skb, struct departure *leaving, struct outcome *out)
{
	const struct config *cfg = at(&config, 0);

	if (!leaving || !out || !cfg)
		return DROPPED_REWRITE_FAILED;
	uncount_hop(skb, &leaving->packet);
	return tunnel_request(skb, &leaving->packet, leaving->tunnel - 1, out, now_ns(cfg));
}

SEC("tc")
int egress(struct __sk_buff *skb)
{
	struct outcome out = { .verdict = TC_ACT_UNSPEC };
	struct departure *leaving = at(&leaving_packets, 0);
	int reason = UP_JUST_ENDED;
	struct packet *p;

	if (!leaving)
		return TC_ACT_UNSPEC;
	__builtin_memset(leaving, 0, sizeof(*leaving));
	p = &leaving->packet;
#pragma clang loop unroll(disable)
	for (int i = 0; i < (TWO_TABLES ? 2 : 1) && reason == UP_JUST_ENDED; i++)
		reason = egress_way(skb, p, &out);
	if (reason == UP_PROTOCOL)
		bpf_tail_call(skb, &steps, STEP_COMPLAINT);
	if (reason == DROPPED_BY_HELPER) {
		bpf_tail_call(skb, &steps, STEP_FTP_LEAVES);
		note(SENT_FAILED);	/* there is no such step */
		return TC_ACT_SHOT;
	}
	if (p->fragment == PIECE_KNOWN)
		egress_first(p, reason);
	if (reason == RECEIVED && for_nobody(p)) {
		note(SENT_FAILED);
		return TC_ACT_SHOT;
	}
	if (leaving->tunnel)
		egress_wrap(skb, leaving, &out);
	if (out.mtu && !out.error) {	/* it was not too long for the stack, but is for its tunnel */
		out.verdict = cut_up(skb, p, out.mtu);
		if (out.verdict < 0)
			out.verdict = TC_ACT_SHOT;
	}
	if (reason == SENT_REPLY || reason == SENT_REQUEST || reason == SENT_TO_LO)
		sent(reason, &out);
	return out.verdict;
}
