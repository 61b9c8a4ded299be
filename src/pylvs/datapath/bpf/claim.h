/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Making a connection: a slot for it, room for that if need be, and that there is only one of it.
 *
 * Rules of this file:
 *  - No established connection ever gives way to a new one. Half-open ones do, and templates that nothing has proved, the
 *    oldest of a few first; if there is none claim says that there is no room.
 *  - Who makes a connection publishes it and then looks whether another CPU has made the same one: there are never two.
 */
#pragma once

#define GIVE_WAY_LOOKS 4	/* half-open connections to choose the oldest from */

const volatile __u8 tcp_half_open[TCP_STATES];
const volatile __u8 sctp_half_open[SCTP_STATES];

static __always_inline int half_open(const struct conn *c)
{
	__u32 state = c->status & STATUS_STATE;

	if (c->protocol == IPPROTO_TCP)
		return state < TCP_STATES && tcp_half_open[state];
	return c->protocol == IPPROTO_SCTP && state < SCTP_STATES && sctp_half_open[state];
}

/* May it make room, unless it controls others? A template that no connection has proved does: a flood makes one for
 * every address. */
static __always_inline int gives_way(const struct conn *c, __u32 life)
{
	if ((life & LIFE_KIND) == SLOT_CONN)
		return half_open(c);
	return (life & LIFE_KIND) == SLOT_INVALID || (c->status & STATUS_STATE) != TEMPLATE_ASSURED;
}

/* ---- room ---------------------------------------------------------------------------------------------------- */

struct room_walk {
	__u64 now;
	__u32 group;
	__u32 other;
	__u32 first;		/* where looking begins: anywhere, so that it is not always the same few that give way */
	__u32 seen;		/* half-open connections */
	__u32 number;		/* 1 + that of the one that goes first */
	__u32 life;
	__u32 expires;
	__u32 over;		/* its time is over anyway */
};

static long room_step(__u64 i, struct room_walk *w)
{
	__u32 group = (w->first ^ i) & GROUP_SLOTS ? w->other : w->group, life;
	__u32 number = group * GROUP_SLOTS + (w->first + i) % GROUP_SLOTS;
	struct conn *c = conn_at(number);
	struct conn_rest *rest;

	if (!c)
		return 1;
	life = c->life;
	if ((life & LIFE_KIND) == SLOT_BACK)
		number = (__u32)((struct back *)c)->conns - 1;
	else if ((life & LIFE_KIND) == SLOT_MORE)
		number = ((struct more *)c)->conn;
	else if (!(KINDS(life & 0xf) & CONTROLLED))
		return 0;
	c = conn_at(number);
	if (!c)
		return 0;
	life = c->life;
	if (!(KINDS(life & 0xf) & CONTROLLED))
		return 0;
	w->over = past(c->expires, w->now);
	if (!w->over) {
		if (!gives_way(c, life))
			return 0;
		rest = conn_rest(c, number);
		if (rest && rest->controls)
			return 0;
		if (w->seen++ && (__s32)(c->expires - w->expires) >= 0)
			return w->seen >= GIVE_WAY_LOOKS;
	}
	w->number = 1 + number;
	w->life = life;
	w->expires = c->expires;
	return w->over || w->seen >= GIVE_WAY_LOOKS;
}

/* Who gives way to a newcomer of this hash: 1 + number, life << 32; 0: nobody. */
__noinline __u64 conn_to_give_way(__u64 hash, __u64 now)
{
	struct runtime *rt = at(&runtime, 0);
	struct room_walk w = { .now = now, .first = bpf_get_prandom_u32(), .seen = FIRST(0, now) };
	__u32 old = table_target();

	if (!rt)
		return 0;
	w.group = home_group(hash, old);
	w.other = other_group(hash, old);
	bpf_loop(2 * GROUP_SLOTS, room_step, &w, 0);
	if (w.number && !w.over)
		__sync_fetch_and_add(&rt->gave_way, 1);
	return (__u64)w.life << 32 | w.number;
}

