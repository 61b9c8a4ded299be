/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Connections, behind four words: find, claim, touch, release. Where they are kept is table.h's.
 *
 * Rules of this file:
 *  - A connection's life word is SLOT_CONN of one turn from its birth to its end; who moves it from there to SLOT_DEAD,
 *    and nobody else, takes it apart.
 *  - Nobody holds a lock, so a connection may end while a packet is at it, and its slot be used again. So who has read
 *    what a packet needs looks at the life word again, and a status is only changed as that of the same turn.
 *  - A connection past its time is gone, whether or not the sweep has been there.
 *  - No established connection ever gives way to a new one. Half-open ones do, the oldest of a few first, and if there
 *    is none claim says that there is no room.
 */
#pragma once

#define GIVE_WAY_LOOKS 4	/* half-open connections to choose the oldest from */

const volatile __u8 tcp_half_open[TCP_STATES];

struct found {
	__u32 number;
	__u32 life;
	__u32 from_server;	/* the packet came from the real server's side of a NAT connection */
	__u32 again;		/* it may only seem not to be there: look again */
};

/* ---- what a connection says ---------------------------------------------------------------------------------- */

static __always_inline __u32 conn_method(const struct conn *c)
{
	return (c->status >> 8) & CONN_METHOD;
}

static __always_inline void conn_caddr(const struct conn *c, union address *address)
{
	union address four = { .word = { c->at.ipv4.caddr } };

	*address = c->family == AF_INET ? four : c->at.ipv6.caddr;
}

static __always_inline void conn_vaddr(const struct conn *c, union address *address)
{
	union address four = { .word = { c->at.ipv4.vaddr } };

	*address = c->family == AF_INET ? four : c->at.ipv6.vaddr;
}

/* The addresses under which a LVS-NAT real server's packets arrive. */
static __always_inline void conn_back_key(const struct conn *c, const struct dest *d, struct tuple *key)
{
	key->src = d->address;
	conn_caddr(c, &key->dst);
	key->sport = c->dport;
	key->dport = c->cport;
	key->protocol = c->protocol;
	key->family = c->family;
	key->unused = 0;
}

/* The rest of a connection, which an IPv6 one may lack. */
static __always_inline struct conn_rest *conn_rest(struct conn *c, __u32 number)
{
	__u32 place = c->life >> LIFE_MORE_SHIFT & 0xff;
	struct more *more;

	if (c->family == AF_INET)
		return &c->at.ipv4.rest;
	if (!place)
		return NULL;
	more = (struct more *)conn_at((number & ~(GROUP_SLOTS - 1)) + place - 1);
	return more ? &more->rest : NULL;
}

/* Is it still the connection that was found? */
static __always_inline int conn_same(const struct conn *c, const struct found *found)
{
	return *(volatile const __u32 *)&c->life == found->life;
}

/* ---- replies that are not translated -------------------------------------------------------------------------- */

/* Packets from where replies of connections without LVS-NAT come: a bit for what a VIP and its port hash to. All other
 * packets need not be looked for as such. A bit once set stays: connections outlive their services. */
enum { REPLY_BITS = 1 << 16 };
MAP(reply_sources, BPF_MAP_TYPE_ARRAY, __u32, __u64, REPLY_BITS / 64, BPF_F_MMAPABLE);

static __always_inline __u32 reply_bit(const union address *address, __u16 port, __u8 protocol)
{
	__u32 mix = address->word[0] ^ address->word[1] ^ address->word[2] ^ address->word[3] ^ (port << 8 | protocol);

	return mix * 0x9e3779b1u >> 16;
}

static __always_inline void expect_plain_replies(const struct tuple *key)
{
	__u32 bit = reply_bit(&key->dst, key->dport, key->protocol);
	__u64 *word = at(&reply_sources, bit / 64);

	if (word && !(*word >> bit % 64 & 1))
		__sync_fetch_and_or(word, 1ull << bit % 64);
}

static __always_inline int may_be_plain_reply(const struct tuple *key)
{
	__u32 bit = reply_bit(&key->src, key->sport, key->protocol);
	__u64 *word = at(&reply_sources, bit / 64);

	return word && *word >> bit % 64 & 1;
}

/* ---- the end of a connection -------------------------------------------------------------------------------- */

static __always_inline void load_unbind(__u32 dest, __u32 status, __u64 now)
{
	struct dest_load *load = at(&dest_loads, dest);

	if (!load)
		return;
	if (!(status & STATUS_FLAG(CONN_INACTIVE)))
		__sync_fetch_and_add(&load->active, -1);
	if (__sync_fetch_and_add(&load->total, -1) == 1)
		load->idle = now;
}

