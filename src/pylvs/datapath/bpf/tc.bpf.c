/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The packet path, on TC ingress of every interface. It reads top to bottom:
 *
 *   parse -> find the connection, from either side -> else admit a new one: service, template or scheduler, claim
 *         -> state and counters -> forward -> account
 *
 * Each step is a header; none reaches back. Every packet is counted under its one reason.
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
#include "xmit/sum.h"
#include "xmit/cut.h"
#include "forward.h"
#include "xmit/wrap.h"
#include "xmit/mtu.h"
#include "xmit/tunnel.h"
#include "admit.h"
#include "outgoing.h"
#include "icmp.h"
#include "sweep.h"
#include "steps.h"

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

static __always_inline int past_all(int reason)
{
	return reason == FORWARDED_ROUTE ? FORWARDED_BYPASS : reason;
}

/* A packet of a connection without a real server: a request goes on to where it was going, and a reply is on its way
 * anyhow. They count for nobody. */
__noinline int bypass(struct __sk_buff *skb, struct packet *p, const struct found *found, struct outcome *out, __u64 now)
{
	const struct config *cfg = at(&config, 0);
	struct way way = {};
	struct conn *c;

	if (!p || !found || !out || !cfg)
		return UP_JUST_ENDED;
	c = conn_at(found->number);
	if (!c || conn_method(c) != METHOD_BYPASS || !conn_same(c, found))
		return UP_JUST_ENDED;
	if (found->from_server && p->ttl <= 1)
		return UP_REPLY_TTL;
	state_move(cfg, c, found, p, found->from_server ? OUTPUT : INPUT);
	conn_touch(c, now);
	if (found->from_server)
		return UP_REPLY_UNCHANGED;
	c->packets++;
	way.address = p->tuple.dst;
	if (c->status & STATUS_FLAG(CONN_STACK))
		way.stays = STAYS_ROUTED;
	return past_all(forward_request(skb, p, &way, out, now));
}

/* The real server is the director itself. What is not LVS-NAT's, or would be translated into what it is, goes up as it
 * came (facts 6.4). */
__noinline int to_local_server(struct __sk_buff *skb, struct packet *p, struct way *way, struct outcome *out)
{
	int loopback;

	if (!p || !way || !out)
		return UP_LOCAL_REAL_SERVER;
	if (!way->nat)
		return UP_LOCAL_REAL_SERVER;
	loopback = p->tuple.family == AF_INET ? (bpf_ntohl(way->address.word[0]) >> 24) == 127 :
		   !way->address.word[0] && !way->address.word[1] && !way->address.word[2];
	if (loopback && skb->ingress_ifindex != LO_IFINDEX) {
		out->verdict = TC_ACT_SHOT;
		return DROPPED_LOOPBACK;
	}
	way->stays = STAYS_HERE;
	return stay(skb, p, way, out, 0);
}

static __always_inline int request(struct __sk_buff *skb, struct packet *p, const struct config *cfg,
				   struct found *found, struct conn *c, struct outcome *out, __u64 now)
{
	__u32 dest = c->dest;
	struct dest *d = at(&dests, dest);
	struct way way = { .nat = conn_method(c) == METHOD_MASQ, .port = c->dport };
	int reason;

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
		return to_local_server(skb, p, &way, out);
	if ((c->status & STATUS_FLAG(CONN_STACK)) && skb->ingress_ifindex != LO_IFINDEX) {
		way.stays = STAYS_ROUTED;
		stack_address(d, dest, p->tuple.family, &way.address);
	}
	if (conn_method(c) != METHOD_TUNNEL)
		reason = forward_request(skb, p, &way, out, now);
	else if (way.stays)
		reason = tunnel_stays(skb, p, dest, out, now);
	else
		return tunnel_request(skb, p, dest, out, now);
	if (reason != FORWARDED_BY_STACK)
		return reason;
	if (!way.nat)	/* its VIP is put back on its way out (egress.h) */
		way.port = p->tuple.dport;
	way.nat = 1;
	return stay(skb, p, &way, out, 0);
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
	if (way.nat && (c->status & STATUS_FLAG(CONN_STACK)))
		return UP_REPLY_FOR_STACK;	/* and back on its way out (egress.h) */
	/* the kernel's forwarding looks at TTL and length before IPVS sees a reply */
	if (c->status & STATUS_FLAG(CONN_OWN)) {
		way.stays = COMES_HOME;
		reason = stay(skb, p, &way, out, 1);
	} else {
		reason = forward_reply(skb, p, &way, out, now);
	}
	if (reason != FORWARDED_NAT_REPLY && reason != UP_REPLY_UNCHANGED && reason != FORWARDED_LOCAL)
		return reason;
	count(d, dest, A_REPLY, p->length);
	state_move(cfg, c, found, p, OUTPUT);
	if (assures(c, p, OUTPUT))
		template_assure(found->number, found->life);
	conn_touch(c, now);
	return reason;
}

