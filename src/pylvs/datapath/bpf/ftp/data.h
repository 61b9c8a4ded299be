/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Connections for data, made before their first packet (facts section 10): in state LISTEN, controlled by the FTP control
 * connection on which they were agreed.
 *
 *   PORT, EPRT:   the client's address and port are known; the real server opens it, from the port before its own
 *   PASV, EPSV:   the client opens it, from a port that nobody knows: it waits under port 0, and the first packet that
 *                 comes for it takes it
 */
#pragma once

/* Does a connection wait for this packet, which belongs to none? `key`: under which it does. */
static __always_inline __u64 ftp_waiting(struct tuple *key, const struct packet *p, __u64 now)
{
	struct conn *c;
	__u64 slot;

	*key = p->tuple;
	key->sport = 0;
	slot = table_find(key, table_hash(key), KINDS(SLOT_CONN));
	c = slot ? conn_at((__u32)slot - 1) : NULL;
	if (!c || !(c->status & STATUS_FLAG(CONN_NO_CPORT)) || past(c->expires, now))
		return 0;
	return slot;
}

__noinline int ftp_awaited(const struct packet *p, __u64 now)
{
	struct tuple key;

	if (!p || p->tuple.protocol != IPPROTO_TCP)
		return 0;
	return !!ftp_waiting(&key, p, now);
}

/* Count one more that a control connection, or whatever a number stands for, controls. 0: it has just ended, or moved. */
static __always_inline int ftp_join(__u32 control)
{
	struct conn *c = conn_at(control - 1);

	return c && control_join(control - 1, *(volatile __u32 *)&c->life);
}

/* Prepare a connection in `births`: in state LISTEN, of this real server and its port. */
static __always_inline int ftp_prepare(struct birth *birth, __u32 dest, __u32 port, __u32 flags)
{
	const struct config *cfg = at(&config, 0);
	struct dest *d = at(&dests, dest);

	if (!cfg || !d)
		return DROPPED_BY_HELPER;
	birth->made = birth->once = birth->speaker = birth->persistent = 0;
	birth->dest = dest;
	birth->flags = METHOD_MASQ | CONN_INACTIVE | flags;	/* flags: and where its control connection is at home */
	birth->daddr = d->address;
	birth->dport = port;
	birth->kind = SLOT_CONN;
	birth->state = TCP_S_LISTEN;
	birth->timeout = timeout_of(cfg, TCP_S_LISTEN);
	return RECEIVED;
}

/* An agreed connection that is there already begins anew: in state LISTEN. */
static __always_inline void ftp_listen(struct conn *c, __u32 life, __u64 now)
{
	const struct config *cfg = at(&config, 0);
	__u32 old = c->status, new, seen;
	struct dest_load *load;

	if (!cfg)
		return;
	for (int i = 0; i < 4; i++) {
		if (old >> STATUS_TURN_SHIFT != (life >> LIFE_TURN_SHIFT & 0xff))
			return;
		new = with_activity(old & ~STATUS_STATE, TCP_S_LISTEN, 0);
		seen = __sync_val_compare_and_swap(&c->status, old, new);
		if (seen == old)
			break;
		old = seen;
	}
	if (seen != old)
		return;
	load = at(&dest_loads, c->dest);
	if (load && !(old & STATUS_FLAG(CONN_INACTIVE)))
		__sync_fetch_and_add(&load->active, -1);
	c->timeout = timeout_of(cfg, TCP_S_LISTEN);
	conn_touch(c, now);
}

/* What is there already under the key of the wanted connection: 1: that will do, or is somebody else's and in use, and
 * nobody's word on another connection may change it; 0: nothing, or not any more. */
__noinline int ftp_have(__u32 dest, __u32 port, __u64 now)
{
	struct ftp_visit *v = at(&ftp_visits, 0);
	struct conn_rest *rest;
	struct conn *c;
	__u32 state;
	__u64 slot;
	int mine;

	if (!v)
		return 1;
	slot = table_find(&v->wanted, table_hash(&v->wanted), KINDS(SLOT_CONN));
	c = slot ? conn_at((__u32)slot - 1) : NULL;
	if (!c)
		return 0;
	if (past(c->expires, now))
		return conn_release((__u32)slot - 1, slot >> 32, now) == RELEASE_POSTPONED;
	rest = conn_rest(c, (__u32)slot - 1);
	mine = rest && rest->control && control_now(rest->control) == 1 + v->found.number;
	state = c->status & STATUS_STATE;
	if (!mine && state < TCP_STATES && tcp_active[state])
		return 1;
	if (c->dest == dest && c->dport == (__u16)port) {
		ftp_listen(c, slot >> 32, now);
		return 1;
	}
	return conn_release((__u32)slot - 1, slot >> 32, now) == RELEASE_POSTPONED;
}

