/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The packet path, on TC ingress of every interface. It reads top to bottom:
 *
 *   parse -> find the connection, from either side -> else find the service, choose a real server, claim a connection
 *         -> state and counters -> forward -> account
 *
 * Each step is a header; none reaches back. Every packet ends in done() with its one reason.
 */
#define DEEP_STACK
#include "prelude.h"
#include "account.h"
#include "parse.h"
#include "table.h"
#include "conn.h"
#include "claim.h"
#include "mark.h"
#include "service.h"
#include "defence.h"
#include "cache.h"
#include "sched.h"
#include "state.h"
#include "persist.h"
#include "sip.h"
#include "xmit/route.h"
#include "xmit/nat.h"
#include "forward.h"
#include "outgoing.h"
#include "icmp.h"
#include "sweep.h"

/* A service was found, but nobody in it for this packet (facts 6.9). */
static __always_inline int leave(const struct service *s, const struct packet *p, struct outcome *out)
{
	if (s->key.port == bpf_htons(PORT_FTP) && p->tuple.dport != bpf_htons(PORT_FTP))
		return UP_FTP_DATA;
	out->error = 1 + ERROR_PORT;
	return DROPPED_NO_DESTINATION;
}

/* A packet of a service that no connection knows (facts 2.3, 2.4), or that opens a new one in the place of one that
 * ends. RECEIVED: it may have a connection, and `births` says from which pool.
 * A function of its own: it is for first packets alone, and its variables are not in the way of all others. */
__noinline int admit(struct __sk_buff *skb, struct packet *p, struct outcome *out)
{
	const struct config *cfg = at(&config, 0);
	struct birth *birth = at(&births, 0);
	struct service *s;
	__u32 number;

	if (!p || !out || !birth || !cfg)
		return UP_NO_SERVICE;
	birth->fwmark = packet_mark(skb, p, cfg);
	number = service_find(p, birth->fwmark);
	s = number ? at(&services, number - 1) : NULL;
	if (!s)
		return UP_NO_SERVICE;
	if (p->truncated || (p->kind == KIND_SCTP && !p->sctp_event)) {
		out->verdict = TC_ACT_SHOT;
		return DROPPED_TRUNCATED;
	}
	if (!may_open(p))
		return UP_NO_CONNECTION;
	if (defence_drops()) {
		out->verdict = TC_ACT_SHOT;
		return DROPPED_BY_DEFENCE;
	}
	if (p->tuple.sport == bpf_htons(20))
		return UP_CLIENT_PORT_20;
	if (martian(skb, p))
		return UP_MARTIAN;
	birth->service = number - 1;
	if (!options_of(birth->service, &birth->options)) {
		out->verdict = TC_ACT_SHOT;
		return DROPPED_CONTENDED;
	}
	birth->own_port = p->tuple.dport == s->key.port;
	birth->persistent = birth->options.flags & POOL_PERSISTENT ? birth->options.timeout : 0;
	birth->once = (birth->options.flags & POOL_ONE_PACKET) && p->tuple.protocol == IPPROTO_UDP;
	if (birth->persistent)
		template_key(&birth->template, p, s, &birth->options);
	else if (!birth->own_port && !s->key.fwmark)
		return leave(s, p, out);
	return RECEIVED;
}

/* Let the service's scheduler choose a real server for what is in `births`. */
__noinline int appoint(const struct packet *p, struct outcome *out)
{
	struct birth *birth = at(&births, 0);
	struct chosen chosen;
	struct service *s;
	int reason;

	if (!p || !out || !birth)
		return UP_NO_SERVICE;
	reason = choose(birth->service, p, &chosen);
	if (reason == RECEIVED && birth_server(birth, p, chosen.dest, chosen.flags))
		return RECEIVED;
	s = at(&services, birth->service);
	return reason == DROPPED_CONTENDED || !s ? DROPPED_CONTENDED : leave(s, p, out);
}

/* Must a connection that exists make way for the one that this SYN or INIT opens (facts 2.9)? */
static __always_inline int starts_anew(const struct packet *p, struct conn *c, __u32 number)
{
	__u32 status = c->status, state = status & STATUS_STATE;
	const struct sysctls *sys = at(&sysctls, 0);
	struct dest_load *load;
	struct conn_rest *rest;

	if (!sys || !begins(p))
		return 0;
	if (sys->expire_nodest_conn) {
		load = at(&dest_loads, c->dest);
		if (load && !load->weight)
			return 1;
	}
	if (!sys->conn_reuse_mode)
		return 0;
	rest = conn_rest(c, number);
	if (rest && rest->control)
		return 0;
	if (p->kind == KIND_SCTP)
		return state == SCTP_S_CLOSED;
	if (state == TCP_S_FIN_WAIT)
		return (sys->conn_reuse_mode & 2) && (status & STATUS_FLAG(CONN_NOOUTPUT));
	return state == TCP_S_TIME_WAIT || state == TCP_S_CLOSE;
}