/* The addresses of the replies of a connection that is just ending. In the packets' program not on the stack, of which
 * there is little; nothing interrupts it on its CPU by itself. What a command runs may be interrupted by packets. */
#ifdef DEEP_STACK
MAP(leaving, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct tuple, 1, 0);
#define LEAVING(name) struct tuple *name = at(&leaving, 0)
#else
#define LEAVING(name) struct tuple name##_here, *name = &name##_here
#endif

/* Take a connection off the real server's side: an older one with the same replies gets them again. */
static __always_inline void back_leave(const struct tuple *key, __u32 number, __u64 now)
{
	__u64 hash = table_hash(key), found, old, new;
	__u32 mine = 1 + number, slot, life;
	struct back *b;

	for (int i = 0; i < 8; i++) {
		found = table_find(key, hash, KINDS(SLOT_BACK));
		slot = (__u32)found - 1;
		life = found >> 32;
		b = found ? (struct back *)conn_at(slot) : NULL;
		if (!b)
			return;
		old = b->conns;
		if ((__u32)old == mine)
			new = old >> 32;
		else if (old >> 32 == mine)
			new = (__u32)old;
		else if (TWO_TABLES && b->life != life)
			continue;	/* it was moved: what is here was not the last word */
		else
			return;
		if (__sync_val_compare_and_swap(&b->conns, old, new) != old)
			continue;
		/* who comes now and sees that there is none takes another slot */
		if (!new && __sync_val_compare_and_swap(&b->life, life, (life & ~LIFE_KIND) | SLOT_DEAD) == life)
			table_give_back(slot, 1, now);
		return;
	}
}

static __always_inline void more_give_back(__u32 number, __u32 life, __u64 now)
{
	__u32 place = life >> LIFE_MORE_SHIFT & 0xff;

	if (place)
		table_give_back((number & ~(GROUP_SLOTS - 1)) + place - 1, 0, now);
}

