/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Connections that belong together: what controls others (a persistence template its connections, an FTP connection
 * those for data) does not end before them (facts 2.7).
 *
 * Rules of this file:
 *  - Who ends a connection closes its count of those that it controls, which is only possible while that is 0; who
 *    attaches another to it finds the count open, and then it lives on, or closed. What ends while the count is closed
 *    is a template that seems unfinished: who is to make the same one waits to see what becomes of it.
 *  - While the table is being resized, what controls others leaves behind where it is now (SLOT_MOVED).
 */
#pragma once

#define POSTPONED_FOR 60000	/* milliseconds */
#define CONTROLS_GONE 0xc0000000u	/* a closed count, and counts beside it: it has ended, or the count is where it was moved */
#define MOVES_MOST 6		/* there and back again; more than once if commands were killed over it */
#define CONTROLLED (KINDS(SLOT_CONN) | KINDS(SLOT_TEMPLATE) | KINDS(SLOT_INVALID))

struct found {
	__u32 number;
	__u32 life;
	__u32 from_server;	/* the packet came from the real server's side of a NAT connection */
	__u32 again;		/* it may only seem not to be there: look again */
};

enum released {
	RELEASED_NOT,		/* somebody else does it */
	RELEASED,
	RELEASE_POSTPONED,	/* it controls others */
};

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

/* The clock tells apart what is less than 26 days away; `ipvsadm --set` takes 31. */
#define TIMEOUT_LONGEST 2250000000u

static __always_inline __u32 conn_deadline(__u32 timeout, __u64 now)
{
	return ticks(now + (timeout > TIMEOUT_LONGEST ? TIMEOUT_LONGEST : timeout) * MSEC);
}

/* What was past its time, and controls others, lives on. */
static __always_inline int conn_postpone(struct conn *c, __u32 life, __u64 now)
{
	if (*(volatile __u32 *)&c->life != life)
		return RELEASED_NOT;
	c->timeout = POSTPONED_FOR;
	c->expires = conn_deadline(POSTPONED_FOR, now);
	return RELEASE_POSTPONED;
}

/* Where a controller is now: 1 + its number.
 * A function of its own, so that the verifier walks its loop once. */
__noinline __u32 control_moved(__u32 control)
{
	struct conn *c;

	for (int i = 0; i < MOVES_MOST; i++) {
		c = conn_at(control - 1);
		if (!c || (c->life & LIFE_KIND) != SLOT_MOVED)
			break;
		control = 1 + c->dest;
	}
	return control;
}

static __always_inline __u32 control_now(__u32 control)
{
	return TWO_TABLES ? control_moved(control) : control;
}

/* A connection that was controlled has ended. */
__noinline int control_leave(__u32 control)
{
	struct conn_rest *rest;
	struct conn *c;
	__u32 life;

	for (int i = 0; i < (TWO_TABLES ? 4 : 1); i++) {
		control = control_now(control);
		c = conn_at(control - 1);
		rest = c ? conn_rest(c, control - 1) : NULL;
		if (!rest)
			return 0;
		life = *(volatile __u32 *)&c->life;
		if (__sync_fetch_and_add(&rest->controls, -1) < CONTROLS_GONE / 2)
			return 1;
		if ((life & LIFE_KIND) == SLOT_MOVING)
			wait_for((__u64)life << 32 | control);
	}
	return 0;
}

/* Count another that it controls. 0: it has just ended, or moved. */
static __always_inline int control_join(__u32 number, __u32 life)
{
	struct conn *c = conn_at(number);
	struct conn_rest *rest = c ? conn_rest(c, number) : NULL;
	__u32 kind;

	if (!rest)
		return 0;
	if (__sync_fetch_and_add(&rest->controls, 1) >= CONTROLS_GONE / 2)
		return 0;
	kind = *(volatile __u32 *)&c->life;
	if ((kind ^ life) >> LIFE_TURN_SHIFT) {
		__sync_fetch_and_add(&rest->controls, -1);	/* the slot is another's by now */
		return 0;
	}
	kind &= LIFE_KIND;
	if (!TWO_TABLES || (kind != SLOT_MOVING && kind != SLOT_MOVED))
		return 1;
	control_leave(1 + number);
	return 0;
}