/* Is this packet, although its addresses are those that the client sees, a reply of a connection? DR and tunnel
 * replies that happen to pass here are: 1. 2: it is one to a client on the director, which was seen when it came from
 * elsewhere, and is now on its way home by lo. */
__noinline int find_plain_reply(const struct packet *p, struct found *found, __u64 now)
{
	struct tuple key = {};
	int plain = 0;
	struct conn *c;
	struct dest *d;

	if (!p || !found)
		return 0;
	key.src = p->tuple.dst;
	key.dst = p->tuple.src;
	key.sport = p->tuple.dport;
	key.dport = p->tuple.sport;
	key.protocol = p->tuple.protocol;
	key.family = p->tuple.family;
	c = conn_find(&key, now, found);
	if (c && !found->from_server) {
		d = at(&dests, c->dest);
		if ((c->status & STATUS_FLAG(CONN_OWN)) && d && !(d->flags & DEST_LOCAL))
			plain = 2;
		if (conn_method(c) != METHOD_MASQ)
			return 1 | plain;
	}
	found->life = 0;
	return plain;
}

#include "fragment.h"
#include "passing.h"

/* One-packet scheduling: a connection that begins and ends with this packet, and is never in the table (facts 2.5). */
static __always_inline void once_ended(struct birth *birth, struct dest_load *load, __u64 now)
{
	load_unbind(load, birth->flags | CONN_INACTIVE, now);
	if (birth->control)
		control_leave(birth->control);
}

/* It goes to the stack, addressed to its real server. */
__noinline int once_stays(struct __sk_buff *skb, struct packet *p, struct way *way, struct outcome *out, __u64 now)
{
	struct birth *birth = at(&births, 0);

	if (!p || !way || !out || !birth)
		return DROPPED_REWRITE_FAILED;
	if (!way->nat) {
		if (!passing_put(p, way, birth->dest, birth->flags & CONN_METHOD, now)) {
			out->verdict = TC_ACT_SHOT;
			return DROPPED_CONTENDED;
		}
		way->port = p->tuple.dport;
	}
	way->nat = 1;
	return stay(skb, p, way, out, 0);
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
	way.address = birth->daddr;
	way.port = birth->dport;
	way.nat = (birth->flags & CONN_METHOD) == METHOD_MASQ;
	if (birth->manner == CONN_STACK)
		way.stays = STAYS_ROUTED;
	if (birth->dest == DEST_NONE) {
		if (p->fragment)
			first_goes(&way, DEST_NONE, METHOD_BYPASS, 0);
		return past_all(forward_request(skb, p, &way, out, now));
	}
	d = at(&dests, birth->dest);
	load = at(&dest_loads, birth->dest);
	if (!d || !load)
		return UP_JUST_ENDED;
	load_bind(load, birth->flags);
	count(d, birth->dest, A_REQUEST, p->length);
	if (!stack_knows(d, p->tuple.family))
		way.stays = STAYS_NOT;
	if (way.stays)
		stack_address(d, birth->dest, p->tuple.family, &way.address);
	if (p->fragment)
		first_goes(&way, birth->dest, birth->flags & CONN_METHOD, 0);
	if (d->flags & DEST_LOCAL)
		reason = to_local_server(skb, p, &way, out);
	else if ((birth->flags & CONN_METHOD) != METHOD_TUNNEL)
		reason = forward_request(skb, p, &way, out, now);
	else if (way.stays)
		reason = tunnel_stays(skb, p, birth->dest, out, now);
	else
		reason = tunnel_request(skb, p, birth->dest, out, now);
	if (reason == FORWARDED_BY_STACK)
		reason = once_stays(skb, p, &way, out, now);
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
	if (p->fragment)
		first_goes(&way, birth->dest, METHOD_MASQ, 1);
	if (birth->manner != CONN_STACK) {
		reason = forward_reply(skb, p, &way, out, now);
	} else if (passing_put(p, &way, birth->dest, METHOD_MASQ, now)) {
		reason = UP_REPLY_FOR_STACK;
	} else {
		out->verdict = TC_ACT_SHOT;
		reason = DROPPED_CONTENDED;
	}
	if (reason == FORWARDED_NAT_REPLY)
		count(d, birth->dest, A_REPLY, p->length);
	once_ended(birth, load, now);
	return reason;
}

/* Does a connection for FTP's data wait for this packet, which belongs to none? */
int ftp_awaited(const struct packet *p, __u64 now);

