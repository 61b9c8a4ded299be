/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Moving connections from one table to another while packets pass. Only in the programs of a resizing (RESIZING), which
 * look at both tables: whatever stands in either is found.
 *
 * A slot is moved by whoever changes its life to SLOT_MOVING. Packets that find it so wait, for as long as it takes to
 * copy a cache line, and find it in its new place. What is put off (the new groups are full) becomes what it was.
 *
 * What controls connections leaves a slot SLOT_MOVED behind that says where it is now: they refer to it by its number.
 * When all is moved, `mend` gives them the new number, and then nobody needs those slots any more.
 */
#pragma once

struct move_walk {
	__u64 now;
	__u32 group;
	__u32 left;		/* that did not fit */
};

/* A slot in the target table for what is in `c`, filled with it: 1 + its number, or 0. */
static __always_inline __u32 move_copy(const struct conn *c, __u64 hash, __u64 now)
{
	__u32 taken = table_take(hash, 1, now);
	struct conn *copy = taken ? conn_at(taken - 1) : NULL;

	if (!copy)
		return 0;
	copy->expires = c->expires;
	copy->timeout = c->timeout;
	copy->packets = c->packets;
	copy->dest = c->dest;
	copy->cport = c->cport;
	copy->vport = c->vport;
	copy->dport = c->dport;
	copy->protocol = c->protocol;
	copy->family = c->family;
	copy->at = c->at;
	return taken;
}

/* The rest of an IPv6 connection. 0: there is no room for it in the new group. */
static __always_inline int move_more(__u32 from, __u32 life, __u32 to, __u64 now)
{
	__u32 place = life >> LIFE_MORE_SHIFT & 0xff, taken;
	struct more *old, *new;
	struct conn *c = conn_at(to);

	if (!place)
		return 1;
	taken = group_take(to / GROUP_SLOTS, 0, 1, now);
	old = (struct more *)conn_at((from & ~(GROUP_SLOTS - 1)) + place - 1);
	new = taken ? (struct more *)conn_at(taken - 1) : NULL;
	if (!old || !new || !c)
		return 0;
	new->conn = to;
	new->rest = old->rest;
	new->life = (new->life & ~LIFE_KIND) | SLOT_MORE;
	c->life |= ((taken - 1) % GROUP_SLOTS + 1) << LIFE_MORE_SHIFT;
	return 1;
}

/* Let the real server's side lead to the new number. */
static __always_inline void move_reference(const struct tuple *key, __u32 old_number, __u32 new_number)
{
	__u64 hash = table_hash(key), found, old, new;
	struct back *b;

	for (int i = 0; i < 8; i++) {
		found = table_find(key, hash, KINDS(SLOT_BACK));
		b = found ? (struct back *)conn_at((__u32)found - 1) : NULL;
		if (!b)
			return;
		old = b->conns;
		if ((__u32)old == 1 + old_number)
			new = old >> 32 << 32 | (1 + new_number);
		else if (old >> 32 == 1 + old_number)
			new = (__u64)(1 + new_number) << 32 | (__u32)old;
		else
			return;
		if (__sync_val_compare_and_swap(&b->conns, old, new) == old)
			return;
	}
}

/* The count of connections that it controls, which goes on in the new place. */
static __always_inline __u32 move_controls(struct conn *c, __u32 from, struct conn *copy, __u32 to)
{
	struct conn_rest *old = conn_rest(c, from), *new = conn_rest(copy, to);

	if (!old || !new)
		return 0;
	new->controls = __sync_lock_test_and_set(&old->controls, CONTROLS_GONE);
	return new->controls;
}

/* 0: there is no room for it. */
__noinline int move_conn(__u32 number, __u32 life, __u64 now)
{
	__u32 moving = (life & ~LIFE_KIND) | SLOT_MOVING, taken, turn, status, after, controls;
	struct conn *c = conn_at(number), *copy;
	struct tuple key;
	struct dest *d;
	__u64 hash;

	if (!c || __sync_val_compare_and_swap(&c->life, life, moving) != life)
		return 0;	/* it is just ending, or becoming invalid, or so it seemed: look again */
	hash = slot_hash(c);
	taken = move_copy(c, hash, now);
	copy = taken ? conn_at(taken - 1) : NULL;
	if (!copy || !move_more(number, life, taken - 1, now)) {
		if (copy)
			table_give_back(taken - 1, 1, now);
		c->life = life;
		return 0;
	}
	turn = (copy->life >> LIFE_TURN_SHIFT) << STATUS_TURN_SHIFT;
	/* the state last, and with a turn that is nobody's: who had found it here moves it no more */
	status = c->status;
	status = __sync_lock_test_and_set(&c->status, status ^ STATUS_TURN);
	copy->status = (status & ~STATUS_TURN) | turn;
	copy->timeout = c->timeout;
	copy->expires = c->expires;
	copy->packets = c->packets;
	after = copy->life & ~LIFE_KIND;
	copy->life = after | SLOT_MOVING;
	table_publish(taken - 1, hash_tag(hash));
	/* before it can end in its new place: who ends it takes it off the real server's side by its new number */
	d = at(&dests, c->dest);
	if (d && (life & LIFE_KIND) == SLOT_CONN && conn_backed(c->status >> 8)) {
		conn_back_key(c, d, &key);
		move_reference(&key, number, taken - 1);
	}
	controls = move_controls(c, number, copy, taken - 1);
	copy->life = after | (life & LIFE_KIND);
	if (controls) {
		c->dest = taken - 1;
		*(volatile __u32 *)&c->life = (life & ~LIFE_KIND) | SLOT_MOVED;
		return 1;
	}
	more_give_back(number, life, now);
	table_give_back(number, 1, now);
	return 1;
}

