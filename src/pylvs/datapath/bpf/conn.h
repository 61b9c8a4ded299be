/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Connections, behind four words: find, touch, release, and claim, which is claim.h's. Where they are kept is table.h's.
 *
 * Rules of this file:
 *  - A connection's life word is SLOT_CONN of one turn from its birth to its end; who moves it from there to SLOT_DEAD,
 *    and nobody else, takes it apart.
 *  - Nobody holds a lock, so a connection may end while a packet is at it, and its slot be used again. So who has read
 *    what a packet needs looks at the life word again, and a status is only changed as that of the same turn.
 *  - A connection past its time is gone, whether or not the sweep has been there; unless it controls others.
 */
#pragma once

#include "load.h"
#include "control.h"

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

/* Has it a real server's side? */
static __always_inline int conn_backed(__u32 flags)
{
	return (flags & CONN_METHOD) == METHOD_MASQ || ((flags & CONN_STACK) && (flags & CONN_METHOD) != METHOD_BYPASS);
}

/* The port to which its packets come at the real server. */
static __always_inline __u16 conn_rport(const struct conn *c)
{
	return conn_method(c) == METHOD_MASQ ? c->dport : c->vport;
}

/* The addresses under which it is found. */
static __always_inline void conn_key(const struct conn *c, struct tuple *key)
{
	conn_caddr(c, &key->src);
	conn_vaddr(c, &key->dst);
	key->sport = c->cport;
	key->dport = c->vport;
	key->protocol = c->protocol;
	key->family = c->family;
	key->unused = 0;
}

/* The address by which the stack knows a real server: its own; of the other family, one that stands for it. */
static __always_inline void stack_address(const struct dest *d, __u32 number, __u8 family, union address *to)
{
	*to = d->address;
	if (d->family == family)
		return;
	to->word[0] = bpf_htonl(family == AF_INET ? STAND_IN_IPV4 | number : STAND_IN_IPV6_FIRST);
	to->word[1] = family == AF_INET ? 0 : bpf_htonl(STAND_IN_IPV6_SECOND);
	to->word[2] = 0;
	to->word[3] = family == AF_INET ? 0 : bpf_htonl(number);
}

/* Can the stack have packets for it in its hands? */
static __always_inline int stack_knows(const struct dest *d, __u8 family)
{
	const struct config *cfg = at(&config, 0);

	return d->family == family || (cfg && (cfg->egress & EGRESS_OTHER));
}

/* The addresses under which a LVS-NAT real server's packets arrive; of other methods, would arrive. */
static __always_inline void conn_back_key(const struct conn *c, const struct dest *d, struct tuple *key)
{
	stack_address(d, c->dest, c->family, &key->src);
	conn_caddr(c, &key->dst);
	key->sport = conn_rport(c);
	key->dport = c->cport;
	key->protocol = conn_method(c) == METHOD_MASQ ? c->protocol : c->protocol ^ BACK_ASIDE;
	key->family = c->family;
	key->unused = 0;
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

/* What is needed of a connection that is just ending. In the packets' program not on the stack, of which
 * there is little; nothing interrupts it on its CPU by itself. What a command runs may be interrupted by packets. */
struct leaving {
	struct tuple reply;
	__u32 control;
};

#ifdef DEEP_STACK
MAP(leaving, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct leaving, 1, 0);
#define LEAVING(name) struct leaving *name = at(&leaving, 0)
#else
#define LEAVING(name) struct leaving name##_here, *name = &name##_here
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
		else if (TWO_TABLES && !old)
			new = 0;	/* whoever left last could not give it back, since it was about to be moved */
		else
			return;
		if (__sync_val_compare_and_swap(&b->conns, old, new) != old)
			continue;
		/* who comes now and sees that there is none takes another slot */
		if (new)
			return;
		if (__sync_val_compare_and_swap(&b->life, life, (life & ~LIFE_KIND) | SLOT_DEAD) == life) {
			table_give_back(slot, 1, now);
			return;
		}
		if (!TWO_TABLES)
			return;
	}
}

static __always_inline void more_give_back(__u32 number, __u32 life, __u64 now)
{
	__u32 place = life >> LIFE_MORE_SHIFT & 0xff;

	if (place)
		table_give_back((number & ~(GROUP_SLOTS - 1)) + place - 1, 0, now);
}

