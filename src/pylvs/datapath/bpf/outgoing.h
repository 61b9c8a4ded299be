/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Connections that a real server begins (facts 5.5): what a LVS-NAT real server of a SIP service says of its own accord
 * comes to the client from the service's address and port, and what the client answers goes to that real server.
 */
#pragma once

struct outgoing {
	struct packet packet;	/* the real server's, as if its client had asked for it */
};

MAP(outgoing, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct outgoing, 1, 0);

/* Whose is it? RECEIVED: `outgoing` and `births` are prepared. */
__noinline int outgoing_find(const struct packet *p)
{
	struct outgoing *o = at(&outgoing, 0);
	struct birth *birth = at(&births, 0);
	struct service_key key = {};
	struct service *s;
	struct dest *d;
	__u32 *dest;

	if (!p || !o || !birth)
		return UP_NO_SERVICE;
	key.address = p->tuple.src;
	key.port = p->tuple.sport;
	key.protocol = p->tuple.protocol;
	key.family = p->tuple.family;
	dest = bpf_map_lookup_elem(&speakers, &key);
	d = dest ? at(&dests, *dest) : NULL;
	s = d ? at(&services, d->service) : NULL;
	if (!s || !p->tuple.dport || !(d->flags & DEST_AVAILABLE))
		return UP_NO_SERVICE;
	birth->service = d->service;
	if (!options_of(d->service, &birth->options) || birth->options.engine != ENGINE_SIP)
		return UP_NO_SERVICE;
	o->packet = *p;
	o->packet.tuple.src = p->tuple.dst;
	o->packet.tuple.sport = p->tuple.dport;
	o->packet.tuple.dst = s->key.address;
	o->packet.tuple.dport = s->key.port;
	birth->fwmark = 0;
	birth->own_port = 1;
	birth->persistent = birth->options.flags & POOL_PERSISTENT ? birth->options.timeout : 0;
	birth->once = !!(birth->options.flags & POOL_ONE_PACKET);
	birth->control = 0;
	birth->speaker = 1 + *dest;
	template_key(&birth->template, &o->packet, s, &birth->options);
	return RECEIVED;
}

/* What a connection, or a template, of the speaker gets from it. */
static __always_inline int outgoing_birth(struct birth *birth, const struct packet *p)
{
	struct dest_load *load = at(&dest_loads, birth->speaker - 1);

	if (!load || !birth_server(birth, p, birth->speaker - 1, load->flags))
		return 0;
	birth->dport = p->tuple.sport;
	return 1;
}

/* A template that leads elsewhere is not that of this call any more. */
static __always_inline void outgoing_disown(struct birth *birth)
{
	struct conn *c = conn_at(birth->holder.number);
	__u32 life = birth->holder.life;

	if (c)
		__sync_val_compare_and_swap(&c->life, life, (life & ~LIFE_KIND) | SLOT_INVALID);
	control_leave(birth->control);
	birth->control = 0;
}

/* The template of a call that a real server has begun or goes on with. */
static __always_inline int outgoing_template(struct __sk_buff *skb, const struct packet *p, struct outgoing *o,
					     struct birth *birth, __u64 now)
{
	int reason;

	if (!sip_read(skb, p))
		return UP_NO_SERVICE;
	for (int i = 0; i < 2; i++) {
		if (sip_key() != RECEIVED)
			return UP_NO_SERVICE;
		reason = template_find(&o->packet, now);
		if (reason == RECEIVED && 1 + birth->dest == birth->speaker)
			return RECEIVED;
		if (reason == RECEIVED)
			outgoing_disown(birth);
		else if (reason != DROPPED_NO_DESTINATION)
			return reason;
		if (sip_key() != RECEIVED || !outgoing_birth(birth, p))
			return DROPPED_TABLE_FULL;
		reason = template_prepare();
		if (reason == RECEIVED)
			reason = conn_claim(&birth->template, &birth->holder, now);
		if (reason != RECEIVED)
			return reason;
	}
	return DROPPED_CONTENDED;
}

/* The connection of what a real server says without having been asked. RECEIVED: it is in `found`, and this packet is its
 * reply; or it is for this packet alone (birth->once). UP_NO_SERVICE: it is none of ours. */
static __always_inline int outgoing_connect(struct __sk_buff *skb, struct packet *p, struct birth *birth,
					    struct found *found, struct outcome *out, __u64 now)
{
	struct outgoing *o = at(&outgoing, 0);
	int reason;

	if (!o)
		return UP_NO_SERVICE;
	reason = outgoing_find(p);
	if (reason == RECEIVED && birth->persistent)
		reason = outgoing_template(skb, p, o, birth, now);
	if (reason == RECEIVED && !outgoing_birth(birth, p))
		reason = UP_NO_SERVICE;
	reason = birth_claim(birth, &o->packet.tuple, found, reason, out, now);
	found->from_server = 1;
	return reason;
}
