/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The packet path, on TC ingress of every interface. It reads top to bottom:
 *
 *   parse -> find the connection, from either side -> else find the service, choose a real server, claim a connection
 *         -> state and counters -> forward -> account
 *
 * Each step is a header; none reaches back. Every packet ends in done() with its one reason.
 */
#include "prelude.h"
#include "account.h"
#include "parse.h"
#include "conn.h"
#include "service.h"
#include "sched.h"
#include "state.h"
#include "xmit/route.h"
#include "xmit/nat.h"
#include "icmp.h"
#include "forward.h"
#include "sweep.h"

/* A packet of a TCP or UDP service that no connection knows (facts 2.3, 2.4), or that opens a new one in the place of
 * the connection in `found`. That one still counts while a real server is chosen, as in the kernel. */
static __always_inline int admit(struct __sk_buff *skb, struct packet *p, const struct config *cfg,
				 struct runtime *rt, __u64 now, struct found *found, int *verdict)
{
	struct pool_server *chosen;
	struct birth birth = {};
	struct service *s;
	__u32 number, pool, place;
	struct dest *d;

	s = service_find(p, &number);
	if (!s)
		return UP_NO_SERVICE;
	if (p->truncated) {
		*verdict = TC_ACT_SHOT;
		return DROPPED_TRUNCATED;
	}
	if (p->tuple.protocol == IPPROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_RST)) != TCP_SYN)
		return UP_NO_CONNECTION;
	if (p->tuple.sport == bpf_htons(20))
		return UP_CLIENT_PORT_20;
	if (martian(skb, p))
		return UP_MARTIAN;

	pool = s->pool;
	place = schedule(pool);
	if (found->conn) {
		conn_release(found->number, now);
		found->conn = NULL;
	}
	chosen = place == NOBODY ? NULL : pool_server(pool, place);
	d = chosen ? at(&dests, chosen->dest) : NULL;
	if (!d) {
		*verdict = icmp_answer(skb, p, ERROR_PORT, 0, now);
		return DROPPED_NO_DESTINATION;
	}
	birth.dest = chosen->dest;
	birth.flags = chosen->flags;
	birth.daddr = d->address;
	birth.dport = d->port ? d->port : p->tuple.dport;
	birth.fwmark = skb->mark;
	if (!conn_claim(cfg, rt, &p->tuple, &birth, now, found)) {
		*verdict = TC_ACT_SHOT;
		return DROPPED_TABLE_FULL;
	}
	count(cfg, d, birth.dest, A_CONN, 0);
	return RECEIVED;
}

/* Must a connection that exists make way for the one that this SYN opens (facts 2.9)? */
static __always_inline int starts_anew(const struct config *cfg, const struct packet *p, const struct conn *c)
{
	__u32 status = c->status, state = status & STATUS_STATE;

	if (p->tuple.protocol != IPPROTO_TCP || !(p->tcp_flags & TCP_SYN) || !cfg->conn_reuse_mode)
		return 0;
	if (state == TCP_S_FIN_WAIT)
		return (cfg->conn_reuse_mode & 2) && (status & STATUS_FLAG(CONN_NOOUTPUT));
	return state == TCP_S_TIME_WAIT || state == TCP_S_CLOSE;
}

static __always_inline int request(struct __sk_buff *skb, struct packet *p, const struct config *cfg,
				   struct found *found, __u64 now, int *verdict)
{
	struct conn *c = found->conn;
	struct dest *d = at(&dests, c->dest);

	if (!d)
		return UP_NO_CONNECTION;
	count(cfg, d, c->dest, A_REQUEST, p->length);
	state_move(cfg, c, p, INPUT);
	conn_touch(c, now);
	__sync_fetch_and_add(&c->packets, 1);
	return forward_request(skb, p, c, d, now, verdict);
}

static __always_inline int reply(struct __sk_buff *skb, struct packet *p, const struct config *cfg,
				 struct found *found, __u64 now, int *verdict)
{
	struct conn *c = found->conn;
	struct dest *d = at(&dests, c->dest);
	__u32 dest = c->dest;
	int reason;

	if (!d)
		return UP_NO_CONNECTION;
	/* the kernel's forwarding looks at TTL and length before IPVS sees a reply */
	reason = forward_reply(skb, p, c, now, verdict);
	if (reason != FORWARDED_NAT_REPLY && reason != UP_REPLY_UNCHANGED)
		return reason;
	count(cfg, d, dest, A_REPLY, p->length);
	state_move(cfg, c, p, OUTPUT);
	conn_touch(c, now);
	return reason;
}

/* The connection whose reply this packet is although its addresses are those that the client sees: DR and tunnel
 * replies that happen to pass here. */
static __always_inline int find_plain_reply(const struct packet *p, __u64 now, struct found *found)
{
	struct tuple key = {
		.src = p->tuple.dst,
		.dst = p->tuple.src,
		.sport = p->tuple.dport,
		.dport = p->tuple.sport,
		.protocol = p->tuple.protocol,
		.family = p->tuple.family,
	};

	return conn_find(&key, now, found) && !found->from_server && conn_method(found->conn) != METHOD_MASQ;
}

static __always_inline int way(struct __sk_buff *skb, struct packet *p, int *verdict)
{
	const struct config *cfg = at(&config, 0);
	struct runtime *rt = at(&runtime, 0);
	struct found found = {};
	int reason, anew = 0;
	struct dest *d;
	__u64 now;

	if (!cfg || !rt)
		return UP_NO_SERVICE;
	reason = parse(skb, p);
	if (reason != RECEIVED)
		return reason;
	if (!(cfg->families & (p->tuple.family == AF_INET ? SERVES_IPV4 : SERVES_IPV6)))
		return UP_NO_SERVICE;
	now = now_ns(cfg);
	sweep_if_late(cfg, rt, now);

	if (conn_find(&p->tuple, now, &found)) {
		if (p->truncated) {
			*verdict = TC_ACT_SHOT;
			return DROPPED_TRUNCATED;
		}
		if (found.from_server)
			return reply(skb, p, cfg, &found, now, verdict);
		anew = starts_anew(cfg, p, found.conn);
		if (!anew) {
			d = at(&dests, found.conn->dest);
			if (d && !(d->flags & DEST_AVAILABLE)) {
				if (!cfg->expire_nodest_conn) {
					*verdict = TC_ACT_SHOT;
					return DROPPED_DESTINATION_GONE;
				}
				conn_release(found.number, now);
				found.conn = NULL;
			}
		}
	} else if (!p->truncated && find_plain_reply(p, now, &found)) {
		return reply(skb, p, cfg, &found, now, verdict);
	} else {
		found.conn = NULL;
	}
	if (!found.conn || anew) {
		reason = admit(skb, p, cfg, rt, now, &found, verdict);
		if (reason != RECEIVED) {
			if (found.conn)
				conn_release(found.number, now);
			return reason;
		}
	}
	return request(skb, p, cfg, &found, now, verdict);
}

SEC("tc")
int ingress(struct __sk_buff *skb)
{
	struct packet p = {};
	int verdict = TC_ACT_UNSPEC;	/* to whoever comes next: other TC programs, then the stack */

	note(RECEIVED);
	note(way(skb, &p, &verdict));
	return verdict;
}

const volatile union names names;
char LICENSE[] SEC("license") = "Dual BSD/GPL";