/* Take a connection or a template apart, if it is still in the life in which it was found. */
__noinline int conn_release(__u32 number, __u32 life, __u64 now)
{
	struct conn *c = conn_at(number);
	struct runtime *rt;
	struct conn_rest *rest;
	struct dest *d;
	__u32 status, doubt, dead;
	LEAVING(was);

	if (!c || !was || !(KINDS(life & 0xf) & CONTROLLED))
		return RELEASED_NOT;
	rest = conn_rest(c, number);
	if (rest && rest->controls)
		return conn_postpone(c, life, now);
	/* a template first seems unfinished: were it dead, and then not, there could be two of it meanwhile */
	dead = (life & ~LIFE_KIND) | SLOT_DEAD;
	doubt = (life & LIFE_KIND) == SLOT_TEMPLATE ? (life & ~LIFE_KIND) | SLOT_FILLING : dead;
	if (__sync_val_compare_and_swap(&c->life, life, doubt) != life)
		return RELEASED_NOT;
	if (rest && __sync_val_compare_and_swap(&rest->controls, 0, CONTROLS_GONE)) {
		*(volatile __u32 *)&c->life = life;
		return conn_postpone(c, life, now);
	}
	*(volatile __u32 *)&c->life = dead;
	was->control = rest ? rest->control : 0;
	more_give_back(number, life, now);
	d = at(&dests, c->dest);
	if (d && (life & LIFE_KIND) == SLOT_CONN && conn_backed(c->status >> 8)) {
		conn_back_key(c, d, &was->reply);
		back_leave(&was->reply, number, now);
	}
	if ((life & LIFE_KIND) != SLOT_CONN && c->cport) {
		conn_key(c, &was->reply);
		bpf_map_delete_elem(&call_ids, &was->reply);
	}
	if (c->status & STATUS_FLAG(CONN_FTP)) {
		conn_key(c, &was->reply);
		bpf_map_delete_elem(&ftp_talks, &was->reply);
	}
	/* from here on the status is that of nobody's turn: a packet that comes too late moves it, and the load, no more */
	status = __sync_fetch_and_xor(&c->status, STATUS_TURN);
	load_unbind(at(&dest_loads, c->dest), status >> 8, now);
	rt = at(&runtime, 0);
	if (rt)
		__sync_fetch_and_add(&rt->conns, -1);
	if (rt && (status & STATUS_FLAG(CONN_NO_CPORT)))
		__sync_fetch_and_add(&rt->awaiting, -1);
	table_give_back(number, 1, now);
	if (was->control)
		control_leave(was->control);
	return RELEASED;
}

/* Which life of a slot is it that controls a connection, while that is there? */
static __always_inline __u32 control_turn(__u32 control)
{
	struct conn *c = control ? conn_at(control_now(control) - 1) : NULL;

	return c ? c->life >> LIFE_TURN_SHIFT : 0;
}

/* What a connection that was dropped leaves behind without others to control, and that goes with it (facts 2.7): life
 * << 32 | 1 + number; 0: nothing does. `turn`: which life of its slot that was; it may have ended meanwhile. */
static __always_inline __u64 conn_left_alone(__u32 control, __u32 turn)
{
	struct conn_rest *rest;
	struct conn *c;
	__u32 life;

	control = control_now(control);
	c = conn_at(control - 1);
	rest = c ? conn_rest(c, control - 1) : NULL;
	if (!rest || rest->controls)
		return 0;
	life = *(volatile __u32 *)&c->life;
	if (life >> LIFE_TURN_SHIFT != turn)
		return 0;
	if ((life & LIFE_KIND) == SLOT_TEMPLATE && (c->status & STATUS_STATE) == TEMPLATE_ASSURED)
		return 0;
	return (__u64)life << 32 | control;
}

/* End a connection by force: what controlled it alone goes with it, unless that is a template that has proved itself. */
__noinline int conn_drop(__u32 number, __u32 life, __u64 now)
{
	struct conn *c = conn_at(number);
	struct conn_rest *rest = c ? conn_rest(c, number) : NULL;
	__u32 control = rest ? rest->control : 0, turn = control_turn(control);
	int released = conn_release(number, life, now);
	__u64 left;

	if (released != RELEASED || !control)
		return released;
	left = conn_left_alone(control, turn);
	if (!left)
		return released;
	c = conn_at((__u32)left - 1);
	rest = c ? conn_rest(c, (__u32)left - 1) : NULL;
	control = rest ? rest->control : 0;
	turn = control_turn(control);
	if (conn_release((__u32)left - 1, left >> 32, now) == RELEASED && control) {
		left = conn_left_alone(control, turn);	/* an FTP connection for data, its control connection, that one's template */
		if (left)
			conn_release((__u32)left - 1, left >> 32, now);
	}
	return released;
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
			if (c->cport != key->dport || conn_rport(c) != key->sport)
				return NULL;
		}
	}
	if (!c || (life & LIFE_KIND) != SLOT_CONN)
		return NULL;
	found->again = 0;
	if (past(c->expires, now) && conn_release(number, life, now) != RELEASE_POSTPONED) {
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

/* The packet counts as use: the connection lives for its timeout from now. The store is spared within a clock tick,
 * so that the packets of a busy connection do not fight for its cache line. */
static __always_inline void conn_touch(struct conn *c, __u64 now)
{
	__u32 expires = conn_deadline(c->timeout, now);

	if (c->expires != expires)
		c->expires = expires;
}