/* A connection was moved to another table while a packet was at it (move.h), and perhaps before the packet had changed
 * it. So that is done again in its new place: a state to which an event of TCP has led is one that it leads to itself;
 * SCTP's event says whether it has been followed. */
__noinline int follow(struct packet *p, const struct found *was, __u64 now)
{
	const struct config *cfg = at(&config, 0);
	struct found found = {};
	struct conn *c;
	__u64 slot;

	if (!p || !cfg || !was)
		return 0;
	c = conn_at(was->number);
	if (!c || conn_same(c, was))
		return 0;
	slot = table_find(&p->tuple, table_hash(&p->tuple), KINDS(SLOT_CONN) | KINDS(SLOT_BACK));
	found.number = (__u32)slot - 1;
	c = conn_at(found.number);
	if (!slot || !c)
		return 0;
	found.from_server = (slot >> 32 & LIFE_KIND) == SLOT_BACK;
	if (found.from_server) {
		found.number = (__u32)((struct back *)c)->conns - 1;
		c = conn_at(found.number);
		if (!c)
			return 0;
	}
	found.life = *(volatile __u32 *)&c->life;
	if ((found.life & LIFE_KIND) != SLOT_CONN)
		return 0;
	state_move(cfg, c, &found, p, found.from_server ? OUTPUT : INPUT);
	conn_touch(c, now);
	return 1;
}

static __always_inline int request(struct __sk_buff *skb, struct packet *p, const struct config *cfg,
				   struct found *found, struct conn *c, struct outcome *out, __u64 now)
{
	__u32 dest = c->dest;
	struct dest *d = at(&dests, dest);
	struct way way = { .nat = conn_method(c) == METHOD_MASQ, .port = c->dport };

	if (!d || !conn_same(c, found))
		return UP_JUST_ENDED;
	way.address = d->address;
	count(d, dest, A_REQUEST, p->length);
	state_move(cfg, c, found, p, INPUT);
	if (assures(c, p, INPUT))
		template_assure(found->number, found->life);
	conn_touch(c, now);
	c->packets++;
	if (d->flags & DEST_LOCAL)
		return UP_LOCAL_REAL_SERVER;
	return forward_request(skb, p, &way, out, now);
}

static __always_inline int reply(struct __sk_buff *skb, struct packet *p, const struct config *cfg,
				 struct found *found, struct conn *c, struct outcome *out, __u64 now)
{
	__u32 dest = c->dest;
	struct dest *d = at(&dests, dest);
	struct way way = { .nat = conn_method(c) == METHOD_MASQ, .port = c->vport };
	int reason;

	conn_vaddr(c, &way.address);
	if (!d || !conn_same(c, found))
		return UP_JUST_ENDED;
	/* the kernel's forwarding looks at TTL and length before IPVS sees a reply */
	reason = forward_reply(skb, p, &way, out, now);
	if (reason != FORWARDED_NAT_REPLY && reason != UP_REPLY_UNCHANGED)
		return reason;
	count(d, dest, A_REPLY, p->length);
	state_move(cfg, c, found, p, OUTPUT);
	if (assures(c, p, OUTPUT))
		template_assure(found->number, found->life);
	conn_touch(c, now);
	return reason;
}

/* Is this packet, although its addresses are those that the client sees, a reply of a connection? DR and tunnel
 * replies that happen to pass here are. */
__noinline int find_plain_reply(const struct packet *p, struct found *found, __u64 now)
{
	struct tuple key = {};
	struct conn *c;

	if (!p || !found)
		return 0;
	key.src = p->tuple.dst;
	key.dst = p->tuple.src;
	key.sport = p->tuple.dport;
	key.dport = p->tuple.sport;
	key.protocol = p->tuple.protocol;
	key.family = p->tuple.family;
	c = conn_find(&key, now, found);
	if (c && !found->from_server && conn_method(c) != METHOD_MASQ)
		return 1;
	found->life = 0;
	return 0;
}