/* To the step that is FTP's (steps.h); if there is none, the packet goes nowhere. */
static __always_inline int leave_to_helper(struct outcome *out)
{
	out->verdict = TC_ACT_SHOT;
	return DROPPED_BY_HELPER;
}

/* A backup that shall not balance, so that it and the master do not send each other what the other has sent (facts 6.2). */
static __always_inline int only_backs_up(void)
{
	const struct sysctls *sys = at(&sysctls, 0);

	return sys && sys->backup_only;
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
	sweep_if_late(rt, now);
	if (p->fragment) {
		reason = first_comes(skb, p, out, now);
		if (reason != RECEIVED)
			return reason;
	}

	c = conn_find_fast(&p->tuple, now, &found);
	if (TWO_TABLES && !c && found.again)	/* each of its two slots is moved once: the third look finds it */
		return UP_JUST_ENDED;
	if (c && p->truncated) {
		out->verdict = TC_ACT_SHOT;
		return DROPPED_TRUNCATED;
	}
	if (!c && rt->awaiting && !p->truncated && ftp_awaited(p, now))
		return leave_to_helper(out);
	if (!c && !p->truncated && may_be_plain_reply(&p->tuple)) {
		reason = find_plain_reply(p, &found, now);
		if ((reason & 2) && skb->ingress_ifindex == LO_IFINDEX)
			return UP_REPLY_TRANSLATED;
		found.from_server = reason & 1;
	}
	if (!found.from_server) {
		struct birth *birth = at(&births, 0);

		if ((cfg->sync_state & SYNC_BACKUP) && only_backs_up())
			return UP_BACKUP;

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
	if (c->status & (STATUS_FLAG(CONN_FTP) | STATUS_FLAG(CONN_NO_CPORT)))
		return leave_to_helper(out);
	if (c->dest == DEST_NONE)
		reason = bypass(skb, p, &found, out, now);
	else if (found.from_server)
		reason = reply(skb, p, cfg, &found, c, out, now);
	else
		reason = request(skb, p, cfg, &found, c, out, now);
	if (TWO_TABLES && reason <= FORWARDED_TUNNEL)
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

/* A packet's last step: what is answered, and its reason. */
static __always_inline int done(struct __sk_buff *skb, struct packet *p, struct outcome *out, int reason)
{
	if (out->error) {
		if (!p->uncounted)
			uncount_hop(skb, p);	/* what is quoted is the packet as it came to the director */
		out->verdict = icmp_answer(skb, p, out->error - 1, out->mtu);
	} else if (out->mtu) {
		reason = in_pieces(skb, p, out, reason);
	}
	note(reason);
	return out->verdict;
}

#include "related.h"
#include "followers.h"
#include "ftp/ftp.h"
#include "orphan.h"
#include "egress.h"
#include "complaint.h"
#include "ftp/leaves.h"

/* Whose a packet is that is not a connection's own. */
static __always_inline int step_of(const struct packet *p, int reason)
{
	const struct config *cfg = at(&config, 0);

	if (p->fragment >= PIECE_LATER && (reason == UP_FRAGMENT || p->fragment == PIECE_CALLS))
		return STEP_FRAGMENT;
	if (reason == UP_PROTOCOL && !p->fragment && is_icmp(p))
		return STEP_RELATED;
	if (reason == DROPPED_BY_HELPER)
		return STEP_FTP;
	if ((reason == UP_NO_SERVICE || reason == UP_NO_CONNECTION) && cfg && (cfg->families & SERVES_ORPHANS))
		return STEP_ORPHAN;
	return STEPS;
}

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
	if (p->fragment == PIECE_KNOWN && reason != DROPPED_BY_HELPER)	/* then it has not gone yet (ftp.h) */
		first_went(p, reason);
	bpf_tail_call(skb, &steps, step_of(p, reason));
	return done(skb, p, &out, reason);
}

/* What comes out of a tunnel comes here first (instance.py: entrance). With ignore_tunneled it is the stack's: somebody has
 * sent it to this very machine, a director perhaps whose real server it is, and is not to get it back (facts 6.2). */
SEC("tc")
int tunnelled(struct __sk_buff *skb)
{
	const struct sysctls *sys = at(&sysctls, 0);

	if (sys && sys->ignore_tunneled) {
		note(RECEIVED);
		note(UP_TUNNELLED);
		return TC_ACT_UNSPEC;
	}
	bpf_tail_call(skb, &steps, STEP_INGRESS);
	return TC_ACT_UNSPEC;
}

const volatile union names names;
char LICENSE[] SEC("license") = "Dual BSD/GPL";