/* Take a connection apart, if it is still in the life in which it was found. Returns 0 if somebody else does. */
__noinline int conn_release(__u32 number, __u32 life, __u64 now)
{
	struct runtime *rt = at(&runtime, 0);
	struct conn *c = conn_at(number);
	struct dest *d;
	__u32 status;
	LEAVING(key);

	if (!c || !rt || !key || (life & LIFE_KIND) != SLOT_CONN)
		return 0;
	if (__sync_val_compare_and_swap(&c->life, life, (life & ~LIFE_KIND) | SLOT_DEAD) != life)
		return 0;
	d = at(&dests, c->dest);
	if (d && conn_method(c) == METHOD_MASQ) {
		conn_back_key(c, d, key);
		back_leave(key, number, now);
	}
	more_give_back(number, life, now);
	/* from here on the status is that of nobody's turn: a packet that comes too late moves it, and the load, no more */
	status = __sync_fetch_and_xor(&c->status, STATUS_TURN);
	load_unbind(c->dest, status, now);
	__sync_fetch_and_add(&rt->conns, -1);
	table_give_back(number, 1, now);
	return 1;
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
	__u32 group = (w->first ^ i) & GROUP_SLOTS ? w->other : w->group, life, state;
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
	else if ((life & LIFE_KIND) != SLOT_CONN)
		return 0;
	c = conn_at(number);
	if (!c)
		return 0;
	life = c->life;
	if ((life & LIFE_KIND) != SLOT_CONN)
		return 0;
	w->over = past(c->expires, w->now);
	if (!w->over) {
		state = c->status & STATUS_STATE;
		if (c->protocol != IPPROTO_TCP || state >= TCP_STATES || !tcp_half_open[state])
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

/* ---- find, touch ---------------------------------------------------------------------------------------------- */

/* The connection to which the slot `c` with these addresses leads, or NULL; then found->life is 0. */
static __always_inline struct conn *conn_found(struct conn *c, __u32 number, __u32 life, const struct tuple *key,
					       __u64 now, struct found *found)
{
	__u32 back = (life & LIFE_KIND) == SLOT_BACK;

	found->life = found->from_server = found->again = 0;
	if (c && back) {
		number = (__u32)((struct back *)c)->conns - 1;
		c = conn_at(number);
		found->again = TWO_TABLES;	/* this slot, or what it leads to, may have been moved meanwhile */
		if (c) {
			life = *(volatile __u32 *)&c->life;
			if (TWO_TABLES && (life & LIFE_KIND) == SLOT_MOVING)
				wait_for((__u64)life << 32 | (1 + number));
			if (c->cport != key->dport || c->dport != key->sport)
				return NULL;
		}
	}
	if (!c || (life & LIFE_KIND) != SLOT_CONN)
		return NULL;
	found->again = 0;
	if (past(c->expires, now)) {
		conn_release(number, life, now);
		found->again = back;	/* an older one may have the replies now */
		return NULL;
	}
	found->number = number;
	found->life = life;
	found->from_server = back;
	return c;
}

static __always_inline struct conn *conn_find_hashed(const struct tuple *key, __u64 hash, __u64 now,
						      struct found *found)
{
	__u64 slot = table_find(key, hash, KINDS(SLOT_CONN) | KINDS(SLOT_BACK));
	__u32 number = (__u32)slot - 1;

	return conn_found(slot ? conn_at(number) : NULL, number, slot >> 32, key, now, found);
}

/* The connection of these addresses, or NULL; then found->life is 0. */
static __always_inline struct conn *conn_find(const struct tuple *key, __u64 now, struct found *found)
{
	__u64 hash = table_hash(key);
	struct conn *c = conn_find_hashed(key, hash, now, found);

	return !c && found->again ? conn_find_hashed(key, hash, now, found) : c;
}

/* The same, for the program's main road: most connections are where one looks first. */
static __always_inline struct conn *conn_find_fast(const struct tuple *key, __u64 now, struct found *found)
{
	__u32 number, life;
	struct conn *c;
	__u64 hash;

	if (TWO_TABLES)
		return conn_find(key, now, found);
	hash = table_hash(key);
	c = table_peek(key, hash, &number, &life);
	if (c) {
		c = conn_found(c, number, life, key, now, found);
		if (c || !found->again)
			return c;
	}
	return conn_find_hashed(key, hash, now, found);
}

static __always_inline __u32 conn_deadline(__u32 timeout, __u64 now)
{
	return ticks(now + timeout * MSEC);
}

/* The packet counts as use: the connection lives for its timeout from now. The store is spared within a clock tick,
 * so that the packets of a busy connection do not fight for its cache line. */
static __always_inline void conn_touch(struct conn *c, __u64 now)
{
	__u32 expires = conn_deadline(c->timeout, now);

	if (c->expires != expires)
		c->expires = expires;
}

/* ---- claim ----------------------------------------------------------------------------------------------------- */

/* Publish a filled slot, and make it what it is to be, unless another CPU has made one with the same key. Returns the
 * slot that is it now, in the form of table_find: this one, or the other one, and then this one was given back. 0: the
 * two got into each other's way, and neither is.
 *
 * Both publish before they look, so at least one of them sees the other. Who sees one that is finished gives up; if
 * both are unfinished, the higher number gives up and the lower one waits to see it go. */
__noinline __u64 conn_settle(__u32 number, const struct tuple *key, __u64 hash, __u32 kind, __u64 now)
{
	struct conn *c = conn_at(number);
	__u64 other;
	__u32 life;

	if (!c || !key)
		return 0;
	life = c->life;
	table_publish(number, hash_tag(hash));
	for (int i = 0; i < 4; i++) {
		other = table_find(key, hash, KINDS(kind & 0xf) | KINDS(SLOT_FILLING) | EXCEPT(number));
		if (!other) {
			life = (life & ~LIFE_KIND) | kind;
			c->life = life;
			return (__u64)life << 32 | (1 + number);
		}
		if ((other >> 32 & LIFE_KIND) != SLOT_FILLING || (__u32)other < 1 + number)
			break;
		wait_for(other);
	}
	more_give_back(number, life, now);
	table_give_back(number, 1, now);
	wait_for(other);
	return table_find(key, hash, KINDS(kind & 0xf));
}

/* What a new connection is. Not on the stack: with the functions below there is not enough of it. */
struct birth {
	union address daddr;
	__u32 dest;
	__u32 flags;		/* conn_flag */
	__u32 fwmark;
	__u16 dport;
	__u16 unused;
	struct tuple reply;
	__u64 hash;
	__u64 reply_hash;
};

MAP(births, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct birth, 1, 0);

static __always_inline void back_fill(__u32 slot, const struct tuple *key, __u32 number)
{
	struct back *b = (struct back *)conn_at(slot);

	if (!b)
		return;
	b->conns = 1 + number;
	b->sport = key->sport;
	b->dport = key->dport;
	b->protocol = key->protocol;
	b->family = key->family;
	if (key->family == AF_INET) {
		b->at.ipv4.caddr = key->src.word[0];
		b->at.ipv4.vaddr = key->dst.word[0];
	} else {
		b->at.ipv6.caddr = key->src;
		b->at.ipv6.vaddr = key->dst;
	}
}

/* Let a reply's addresses lead to a connection, by the slot that was filled for it. If there is one already, an older
 * connection has the same replies: they are the newer one's while that lives. */
static __always_inline int back_join(__u32 slot, const struct birth *birth, __u32 number, __u64 now)
{
	__u64 found = conn_settle(slot, &birth->reply, birth->reply_hash, SLOT_BACK, now), old, kept;
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
		if (__sync_val_compare_and_swap(&b->conns, old, kept | (1 + number)) == old)
			return 1;
	}
	return 0;
}

static __always_inline void conn_fill(struct conn *c, const struct tuple *key, const struct birth *birth, __u64 now)
{
	struct conn_rest rest = { .fwmark = birth->fwmark };

	c->timeout = 3000;	/* until the protocol sets its own */
	c->expires = conn_deadline(3000, now);
	c->dest = birth->dest;
	c->status = STATUS_FLAG(birth->flags) | (c->life >> LIFE_TURN_SHIFT) << STATUS_TURN_SHIFT;
	c->packets = 0;
	c->cport = key->sport;
	c->vport = key->dport;
	c->dport = birth->dport;
	c->protocol = key->protocol;
	c->family = key->family;
	if (key->family == AF_INET) {
		c->at.ipv4.caddr = key->src.word[0];
		c->at.ipv4.vaddr = key->dst.word[0];
		c->at.ipv4.rest = rest;
	} else {
		c->at.ipv6.caddr = key->src;
		c->at.ipv6.vaddr = key->dst;
	}
}

/* A slot for the rest of an IPv6 connection, if there is anything to say there. 0: there is no room for it. */
static __always_inline int more_fill(struct conn *c, __u32 number, const struct birth *birth, __u64 now)
{
	struct conn_rest rest = { .fwmark = birth->fwmark };
	struct more *more;
	__u32 place;

	if (c->family == AF_INET || !rest.fwmark)
		return 1;
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
	birth->reply.src = birth->daddr;
	birth->reply.dst = key->src;
	birth->reply.sport = birth->dport;
	birth->reply.dport = key->sport;
	birth->reply.protocol = key->protocol;
	birth->reply.family = key->family;
}

static __always_inline void claim_undo(struct dest_load *load, struct runtime *rt, __u64 now)
{
	__sync_fetch_and_add(&rt->conns, -1);
	if (__sync_fetch_and_add(&load->total, -1) == 1)
		load->idle = now;
}

/* A new connection for the packet's tuple, as it stands in `births`. RECEIVED: it is in `found`; if another CPU made the
 * same connection meanwhile, that one. */
__noinline int conn_claim(const struct tuple *key, struct found *found, __u64 now)
{
	struct birth *birth = at(&births, 0);
	struct runtime *rt = at(&runtime, 0);
	struct dest_load *load;
	__u32 number, back = 0;
	struct conn *c;
	__u64 slot;
	int nat;

	if (!key || !found || !birth || !rt)
		return DROPPED_TABLE_FULL;
	load = at(&dest_loads, birth->dest);
	if (!load)
		return DROPPED_TABLE_FULL;
	nat = (birth->flags & CONN_METHOD) == METHOD_MASQ;
	/* counted before it can be found, so that the one who releases it never counts below nothing; and before its slot
	 * is touched, since what is done with a lock waits until that has come from memory */
	__sync_fetch_and_add(&load->total, 1);
	__sync_fetch_and_add(&rt->conns, 1);
	birth->hash = table_hash(key);
	number = conn_slot(birth->hash, now) - 1;
	c = conn_at(number);
	if (!c)
		goto no_room;
	conn_fill(c, key, birth, now);
	if (nat) {
		birth_reply(birth, key);
		birth->reply_hash = table_hash(&birth->reply);
		back = conn_slot(birth->reply_hash, now);
		if (back)
			back_fill(back - 1, &birth->reply, number);
	} else {
		expect_plain_replies(key);
	}
	if ((nat && !back) || !more_fill(c, number, birth, now)) {
		if (back)
			table_give_back(back - 1, 1, now);
		table_give_back(number, 1, now);
		goto no_room;
	}
	slot = conn_settle(number, key, birth->hash, SLOT_CONN, now);
	if ((__u32)slot != 1 + number) {
		if (back)
			table_give_back(back - 1, 1, now);
		claim_undo(load, rt, now);
		return slot && conn_find(key, now, found) && !found->from_server ? RECEIVED : DROPPED_CONTENDED;
	}
	found->number = number;
	found->life = slot >> 32;
	found->from_server = 0;
	if (back && !back_join(back - 1, birth, number, now)) {
		conn_release(number, found->life, now);
		return DROPPED_CONTENDED;
	}
	/* whoever has ended it meanwhile did not find it on the real server's side */
	if (back && !conn_same(c, found)) {
		back_leave(&birth->reply, number, now);
		return DROPPED_CONTENDED;
	}
	return RECEIVED;

no_room:
	claim_undo(load, rt, now);
	return DROPPED_TABLE_FULL;
}
