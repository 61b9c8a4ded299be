/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Protocol states (facts section 3). The tables are data: Python's pylvs.protocols hands them in at load.
 * State and flags change in one compare-and-swap, and who wins it moves the real server's active count.
 */
#pragma once

enum direction { INPUT, OUTPUT, INPUT_ONLY };
enum { TCP_S_ESTABLISHED = 1, TCP_S_FIN_WAIT = 4, TCP_S_TIME_WAIT = 5, TCP_S_CLOSE = 6, TCP_S_LISTEN = 9 };
enum { EVENT_SYN, EVENT_FIN, EVENT_ACK, EVENT_RST };
enum { SCTP_S_ESTABLISHED = 8, SCTP_S_CLOSED = 13 };

/* The normal table, and the one of secure_tcp. */
const volatile __u8 tcp_next[2][DIRECTIONS][TCP_EVENTS][TCP_STATES];
const volatile __u8 tcp_active[TCP_STATES];
const volatile __u8 sctp_next[DIRECTIONS][SCTP_EVENTS][SCTP_STATES];
const volatile __u8 sctp_active[SCTP_STATES];

/* Which table is in force? Of an established connection both say the same, and it need not look. */
static __always_inline __u32 tcp_secure(__u32 state)
{
	const struct runtime *rt = state == TCP_S_ESTABLISHED ? NULL : at(&runtime, 0);

	return rt && rt->secure;
}

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
	return tcp_next[tcp_secure(state)][direction][event][state];
}

static __always_inline __u32 sctp_transition(__u32 direction, __u32 state, __u8 event)
{
	__u32 number = (event & SCTP_EVENT) - 1;

	if (direction >= DIRECTIONS || state >= SCTP_STATES || number >= SCTP_EVENTS || (event & SCTP_DONE))
		return state;
	return sctp_next[direction][number][state];
}

/* Has a connection come to data? */
static __always_inline int established(__u32 status, __u8 protocol)
{
	return (status & STATUS_STATE) == (protocol == IPPROTO_TCP ? TCP_S_ESTABLISHED : SCTP_S_ESTABLISHED);
}

/* May a packet that no connection knows open one (facts 2.4)? */
static __always_inline int may_open(const struct packet *p)
{
	const struct sysctls *sys = at(&sysctls, 0);

	if (!sys || p->kind == KIND_SEALED)
		return 0;
	if (p->kind == KIND_SCTP)
		return p->sctp_event != 1 + SCTP_E_ABORT && (p->sctp_event == 1 + SCTP_E_INIT || sys->sloppy_sctp);
	return p->tuple.protocol != IPPROTO_TCP ||
	       (!(p->tcp_flags & TCP_RST) && ((p->tcp_flags & TCP_SYN) || sys->sloppy_tcp));
}

/* Is it one with which clients begin, so that a connection that exists may be an old one (facts 2.9)? */
static __always_inline int begins(const struct packet *p)
{
	if (p->tuple.protocol == IPPROTO_TCP)
		return p->tcp_flags & TCP_SYN;
	return p->kind == KIND_SCTP && p->sctp_event == 1 + SCTP_E_INIT;
}

/* The direction whose table counts. A reply shows that replies do pass here after all. */
static __always_inline enum direction seen_from(enum direction direction, __u32 *flags)
{
	if (direction == OUTPUT)
		*flags &= ~STATUS_FLAG(CONN_NOOUTPUT);
	else if (*flags & STATUS_FLAG(CONN_NOOUTPUT))
		return INPUT_ONLY;
	return direction;
}

static __always_inline __u32 with_activity(__u32 flags, __u32 state, int active)
{
	if (active)
		return (flags & ~STATUS_FLAG(CONN_INACTIVE)) | state;
	return flags | STATUS_FLAG(CONN_INACTIVE) | state;
}

