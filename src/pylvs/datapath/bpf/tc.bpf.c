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
#include "load.h"
#include "conn.h"
#include "claim.h"
#include "mark.h"
#include "service.h"
#include "defence.h"
#include "sched.h"
#include "state.h"
#include "xmit/route.h"
#include "xmit/nat.h"
#include "forward.h"
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

/* A packet of a TCP or UDP service that no connection knows (facts 2.3, 2.4), or that opens a new one in the place of
 * the connection in `found`. That one still counts while a real server is chosen, as in the kernel. RECEIVED: what the
 * connection is to be stands in `births`.
 * A function of its own: it is for first packets alone, and its variables are not in the way of all others. */
__noinline int admit(struct __sk_buff *skb, struct packet *p, struct found *found, struct outcome *out, __u64 now)
{
	const struct config *cfg = at(&config, 0);
	struct birth *birth = at(&births, 0);
	struct pool_server *chosen;
	struct service *s;
	__u32 number, pool, place;
	struct dest *d;

	if (!p || !found || !out || !birth || !cfg)
		return UP_NO_SERVICE;
	birth->fwmark = packet_mark(skb, p, cfg);
	number = service_find(p, birth->fwmark);
	s = number ? at(&services, number - 1) : NULL;
	if (!s)
		return UP_NO_SERVICE;
	if (p->truncated) {
		out->verdict = TC_ACT_SHOT;
		return DROPPED_TRUNCATED;
	}
	if (!may_open(p))
		return UP_NO_CONNECTION;
	if (p->tuple.sport == bpf_htons(20))
		return UP_CLIENT_PORT_20;
	if (martian(skb, p))
		return UP_MARTIAN;

	if (defence_drops()) {
		out->verdict = TC_ACT_SHOT;
		return DROPPED_BY_DEFENCE;
	}
	if (other_port(s, p))
		return leave(s, p, out);
	pool = s->pool;
	place = schedule(pool, p);
	if (found->life) {
		conn_release(found->number, found->life, now);
		found->life = 0;
	}
	chosen = place == NOBODY ? NULL : pool_server(pool, place);
	d = chosen ? at(&dests, chosen->dest) : NULL;
	if (!d)
		return leave(s, p, out);
	birth->dest = chosen->dest;
	birth->flags = chosen->flags;
	birth->daddr = d->address;
	birth->dport = d->port ? d->port : p->tuple.dport;
	return RECEIVED;
}

/* Must a connection that exists make way for the one that this SYN opens (facts 2.9)? */
static __always_inline int starts_anew(const struct packet *p, const struct conn *c)
{
	__u32 status = c->status, state = status & STATUS_STATE;
	const struct sysctls *sys = at(&sysctls, 0);

	if (!sys || !begins(p) || !sys->conn_reuse_mode)
		return 0;
	if (state == TCP_S_FIN_WAIT)
		return (sys->conn_reuse_mode & 2) && (status & STATUS_FLAG(CONN_NOOUTPUT));
	return state == TCP_S_TIME_WAIT || state == TCP_S_CLOSE;
}

/* A connection was moved to another table while a packet was at it (move.h), and perhaps before the packet had changed
 * it. So that is done again in its new place: a state to which an event has led is one that it leads to itself. */
__noinline int follow(const struct packet *p, const struct found *was, __u64 now)
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
	count(cfg, d, dest, A_REQUEST, p->length);
	state_move(cfg, c, found, p, INPUT);
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
	count(cfg, d, dest, A_REPLY, p->length);
	state_move(cfg, c, found, p, OUTPUT);
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

/* A request's connection, a new one if need be. RECEIVED: it is in `found`. */
static __always_inline int connect(struct __sk_buff *skb, struct packet *p, const struct config *cfg, struct conn *c,
				   struct found *found, struct outcome *out, __u64 now)
{
	const struct sysctls *sys = at(&sysctls, 0);
	struct birth *birth;
	struct dest *d;
	int reason;

	if (c && !starts_anew(p, c)) {
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
	reason = admit(skb, p, found, out, now);
	if (reason != RECEIVED) {
		if (found->life)
			conn_release(found->number, found->life, now);
		return reason;
	}
	/* not called by admit: the stack is too small for one below the other */
	reason = conn_claim(&p->tuple, found, now);
	if (reason != RECEIVED) {
		out->verdict = TC_ACT_SHOT;
		return reason;
	}
	birth = at(&births, 0);
	d = birth ? at(&dests, birth->dest) : NULL;
	if (d)
		count(cfg, d, birth->dest, A_CONN, 0);
	return RECEIVED;
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
		reason = connect(skb, p, cfg, c, &found, out, now);
		if (reason != RECEIVED)
			return reason;
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