/* The connection of a packet that was admitted, from the template of its client, which may be a new one, too. */
static __always_inline int connect_persistent(struct __sk_buff *skb, struct packet *p, struct birth *birth,
					      struct outcome *out, __u64 now)
{
	int reason = RECEIVED;

	for (int i = 0; i < 2; i++) {
		if (birth->options.engine == ENGINE_SIP && sip_key(skb, p) != RECEIVED)
			return DROPPED_NOT_SIP;
		reason = template_find(p, now);
		if (reason != DROPPED_NO_DESTINATION)
			return reason;
		reason = appoint(p, out);
		if (reason != RECEIVED)
			return reason;
		/* again: the number may be that of a template that was just found to be invalid */
		if (birth->options.engine == ENGINE_SIP && sip_key(skb, p) != RECEIVED)
			return DROPPED_TABLE_FULL;
		if (defence_full())
			return DROPPED_CONN_MAX;
		template_prepare(birth);
		reason = conn_claim(&birth->template, &birth->holder, now);
		if (reason != RECEIVED)
			return reason;
	}
	return DROPPED_CONTENDED;
}

/* A request's connection, a new one if need be. RECEIVED: it is in `found`, or it is for this packet alone (birth->once)
 * and stands in `births`. */
static __always_inline int connect(struct __sk_buff *skb, struct packet *p, struct birth *birth, struct conn *c,
				   struct found *found, struct outcome *out, __u64 now)
{
	const struct sysctls *sys = at(&sysctls, 0);
	struct dest *d;
	int reason;

	if (c && !starts_anew(p, c, found->number)) {
		d = at(&dests, c->dest);
		if (!d || (d->flags & DEST_AVAILABLE))
			return RECEIVED;
		if (!sys || !sys->expire_nodest_conn) {
			out->verdict = TC_ACT_SHOT;
			return DROPPED_DESTINATION_GONE;
		}
		conn_release(found->number, found->life, now);
		found->life = 0;
	}
	birth->control = 0;	/* of the packet before */
	reason = admit(skb, p, out);
	/* what is to make way still counts while a real server is chosen, as in the kernel */
	if (reason == RECEIVED)
		reason = birth->persistent ? connect_persistent(skb, p, birth, out, now) : appoint(p, out);
	if (found->life)
		conn_release(found->number, found->life, now);
	found->life = 0;
	if (reason == RECEIVED && defence_full())
		reason = DROPPED_CONN_MAX;
	birth->made = 0;
	if (reason == RECEIVED && !birth->once) {
		birth->kind = SLOT_CONN;
		birth->timeout = 3000;	/* until the protocol sets its own */
		reason = conn_claim(&p->tuple, found, now);
	}
	if (birth->control && !birth->made && !(reason == RECEIVED && birth->once))
		control_leave(birth->control);
	if (reason != RECEIVED) {
		if (reason >= DROPPED_TRUNCATED && !out->error)
			out->verdict = TC_ACT_SHOT;
		return reason;
	}
	if (birth->control)
		template_used(now);
	d = at(&dests, birth->dest);
	if (d && (birth->made || birth->once))
		count(d, birth->dest, A_CONN, 0);
	return RECEIVED;
}

/* One-packet scheduling: a connection that begins and ends with this packet, and is never in the table (facts 2.5). */
static __always_inline void once_ended(struct birth *birth, struct dest_load *load, __u64 now)
{
	load_unbind(load, birth->flags | CONN_INACTIVE, now);
	if (birth->control)
		control_leave(birth->control);
}

__noinline int once(struct __sk_buff *skb, struct packet *p, struct outcome *out, __u64 now)
{
	struct birth *birth = at(&births, 0);
	struct dest_load *load;
	struct way way = {};
	struct dest *d;
	int reason;

	if (!p || !out || !birth)
		return UP_JUST_ENDED;
	d = at(&dests, birth->dest);
	load = at(&dest_loads, birth->dest);
	if (!d || !load)
		return UP_JUST_ENDED;
	way.address = birth->daddr;
	way.port = birth->dport;
	way.nat = (birth->flags & CONN_METHOD) == METHOD_MASQ;
	load_bind(load, birth->flags);
	count(d, birth->dest, A_REQUEST, p->length);
	reason = d->flags & DEST_LOCAL ? UP_LOCAL_REAL_SERVER : forward_request(skb, p, &way, out, now);
	once_ended(birth, load, now);
	return reason;
}

