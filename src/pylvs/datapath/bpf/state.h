/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Protocol states (facts section 3). The tables are data: Python's pylvs.protocols hands them in at load.
 * State and flags change in one compare-and-swap, and who wins it moves the real server's active count.
 */
#pragma once

enum direction { INPUT, OUTPUT, INPUT_ONLY };
enum { TCP_S_ESTABLISHED = 1, TCP_S_FIN_WAIT = 4, TCP_S_TIME_WAIT = 5, TCP_S_CLOSE = 6 };
enum { EVENT_SYN, EVENT_FIN, EVENT_ACK, EVENT_RST };

const volatile __u8 tcp_next[DIRECTIONS][TCP_EVENTS][TCP_STATES];
const volatile __u8 tcp_active[TCP_STATES];

/* The first match of RST, SYN, FIN, ACK decides; a packet with none of them closes. */
static __always_inline __u32 tcp_transition(__u32 direction, __u32 state, __u8 flags)
{
	__u32 event;

	if (flags & TCP_RST)
		event = EVENT_RST;
	else if (flags & TCP_SYN)
		event = EVENT_SYN;
	else if (flags & TCP_FIN)
		event = EVENT_FIN;
	else if (flags & TCP_ACK)
		event = EVENT_ACK;
	else
		return TCP_S_CLOSE;
	if (direction >= DIRECTIONS || state >= TCP_STATES)
		return TCP_S_CLOSE;
	return tcp_next[direction][event][state];
}

/* Has a connection come to data? */
static __always_inline int established(__u32 status, __u8 protocol)
{
	return protocol == IPPROTO_TCP && (status & STATUS_STATE) == TCP_S_ESTABLISHED;
}

/* May a packet that no connection knows open one (facts 2.4)? */
static __always_inline int may_open(const struct packet *p)
{
	return p->tuple.protocol != IPPROTO_TCP || (p->tcp_flags & (TCP_SYN | TCP_RST)) == TCP_SYN;
}

/* Is it one with which clients begin, so that a connection that exists may be an old one (facts 2.9)? */
static __always_inline int begins(const struct packet *p)
{
	return p->tuple.protocol == IPPROTO_TCP && (p->tcp_flags & TCP_SYN);
}

static __always_inline __u32 status_after(const struct packet *p, __u32 old, enum direction direction)
{
	__u32 state = old & STATUS_STATE, flags = old & ~STATUS_STATE;

	if (direction == OUTPUT)
		flags &= ~STATUS_FLAG(CONN_NOOUTPUT);	/* replies do pass here after all */
	else if (flags & STATUS_FLAG(CONN_NOOUTPUT))
		direction = INPUT_ONLY;
	if (p->tuple.protocol != IPPROTO_TCP)
		return flags | state;
	state = tcp_transition(direction, state, p->tcp_flags);
	if (state < TCP_STATES && tcp_active[state])
		return (flags & ~STATUS_FLAG(CONN_INACTIVE)) | state;
	return flags | STATUS_FLAG(CONN_INACTIVE) | state;
}

static __always_inline void state_move(const struct config *cfg, struct conn *c, const struct found *found,
				       const struct packet *p, enum direction direction)
{
	__u32 old = c->status, new = old, seen, state, turn = found->life >> LIFE_TURN_SHIFT & 0xff;
	struct dest_load *load;

#pragma unroll
	for (int i = 0; i < 4; i++) {	/* the other direction may move it at the same time */
		if (old >> STATUS_TURN_SHIFT != turn)
			return;		/* it has ended, and its slot is another's */
		new = status_after(p, old, direction);
		if (new == old)
			break;
		seen = __sync_val_compare_and_swap(&c->status, old, new);
		if (seen == old)
			break;
		old = seen;
	}
	if ((old ^ new) & STATUS_FLAG(CONN_INACTIVE)) {
		load = at(&dest_loads, c->dest);
		if (load)
			__sync_fetch_and_add(&load->active, new & STATUS_FLAG(CONN_INACTIVE) ? -1 : 1);
	}
	state = p->tuple.protocol == IPPROTO_TCP ? new & STATUS_STATE : TIMEOUT_UDP;
	if (state < TIMEOUTS)
		c->timeout = cfg->timeouts[(cfg->timeouts_row & 1) * TIMEOUTS + state];
}