/* A slot in one of a key's groups, now held: 1 + its number, or 0. Makes room if need be. */
static __always_inline __u32 conn_slot(__u64 hash, __u64 now)
{
	__u32 number = table_take(hash, 0, now);
	__u64 victim;

	if (number)
		return number;
	number = table_take(hash, 1, now);
	if (number)
		return number;
	victim = conn_to_give_way(hash, now);
	if (!victim)
		return 0;
	conn_release((__u32)victim - 1, victim >> 32, now);
	return table_take(hash, 1, now);
}

/* ---- claim ----------------------------------------------------------------------------------------------------- */

/* What the Call-ID of the packet at hand is, and so of the template that it may need (sip.h). */
MAP(call_id, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct call_id, 1, 0);

int call_remember(void);

/* conn_settle's `what`: what the slot is to be, and of what kinds there must be no other with its key. The key of a
 * Call-ID must be free even of a template that is just ending. */
#define SETTLE(kind) ((kind) | (KINDS(kind) | KINDS(SLOT_FILLING)) << 16)
#define SETTLE_CALL (SETTLE(SLOT_TEMPLATE) | KINDS(SLOT_DEAD) << 16)

/* Publish a filled slot, and make it what it is to be, unless another CPU has made one with the same key. Returns the
 * slot that is it now, in the form of table_find: this one, or the other one, and then this one was given back. 0: the
 * two got into each other's way, and neither is.
 *
 * Both publish before they look, so at least one of them sees the other. Who sees one that is finished gives up; if
 * both are unfinished, the higher number gives up and the lower one waits to see it go. The one that is left alone says
 * which Call-ID its template's key is for, when nobody else says so and the former one's has been forgotten. */
__noinline __u64 conn_settle(__u32 number, const struct tuple *key, __u64 hash, __u32 what, __u64 now)
{
	struct conn *c = conn_at(number);
	__u64 other = 0;
	__u32 life;

	if (!c || !key)
		return 0;
	table_publish(number, hash_tag(hash));
	for (int i = 0; i < 4; i++) {
		other = table_find(key, hash, what >> 16 | EXCEPT(number));
		if (!other) {
			if (what == SETTLE_CALL && !call_remember())
				break;
			life = (c->life & ~LIFE_KIND) | (what & LIFE_KIND);
			c->life = life;
			return (__u64)life << 32 | (1 + number);
		}
		life = other >> 32 & LIFE_KIND;
		if (life != SLOT_DEAD && (life != SLOT_FILLING || (__u32)other < 1 + number))
			break;
		wait_for(other);
	}
	more_give_back(number, c->life, now);
	table_give_back(number, 1, now);
	wait_for(other);
	return table_find(key, hash, KINDS(what & 0xf));
}

/* What a new connection, or template, is. Not on the stack: with the functions below there is not enough of it. */
struct birth {
	union address daddr;
	__u32 dest;		/* DEST_NONE: the packet goes on to where it was going */
	__u32 flags;		/* conn_flag */
	__u32 fwmark;
	__u16 dport;
	__u16 own_port;		/* the packet goes to the very port of the service */
	__u32 kind;		/* SLOT_CONN or SLOT_TEMPLATE */
	__u32 timeout;		/* milliseconds */
	__u32 control;		/* 1 + number of the template, which has counted it already */
	__u32 made;		/* it was this one, and none that another CPU made at the same time */
	__u32 backed;
	__u32 manner;		/* CONN_OWN or CONN_STACK, if it is one such */
	__u32 back;		/* 1 + number of the slot of its real server's side */
	__u32 service;
	struct pool_options options;
	__u32 speaker;		/* 1 + number of the real server that has begun it */
	__u32 persistent;	/* seconds; 0: not persistent */
	__u32 once;		/* for one packet alone */
	__u32 quoted;		/* what asks for it is what an ICMP error quotes */
	__u32 state;
	struct tuple reply;
	__u64 hash;
	__u64 reply_hash;
	struct tuple template;
	struct found holder;	/* the template */
};

MAP(births, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct birth, 1, 0);