/* The same, begun by the real server. */
__noinline int once_spoken(struct __sk_buff *skb, struct packet *p, struct outcome *out, __u64 now)
{
	struct birth *birth = at(&births, 0);
	struct way way = { .nat = 1 };
	struct dest_load *load;
	struct dest *d;
	int reason;

	if (!p || !out || !birth)
		return UP_JUST_ENDED;
	d = at(&dests, birth->dest);
	load = at(&dest_loads, birth->dest);
	if (!d || !load)
		return UP_JUST_ENDED;
	way.address = d->key.address;
	way.port = d->key.port;
	load_bind(load, birth->flags);
	reason = forward_reply(skb, p, &way, out, now);
	if (reason == FORWARDED_NAT_REPLY)
		count(d, birth->dest, A_REPLY, p->length);
	once_ended(birth, load, now);
	return reason;
}

static __always_inline int way(struct __sk_buff *skb, struct packet *p, struct outcome *out)
{
	const struct config *cfg = at(&config, 0);
	struct runtime *rt = at(&runtime, 0);
	struct found found = {};
	struct conn *c;
	int reason;
	__u64 now;

	if (!cfg || !rt)
		return UP_NO_SERVICE;
	reason = parse(skb, p);
	if (reason != RECEIVED)
		return reason;
	if (!(cfg->families & (p->tuple.family == AF_INET ? SERVES_IPV4 : SERVES_IPV6)))
		return UP_NO_SERVICE;
	p->uncounted = cfg->mark_device ^ skb->ingress_ifindex;
	now = now_ns(cfg);
	sweep_if_late(cfg, rt, now);

	c = conn_find_fast(&p->tuple, now, &found);
	if (TWO_TABLES && !c && found.again)	/* each of its two slots is moved once: the third look finds it */
		return UP_JUST_ENDED;
	if (c && p->truncated) {
		out->verdict = TC_ACT_SHOT;
		return DROPPED_TRUNCATED;
	}
	if (!c && !p->truncated && may_be_plain_reply(&p->tuple))
		found.from_server = find_plain_reply(p, &found, now);
	if (!found.from_server) {
		struct birth *birth = at(&births, 0);

		if (!birth)
			return UP_NO_SERVICE;
		birth->once = birth->speaker = 0;
		reason = connect(skb, p, birth, c, &found, out, now);
		if (reason == UP_NO_SERVICE && (cfg->families & SERVES_SPEAKERS) && p->tuple.protocol == IPPROTO_UDP)
			reason = outgoing_connect(skb, p, birth, &found, out, now);
		if (reason != RECEIVED)
			return reason;
		if (birth->once)
			return birth->speaker ? once_spoken(skb, p, out, now) : once(skb, p, out, now);
	}
	c = conn_at(found.number);
	if (!c)
		return UP_JUST_ENDED;
	if (found.from_server)
		reason = reply(skb, p, cfg, &found, c, out, now);
	else
		reason = request(skb, p, cfg, &found, c, out, now);
	if (TWO_TABLES && reason <= FORWARDED_ROUTE)
		follow(p, &found, now);
	return reason;
}

/* What is known of the packet at hand. With two tables there is too little stack for it. */
#if TWO_TABLES
MAP(packets, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct packet, 1, 0);
#define PACKET(name) struct packet *name = at(&packets, 0)
#else
#define PACKET(name) struct packet name##_here, *name = &name##_here
#endif

SEC("tc")
int ingress(struct __sk_buff *skb)
{
	/* unless something else is decided: to whoever comes next, other TC programs, then the stack */
	struct outcome out = { .verdict = TC_ACT_UNSPEC };
	int reason = UP_JUST_ENDED;
	PACKET(p);

	if (!p)
		return TC_ACT_UNSPEC;
	__builtin_memset(p, 0, sizeof(*p));
	note(RECEIVED);
#pragma clang loop unroll(disable)
	for (int i = 0; i < (TWO_TABLES ? 2 : 1) && reason == UP_JUST_ENDED; i++)	/* or it was moved: look again */
		reason = way(skb, p, &out);
	if (out.error) {
		if (!p->uncounted)
			uncount_hop(skb, p);	/* what is quoted is the packet as it came to the director */
		out.verdict = icmp_answer(skb, p, out.error - 1, out.mtu);
	}
	note(reason);
	return out.verdict;
}

const volatile union names names;
char LICENSE[] SEC("license") = "Dual BSD/GPL";