/* The same for the real server's side. */
__noinline int move_back(__u32 number, __u32 life, __u64 now)
{
	struct back *b = (struct back *)conn_at(number), *copy;
	__u32 taken, after;
	__u64 hash;

	if (!b || __sync_val_compare_and_swap(&b->life, life, (life & ~LIFE_KIND) | SLOT_MOVING) != life)
		return 0;
	hash = slot_hash((struct conn *)b);
	taken = move_copy((struct conn *)b, hash, now);
	copy = taken ? (struct back *)conn_at(taken - 1) : NULL;
	if (!copy) {
		b->life = life;
		return 0;
	}
	/* who comes to join or leave, and had found it here, finds nothing to change, and looks again */
	copy->conns = __sync_lock_test_and_set(&b->conns, 0);
	if (!copy->conns) {	/* who left last was about to give it back */
		table_give_back(taken - 1, 1, now);
		table_give_back(number, 1, now);
		return 1;
	}
	after = copy->life & ~LIFE_KIND;
	copy->life = after | SLOT_MOVING;
	table_publish(taken - 1, hash_tag(hash));
	copy->life = after | SLOT_BACK;
	table_give_back(number, 1, now);
	return 1;
}

static long move_step(__u64 i, struct move_walk *w)
{
	__u32 number = w->group * GROUP_SLOTS + i, kind, life;
	int moved = 1, released = RELEASE_POSTPONED;
	struct conn *c = conn_at(number);

	if (!c)
		return 1;
	life = c->life;
	kind = life & LIFE_KIND;
	if ((KINDS(kind & 0xf) & CONTROLLED) && past(c->expires, w->now))
		released = conn_release(number, life, w->now);
	if (released != RELEASE_POSTPONED)
		moved = released == RELEASED;
	else if (KINDS(kind & 0xf) & CONTROLLED)
		moved = move_conn(number, life, w->now);
	else if (kind == SLOT_BACK)
		moved = move_back(number, life, w->now);
	else if (kind != SLOT_FREE && kind != SLOT_MORE && kind != SLOT_MOVED)
		moved = 0;	/* whoever is at it is done soon */
	w->left += !moved;
	return 0;
}

struct move_range {
	__u64 now;
	__u32 first;
	__u32 left;
};

static long move_group(__u64 i, struct move_range *r)
{
	struct move_walk w = { .now = r->now, .group = r->first + i };
	struct group *g = group_at(w.group);

	if (g && g->used)
		bpf_loop(GROUP_SLOTS, move_step, &w, 0);
	r->left += w.left;
	return 0;
}

/* ---- afterwards --------------------------------------------------------------------------------------------------- */

static long mend_step(__u64 i, struct move_walk *w)
{
	__u32 number = w->group * GROUP_SLOTS + i, life;
	struct conn *c = conn_at(number);
	struct conn_rest *rest;

	if (!c)
		return 1;
	life = c->life;
	rest = (KINDS(life & 0xf) & CONTROLLED) ? conn_rest(c, number) : NULL;
	if (rest && rest->control)
		rest->control = control_now(rest->control);
	return 0;
}

static long mend_group(__u64 i, struct move_range *r)
{
	struct move_walk w = { .group = r->first + i };
	struct group *g = group_at(w.group);

	if (g && g->used)
		bpf_loop(GROUP_SLOTS, mend_step, &w, 0);
	return 0;
}

static long clear_step(__u64 i, struct move_walk *w)
{
	__u32 number = w->group * GROUP_SLOTS + i, life;
	struct conn *c = conn_at(number);

	if (!c)
		return 1;
	life = c->life;
	if ((life & LIFE_KIND) == SLOT_MOVED) {
		more_give_back(number, life, w->now);
		table_give_back(number, 1, w->now);
	}
	return 0;
}

static long clear_group(__u64 i, struct move_range *r)
{
	struct move_walk w = { .now = r->now, .group = r->first + i };
	struct group *g = group_at(w.group);

	if (g && g->used)
		bpf_loop(GROUP_SLOTS, clear_step, &w, 0);
	return 0;
}
