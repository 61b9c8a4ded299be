/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Thinning out the connection table while drop_entry is on (facts 9.4): each second as many groups as hold a 32nd of
 * its slots, chosen at random, one of them more than once perhaps. What happens to a connection there depends on its
 * state; the rules are data, Python's pylvs.protocols hands them in at load.
 */
#pragma once

#define THIN_PART 32		/* of the table, each second */
#define THIN_IDLE (60 * SECOND)
#define THIN_PACKETS 8		/* who had more of them is never tested */

enum thin_rule { THIN_KEEP, THIN_DROP, THIN_TEST };

const volatile __u8 tcp_thinned[TCP_STATES];
const volatile __u8 sctp_thinned[SCTP_STATES];

/* Is it one that has been idle for a minute, and every so manieth of those that had as many packets? */
static __always_inline int thin_test(struct runtime *rt, const struct conn *c, __u64 now)
{
	__s64 left = (__s64)(__s32)(c->expires - ticks(now)) * (1 << TICK_SHIFT);
	__u32 packets = c->packets;

	if ((__s64)(c->timeout * MSEC) - left < (__s64)THIN_IDLE || !packets || packets > THIN_PACKETS)
		return 0;
	return __sync_fetch_and_add(&rt->todrop[packets], 1) % packets == 0;
}

/* Is the template one of a service whose packets are scheduled one by one? */
static __always_inline int thin_one_packet(const struct conn *c)
{
	struct dest *d = at(&dests, c->dest);
	struct service *s = d ? at(&services, d->service) : NULL;
	union pool_slot *options = s && s->pool ? at(&pools, s->pool + 1) : NULL;

	return options && s->made == d->service_made && (options->options.flags & POOL_ONE_PACKET);
}

static __always_inline enum thin_rule thin_rule(const struct conn *c, __u32 kind)
{
	__u32 state = c->status & STATUS_STATE;

	if (kind == SLOT_TEMPLATE)
		return thin_one_packet(c) ? THIN_TEST : state == TEMPLATE_ASSURED ? THIN_KEEP : THIN_DROP;
	if (c->protocol == IPPROTO_TCP)
		return state < TCP_STATES ? tcp_thinned[state] : THIN_KEEP;
	if (c->protocol == IPPROTO_SCTP)
		return state < SCTP_STATES ? sctp_thinned[state] : THIN_KEEP;
	return THIN_TEST;
}

/* Look at one slot, and drop what is in it if the rules say so. */
static __always_inline void thin_slot(struct runtime *rt, __u32 number, __u64 now)
{
	struct conn *c = conn_at(number);
	enum thin_rule rule;
	struct conn_rest *rest;
	__u32 life, kind;

	if (!c)
		return;
	life = c->life;
	kind = life & LIFE_KIND;
	if (kind != SLOT_CONN && kind != SLOT_TEMPLATE)
		return;
	rest = conn_rest(c, number);
	if (rest && rest->controls)
		return;
	rule = thin_rule(c, kind);
	if (rule == THIN_KEEP || (rule == THIN_TEST && !thin_test(rt, c, now)))
		return;
	if (conn_drop(number, life, now) == RELEASED)
		__sync_fetch_and_add(&rt->entries_dropped, 1);
}

struct thin_walk {
	struct runtime *rt;
	__u64 now;
	__u32 group;
	__u32 empty;
};

/* Slot after slot of one group, and then of another one. */
static long thin_step(__u64 i, struct thin_walk *w)
{
	struct group *g;

	if (!(i % GROUP_SLOTS)) {
		w->group = any_group(bpf_get_prandom_u32() % ALL_GROUPS);
		g = group_at(w->group);
		w->empty = !g || !g->used;
	}
	if (!w->empty)
		thin_slot(w->rt, w->group * GROUP_SLOTS + i % GROUP_SLOTS, w->now);
	return 0;
}

/* As many as have to be looked at in a second. */
static __always_inline __u32 thin_groups(void)
{
	return ALL_GROUPS / THIN_PART + !(ALL_GROUPS / THIN_PART);
}

/* Look at some of those that are left for this second. */
static __always_inline void thin_out(struct runtime *rt, __u64 now, __u32 most)
{
	struct thin_walk w = { .rt = rt, .now = now, .empty = FIRST(0, now) };
	__u32 left = rt->drop_left, count = left < most ? left : most;

	if (!count || __sync_val_compare_and_swap(&rt->drop_left, left, left - count) != left)
		return;
	bpf_loop(count * GROUP_SLOTS, thin_step, &w, 0);
}

/* Once in a second: decide what is on (alarm.h), and begin another round of thinning out. */
static __always_inline void defend_if_due(struct runtime *rt, __u64 now)
{
	__u64 last = rt->defended;

	if (now < last + SECOND || __sync_val_compare_and_swap(&rt->defended, last, now) != last)
		return;
	defend();
	rt->drop_left = rt->drop_entry ? thin_groups() : 0;
}
