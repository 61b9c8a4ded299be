/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * From a packet that no connection knows to a new connection: which service's it is, whether it may open one, whose
 * template or which real server it gets, and then the claim.
 */
#pragma once

/* A service was found, but nobody in it for this packet (facts 6.9). */
static __always_inline int leave(const struct service *s, const struct packet *p, struct outcome *out)
{
	if (s->key.port == bpf_htons(PORT_FTP) && p->tuple.dport != bpf_htons(PORT_FTP))
		return UP_FTP_DATA;
	out->error = 1 + ERROR_PORT;
	return DROPPED_NO_DESTINATION;
}

/* Does a packet that nobody of its service takes go on to where it was going, past the real servers (facts 6.9)? Only
 * to who is elsewhere: packets for the director itself, and what nobody is asked for, have no route that leads on. */
__noinline int passes_by(struct __sk_buff *skb, const struct packet *p)
{
	const struct sysctls *sys = at(&sysctls, 0);
	struct birth *birth = at(&births, 0);
	union address any = {};
	struct bpf_fib_lookup fib;

	if (!p || !sys || !birth || !sys->cache_bypass || birth->quoted)
		return 0;
	if (route_ask(skb, &fib, p->tuple.family, &any, &p->tuple.dst, 0) == ROUTED_NOWHERE)
		return 0;
	birth->dest = DEST_NONE;
	birth->flags = METHOD_BYPASS | CONN_INACTIVE;
	birth->daddr = p->tuple.dst;
	birth->dport = 0;
	return 1;
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

/* Let the service's scheduler choose a real server for what is in `births`; DEST_NONE: it is to pass them all by. */
__noinline int appoint(struct __sk_buff *skb, const struct packet *p, struct outcome *out)
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
	if (reason == DROPPED_CONTENDED || !s)
		return DROPPED_CONTENDED;
	return s->key.fwmark && passes_by(skb, p) ? RECEIVED : leave(s, p, out);
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

/* The connection of a packet that was admitted, from the template of its client, which may be a new one, too. */
static __always_inline int connect_persistent(struct __sk_buff *skb, struct packet *p, struct birth *birth,
					      struct outcome *out, __u64 now)
{
	int sip = birth->options.engine == ENGINE_SIP, reason = RECEIVED;

	if (sip && !sip_read(skb, p))
		return DROPPED_NOT_SIP;
	for (int i = 0; i < 2; i++) {
		if (sip && sip_key() != RECEIVED)
			return DROPPED_NOT_SIP;
		reason = template_find(p, now);
		if (reason != DROPPED_NO_DESTINATION)
			return reason;
		reason = appoint(skb, p, out);
		if (reason != RECEIVED || birth->dest == DEST_NONE)
			return reason;
		/* again: the number may be that of a template that was just found to be invalid */
		if (sip && sip_key() != RECEIVED)
			return DROPPED_TABLE_FULL;
		reason = template_prepare();
		if (reason == RECEIVED)
			reason = conn_claim(&birth->template, &birth->holder, now);
		if (reason != RECEIVED)
			return reason;
	}
	return DROPPED_CONTENDED;
}

/* What was prepared in `births` becomes a connection under this key; or is given up, where there is a reason for that.
 * RECEIVED: it is in `found`, or it is for this packet alone (birth->once). */
static __always_inline int birth_claim(struct birth *birth, const struct tuple *key, struct found *found, int reason,
				       struct outcome *out, __u64 now)
{
	struct dest *d;

	if (reason == RECEIVED && defence_full())
		reason = DROPPED_CONN_MAX;
	birth->made = 0;
	if (reason == RECEIVED && !birth->once) {
		birth->flags |= birth->manner;
		d = at(&dests, birth->dest);
		if (d && !stack_knows(d, key->family))
			birth->flags &= ~CONN_STACK;
		birth->kind = SLOT_CONN;
		birth->state = 0;
		birth->timeout = 3000;	/* until the protocol sets its own */
		reason = conn_claim(key, found, now);
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
	birth->manner = skb->ingress_ifindex == LO_IFINDEX ? CONN_OWN : sys && sys->conntrack ? CONN_STACK : 0;
	reason = admit(skb, p, out);
	/* what is to make way still counts while a real server is chosen, as in the kernel */
	if (reason == RECEIVED)
		reason = birth->persistent ? connect_persistent(skb, p, birth, out, now) :
					     appoint(skb, p, out);
	if (found->life)
		conn_release(found->number, found->life, now);
	found->life = 0;
	return birth_claim(birth, &p->tuple, found, reason, out, now);
}