/* The connection that was agreed on the one at hand: v->wanted, from or to v->wanted_port of its real server. RECEIVED: it
 * is prepared in `births`; or, with a v->wanted_port of 0 now, there already. */
__noinline int ftp_agree(struct __sk_buff *skb, __u64 now)
{
	struct ftp_visit *v = at(&ftp_visits, 0);
	struct birth *birth = at(&births, 0);
	struct conn *c;
	__u32 dest;
	int reason;

	if (!v || !birth)
		return DROPPED_BY_HELPER;
	c = conn_at(v->found.number);
	if (!c)
		return DROPPED_BY_HELPER;
	dest = c->dest;
	if (ftp_have(dest, v->wanted_port, now)) {
		v->wanted_port = 0;
		return RECEIVED;
	}
	/* if it is just ending, or moving: what was said is said again */
	if (!control_join(v->found.number, v->found.life))
		return DROPPED_CONTENDED;
	birth->control = 1 + v->found.number;
	birth->fwmark = skb->mark;
	reason = ftp_prepare(birth, dest, v->wanted_port, (v->wanted.sport ? 0 : CONN_NO_CPORT) |
			     (c->status >> 8 & (CONN_STACK | CONN_OWN)));
	if (reason != RECEIVED)
		control_leave(birth->control);
	return reason;
}

/* The first packet for a connection that waits: it becomes one with this client port. RECEIVED: it is prepared in `births`,
 * and the one that waited is no more. */
__noinline int ftp_take(__u64 now)
{
	const struct sysctls *sys = at(&sysctls, 0);
	struct ftp_visit *v = at(&ftp_visits, 0);
	struct birth *birth = at(&births, 0);
	struct conn_rest *rest;
	struct conn *c;
	struct dest *d;
	int reason;
	__u64 slot;

	if (!v || !birth || !sys)
		return UP_JUST_ENDED;
	slot = ftp_waiting(&v->wanted, &v->packet, now);
	c = slot ? conn_at((__u32)slot - 1) : NULL;
	rest = c ? conn_rest(c, (__u32)slot - 1) : NULL;
	if (!rest)
		return UP_JUST_ENDED;
	d = at(&dests, c->dest);
	if (!d)
		return UP_JUST_ENDED;
	if (!(d->flags & DEST_AVAILABLE) && !sys->expire_nodest_conn)
		return DROPPED_DESTINATION_GONE;
	birth->fwmark = rest->fwmark;
	birth->control = control_now(rest->control);
	if (!ftp_join(birth->control))
		return UP_JUST_ENDED;
	reason = ftp_prepare(birth, c->dest, c->dport, c->status >> 8 & (CONN_STACK | CONN_OWN));
	/* of several packets one takes it, and then what was read of it was true */
	if (conn_release((__u32)slot - 1, slot >> 32, now) != RELEASED || !(d->flags & DEST_AVAILABLE))
		reason = UP_JUST_ENDED;
	if (reason != RECEIVED)
		control_leave(birth->control);
	v->wanted = v->packet.tuple;
	return reason;
}

/* What is prepared becomes a connection. RECEIVED: it is in `found`. */
static __always_inline int ftp_claim(struct ftp_visit *v, struct found *found, __u64 now)
{
	struct birth *birth = at(&births, 0);
	struct runtime *rt = at(&runtime, 0);
	int reason = DROPPED_CONN_MAX;

	if (!birth || !rt)
		return DROPPED_BY_HELPER;
	if (!defence_full()) {
		__sync_fetch_and_add(&rt->awaiting, !v->wanted.sport);
		reason = conn_claim(&v->wanted, found, now);
		if (!birth->made)
			__sync_fetch_and_add(&rt->awaiting, -!v->wanted.sport);
	}
	if (!birth->made)
		control_leave(birth->control);
	return reason;
}