static __always_inline __u32 status_after(const struct packet *p, __u32 old, enum direction direction)
{
	__u32 state = old & STATUS_STATE, flags = old & ~STATUS_STATE;

	direction = seen_from(direction, &flags);
	if (p->kind == KIND_SCTP) {
		state = sctp_transition(direction, state, p->sctp_event);
		return with_activity(flags, state, state < SCTP_STATES && sctp_active[state]);
	}
	if (p->tuple.protocol != IPPROTO_TCP)
		return flags | state;
	state = tcp_transition(direction, state, p->tcp_flags);
	return with_activity(flags, state, state < TCP_STATES && tcp_active[state]);
}

/* Where a state's timeout stands. */
static __always_inline __u32 timeout_place(__u8 protocol, __u32 state)
{
	return protocol == IPPROTO_TCP ? state : protocol == IPPROTO_UDP ? TIMEOUT_UDP : TIMEOUT_SCTP + state;
}

static __always_inline __u32 timeout_of(const struct config *cfg, __u32 place)
{
	barrier_var(place);	/* the verifier of Linux 6.1 is to see what is compared */
	if (place >= TIMEOUTS)
		return 0;
	return cfg->timeouts[(cfg->timeouts_row & 1) * TIMEOUTS + place];
}

/* The packet's effect on its connection. AH and ESP have none (facts 2.2), nor has SCTP without a chunk.
 * A function of its own, so that the many packets that change nothing are not in its way. */
__noinline int state_change(struct packet *p, const struct found *found, enum direction direction)
{
	const struct config *cfg = at(&config, 0);
	__u32 old, new, seen, turn;
	struct dest_load *load;
	struct conn *c;

	if (!p || !found || !cfg || p->kind == KIND_SEALED || (p->kind == KIND_SCTP && p->sctp_event == SCTP_SILENT))
		return 0;
	c = conn_at(found->number);
	if (!c)
		return 0;
	turn = found->life >> LIFE_TURN_SHIFT & 0xff;
	old = new = c->status;
	for (int i = 0; i < 4; i++) {	/* the other direction may move it at the same time */
		if (old >> STATUS_TURN_SHIFT != turn)
			return 0;	/* it has ended, and its slot is another's */
		new = status_after(p, old, direction);
		seen = new == old ? old : __sync_val_compare_and_swap(&c->status, old, new);
		if (seen == old)
			goto changed;
		old = seen;
	}
	return 0;

changed:
	if (p->kind == KIND_SCTP)
		p->sctp_event |= SCTP_DONE;
	if ((old ^ new) & STATUS_FLAG(CONN_INACTIVE)) {
		load = at(&dest_loads, c->dest);
		if (load)
			__sync_fetch_and_add(&load->active, new & STATUS_FLAG(CONN_INACTIVE) ? -1 : 1);
	}
	c->timeout = timeout_of(cfg, timeout_place(p->tuple.protocol, new & STATUS_STATE));
	return 1;
}

/* Does a packet leave status and state as they are? A datagram does, and the acknowledgement of an established
 * connection, in every table. A first reply does not, where none was expected. */
static __always_inline int changes_nothing(const struct packet *p, __u32 status, enum direction direction)
{
	if (p->kind != KIND_PLAIN || (direction == OUTPUT && (status & STATUS_FLAG(CONN_NOOUTPUT))))
		return 0;
	return p->tuple.protocol == IPPROTO_UDP ||
	       ((p->tcp_flags & (TCP_RST | TCP_SYN | TCP_FIN | TCP_ACK)) == TCP_ACK &&
		(status & (STATUS_STATE | STATUS_FLAG(CONN_INACTIVE))) == TCP_S_ESTABLISHED);
}

static __always_inline void state_move(const struct config *cfg, struct conn *c, const struct found *found,
				       struct packet *p, enum direction direction)
{
	__u32 status = c->status;

	if (!changes_nothing(p, status, direction))
		state_change(p, found, direction);
	else if (status >> STATUS_TURN_SHIFT == (found->life >> LIFE_TURN_SHIFT & 0xff))
		c->timeout = timeout_of(cfg, timeout_place(p->tuple.protocol, TCP_S_ESTABLISHED));
}
