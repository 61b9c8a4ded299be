/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Persistence (facts section 5): a template leads a client's connections to the real server of the first one.
 */
#pragma once

#define PORT_FTP 21

/* By what a packet's template is known (facts 5.1). */
static __always_inline void template_key(struct tuple *key, const struct packet *p, const struct service *s,
					 const struct pool_options *o)
{
	__u32 left = o->netmask;

	__builtin_memset(key, 0, sizeof(*key));
	key->family = p->tuple.family;
	if (key->family == AF_INET) {
		key->src.word[0] = p->tuple.src.word[0] & o->netmask;
	} else {
#pragma unroll
		for (int i = 0; i < 4; i++) {
			__u32 bits = left > 32 ? 32 : left;

			if (bits)
				key->src.word[i] = p->tuple.src.word[i] & bpf_htonl(0xffffffffu << (32 - bits));
			left -= bits;
		}
	}
	if (s->key.fwmark) {
		key->dst.word[0] = bpf_htonl(s->key.fwmark);
		return;
	}
	key->protocol = p->tuple.protocol;
	key->dst = p->tuple.dst;
	if (p->tuple.dport == s->key.port && p->tuple.dport != bpf_htons(PORT_FTP))
		key->dport = p->tuple.dport;
}

/* What a new connection gets from its real server. */
static __always_inline int birth_server(struct birth *birth, const struct packet *p, __u32 dest, __u32 flags)
{
	struct dest *d = at(&dests, dest);

	if (!d)
		return 0;
	birth->dest = dest;
	birth->flags = flags;
	birth->daddr = d->address;
	birth->dport = d->port && (birth->own_port || !birth->persistent) ? d->port : p->tuple.dport;
	return 1;
}

/* May it still be used (facts 2.11)? */
static __always_inline int template_valid(const struct conn *c)
{
	const struct sysctls *sys = at(&sysctls, 0);
	struct dest_load *load = at(&dest_loads, c->dest);
	struct dest *d = at(&dests, c->dest);

	if (!sys || !load || !d || !(d->flags & DEST_AVAILABLE))
		return 0;
	return !sys->expire_quiescent_template || load->weight;
}

/* The template in a slot for the packet whose birth is being prepared: as template_find, or DROPPED_CONTENDED: it has
 * just ended, or was moved. */
static __always_inline int template_take(struct birth *birth, const struct packet *p, __u64 slot, __u64 now)
{
	struct conn *c = conn_at((__u32)slot - 1);
	__u32 life = slot >> 32, dest;
	struct dest_load *load;

	if (!c)
		return DROPPED_NO_DESTINATION;
	if (past(c->expires, now) && conn_release((__u32)slot - 1, life, now) != RELEASE_POSTPONED)
		return DROPPED_NO_DESTINATION;
	if (!template_valid(c)) {
		__sync_val_compare_and_swap(&c->life, life, (life & ~LIFE_KIND) | SLOT_INVALID);
		return DROPPED_NO_DESTINATION;
	}
	dest = *(volatile __u32 *)&c->dest;	/* before it is known that it has not been moved */
	load = at(&dest_loads, dest);
	if (!load || !control_join((__u32)slot - 1, life))
		return DROPPED_CONTENDED;
	birth->holder.number = (__u32)slot - 1;
	birth->holder.life = life;
	birth->control = (__u32)slot;
	birth_server(birth, p, dest, load->flags);
	return RECEIVED;
}

__noinline int template_look(const struct packet *p, __u64 now)
{
	struct birth *birth = at(&births, 0);
	__u64 slot;

	if (!p || !birth)
		return DROPPED_NO_DESTINATION;
	birth->holder.life = 0;
	slot = table_find(&birth->template, table_hash(&birth->template), KINDS(SLOT_TEMPLATE));
	return slot ? template_take(birth, p, slot, now) : DROPPED_NO_DESTINATION;
}

/* The template of the packet whose birth is being prepared. RECEIVED: it is in birth->holder, counts the connection to
 * come, and its real server is that one's; DROPPED_NO_DESTINATION: there is none, it has to be made. */