/* Let the template that is just being made be the one of the Call-ID of the packet at hand. */
__noinline int call_remember(void)
{
	struct birth *birth = at(&births, 0);
	struct call_id *id = at(&call_id, 0);

	return birth && id && !bpf_map_update_elem(&call_ids, &birth->template, id, BPF_ANY);
}

static __always_inline void back_fill(__u32 slot, const struct tuple *key, __u32 number)
{
	struct back *b = (struct back *)conn_at(slot);

	if (!b)
		return;
	b->conns = 1 + number;
	slot_put((struct conn *)b, key);
}

/* Let a reply's addresses lead to a connection, by the slot that was filled for it. If there is one already, an older
 * connection has the same replies: they are the newer one's while that lives. */
static __always_inline int back_join(__u32 slot, const struct birth *birth, __u32 number, __u64 now)
{
	__u64 found = conn_settle(slot, &birth->reply, birth->reply_hash, SETTLE(SLOT_BACK), now), old, kept;
	struct conn *newest;
	struct back *b;
	__u32 kind;

	if ((__u32)found == 1 + slot)
		return 1;
	b = found ? (struct back *)conn_at((__u32)found - 1) : NULL;
	if (!b)
		return 0;
	for (int i = 0; i < 4; i++) {
		old = b->conns;
		if (!old)
			return 0;	/* just being given back */
		/* of two, one that is just ending makes room; else the older one does */
		newest = conn_at((__u32)old - 1);
		kind = newest ? newest->life & LIFE_KIND : SLOT_FREE;
		kept = kind == SLOT_CONN || kind == SLOT_MOVING ? old << 32 : old >> 32 << 32;
		/* requests, unlike replies, come for both of them, and who restores their VIP could not tell them apart */
		if (kept && (birth->flags & CONN_METHOD) != METHOD_MASQ)
			return 0;
		if (__sync_val_compare_and_swap(&b->conns, old, kept | (1 + number)) == old)
			return 1;
	}
	return 0;
}

static __always_inline void conn_fill(struct conn *c, const struct tuple *key, const struct birth *birth, __u64 now)
{
	struct conn_rest rest = { .fwmark = birth->fwmark, .control = birth->control };

	c->timeout = birth->timeout;
	c->expires = conn_deadline(birth->timeout, now);
	c->dest = birth->dest;
	c->status = STATUS_FLAG(birth->flags) | birth->state | (c->life >> LIFE_TURN_SHIFT) << STATUS_TURN_SHIFT;
	c->packets = 0;
	c->dport = birth->dport;
	slot_put(c, key);
	if (key->family == AF_INET)
		c->at.ipv4.rest = rest;
}

/* A slot for the rest of an IPv6 connection, if there is anything to say there. 0: there is no room for it. */
static __always_inline int more_fill(struct conn *c, __u32 number, const struct birth *birth, __u64 now)
{
	struct conn_rest rest = { .fwmark = birth->fwmark, .control = birth->control };
	struct more *more;
	__u32 place;

	if (c->family == AF_INET || (!rest.fwmark && !rest.control && birth->kind == SLOT_CONN &&
				     !(birth->flags & CONN_FTP)))	/* which may come to control others */
		return 1;
	place = group_take(number / GROUP_SLOTS, 0, 0, now);
	if (!place)
		place = group_take(number / GROUP_SLOTS, 0, 1, now);
	more = place ? (struct more *)conn_at(place - 1) : NULL;
	if (!more)
		return 0;
	more->conn = number;
	more->rest = rest;
	more->life = (more->life & ~LIFE_KIND) | SLOT_MORE;
	c->life |= ((place - 1) % GROUP_SLOTS + 1) << LIFE_MORE_SHIFT;
	return 1;
}

static __always_inline void birth_reply(struct birth *birth, const struct tuple *key)
{
	int plain = (birth->flags & CONN_METHOD) != METHOD_MASQ;
	struct dest *d = at(&dests, birth->dest);

	birth->reply.src = birth->daddr;
	if (plain && d)
		stack_address(d, birth->dest, key->family, &birth->reply.src);
	birth->reply.dst = key->src;
	birth->reply.sport = plain ? key->dport : birth->dport;
	birth->reply.dport = key->sport;
	birth->reply.protocol = plain ? key->protocol ^ BACK_ASIDE : key->protocol;
	birth->reply.family = key->family;
}