static __always_inline int template_find(const struct packet *p, __u64 now)
{
	int reason = template_look(p, now);

	if (reason == DROPPED_CONTENDED)
		reason = template_look(p, now);
	return reason == DROPPED_CONTENDED ? template_look(p, now) : reason;
}

/* What is chosen becomes a template first: RECEIVED, or why there may be none.
 * A function of its own, so that the verifier walks it once. */
__noinline int template_prepare(void)
{
	struct birth *birth = at(&births, 0);
	struct dest *d = birth ? at(&dests, birth->dest) : NULL;

	if (!birth || defence_full())
		return DROPPED_CONN_MAX;
	birth->kind = SLOT_TEMPLATE;
	birth->state = 0;
	birth->flags |= CONN_TEMPLATE | CONN_INACTIVE;
	birth->dport = d && birth->template.dport ? d->port : 0;
	birth->timeout = birth->persistent > TIMEOUT_LONGEST / 1000 ? TIMEOUT_LONGEST : birth->persistent * 1000;
	return RECEIVED;
}

/* A connection was made by it: its time begins anew. */
__noinline int template_used(__u64 now)
{
	struct birth *birth = at(&births, 0);
	__u32 number, life;
	struct conn *c;

	if (!birth)
		return 0;
	number = birth->control;
	for (int i = 0; i < (TWO_TABLES ? 2 : 1); i++) {	/* it may be moved while it is touched */
		number = control_now(number);
		c = conn_at(number - 1);
		if (!c)
			return 0;
		life = *(volatile __u32 *)&c->life;
		if (TWO_TABLES && (life & LIFE_KIND) == SLOT_MOVING) {
			wait_for((__u64)life << 32 | number);
			continue;
		}
		if (!(KINDS(life & 0xf) & CONTROLLED))
			return 0;
		/* who found a connection that was there already is not counted any more: it may have ended */
		if (number == birth->control && (life ^ birth->holder.life) >> LIFE_TURN_SHIFT)
			return 0;
		conn_touch(c, now);
		if (birth->once && !i)
			c->packets++;
		if (!TWO_TABLES || *(volatile __u32 *)&c->life == life)
			return 1;
	}
	return 0;
}

/* Is this the packet by which a template is to believe in its connection? Each tells it once. */
static __always_inline int assures(const struct conn *c, const struct packet *p, enum direction direction)
{
	__u32 status = c->status;

	if ((status & STATUS_FLAG(CONN_ASSURES)) || (c->family == AF_INET ? !c->at.ipv4.rest.control
									   : !(c->life >> LIFE_MORE_SHIFT & 0xff)))
		return 0;
	if (p->tuple.protocol == IPPROTO_UDP)
		return direction == OUTPUT && p->kind == KIND_PLAIN;
	return established(status, p->tuple.protocol);
}

/* Set bits in the status of whoever has this life. */
static __always_inline void status_set(struct conn *c, __u32 life, __u32 bits)
{
	__u32 old = c->status;

	if (old >> STATUS_TURN_SHIFT == (life >> LIFE_TURN_SHIFT & 0xff))
		__sync_val_compare_and_swap(&c->status, old, old | bits);
}

/* A connection has come as far as its template believes in it (facts 2.8). */
__noinline int template_assure(__u32 number, __u32 life)
{
	struct conn *c = conn_at(number);
	struct conn_rest *rest = c ? conn_rest(c, number) : NULL;
	__u32 control = rest ? rest->control : 0;

	if (!control)
		return 0;
	status_set(c, life, STATUS_FLAG(CONN_ASSURES));
	c = conn_at(control_now(control) - 1);
	if (!c)
		return 0;
	life = *(volatile __u32 *)&c->life;
	if (KINDS(life & 0xf) & (KINDS(SLOT_TEMPLATE) | KINDS(SLOT_INVALID)))
		status_set(c, life, TEMPLATE_ASSURED);
	return 1;
}