/* Does the FTP helper read along on a port (facts 2.5)? */
__noinline int ftp_port(__u16 port)
{
	const struct config *cfg = at(&config, 0);
	int found = 0;

	if (!cfg || !port)
		return 0;
#pragma unroll
	for (int i = 0; i < FTP_PORTS; i++)
		found |= cfg->ftp_ports[cfg->ftp_row ? FTP_PORTS + i : i] == port;
	return found;
}

/* A new connection for the packet's tuple, or a template for its own, as it stands in `births`. RECEIVED: it is in
 * `found`; if another CPU made the same one meanwhile, that one. */
__noinline int conn_claim(const struct tuple *key, struct found *found, __u64 now)
{
	struct birth *birth = at(&births, 0);
	struct runtime *rt = at(&runtime, 0);
	__u32 number;
	struct conn *c;
	__u64 slot;

	if (!key || !found || !birth || !rt)
		return DROPPED_TABLE_FULL;
	birth->made = birth->back = 0;
	birth->backed = birth->kind == SLOT_CONN && conn_backed(birth->flags);
	if (birth->kind == SLOT_CONN && (birth->flags & CONN_METHOD) == METHOD_MASQ && key->protocol == IPPROTO_TCP &&
	    ftp_port(key->dport))
		birth->flags |= CONN_FTP;
	/* counted before it can be found, so that the one who releases it never counts below nothing; and before its slot
	 * is touched, since what is done with a lock waits until that has come from memory */
	load_bind(at(&dest_loads, birth->dest), birth->flags);
	__sync_fetch_and_add(&rt->conns, 1);
	birth->hash = table_hash(key);
	number = conn_slot(birth->hash, now) - 1;
	c = conn_at(number);
	if (!c)
		goto no_room;
	conn_fill(c, key, birth, now);
	if (birth->backed) {
		birth_reply(birth, key);
		birth->reply_hash = table_hash(&birth->reply);
		birth->back = conn_slot(birth->reply_hash, now);
		if (birth->back)
			back_fill(birth->back - 1, &birth->reply, number);
	}
	if (birth->kind == SLOT_CONN && ((birth->flags & CONN_METHOD) != METHOD_MASQ || (birth->flags & CONN_OWN)))
		expect_plain_replies(key);
	if ((birth->backed && !birth->back) || !more_fill(c, number, birth, now)) {
		if (birth->back)
			table_give_back(birth->back - 1, 1, now);
		table_give_back(number, 1, now);
		goto no_room;
	}
	slot = conn_settle(number, key, birth->hash, birth->kind == SLOT_CONN ? SETTLE(SLOT_CONN)
				: key->sport ? SETTLE_CALL : SETTLE(SLOT_TEMPLATE), now);
	found->number = (__u32)slot - 1;
	found->life = slot >> 32;
	found->from_server = 0;
	if ((__u32)slot != 1 + number) {
		if (birth->back)
			table_give_back(birth->back - 1, 1, now);
		load_unbind(at(&dest_loads, birth->dest), birth->flags, now);
		__sync_fetch_and_add(&rt->conns, -1);
		return slot ? RECEIVED : DROPPED_CONTENDED;
	}
	birth->made = 1;
	if (birth->back && !back_join(birth->back - 1, birth, number, now)) {
		conn_release(number, found->life, now);
		return DROPPED_CONTENDED;
	}
	/* whoever has ended it meanwhile did not find it on the real server's side */
	if (birth->back && !conn_same(c, found)) {
		back_leave(&birth->reply, number, now);
		return DROPPED_CONTENDED;
	}
	return RECEIVED;

no_room:
	load_unbind(at(&dest_loads, birth->dest), birth->flags, now);
	__sync_fetch_and_add(&rt->conns, -1);
	return DROPPED_TABLE_FULL;
}
