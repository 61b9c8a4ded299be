/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The director's heartbeat. `start` is run once at load and starts the timer; `catch_up` does at once what the timer
 * does bit by bit, for commands and tests that want to see the present. `decide` looks at once which defences are on.
 * `flush` ends connections by name, `purge` those whose real server is gone.
 */
#include "prelude.h"
#include "account.h"
#include "held.h"
#include "table.h"
#include "conn.h"
#include "cache.h"
#include "sweep.h"
#include "estimate.h"
#include "alarm.h"
#include "thin.h"
#include "flush.h"
#ifdef RESIZING
#include "move.h"
#endif

static int tick(void *map, __u32 *key, struct ticker *t)
{
	const struct config *cfg = at(&config, 0);
	struct runtime *rt = at(&runtime, 0);
	__u64 now;

	if (cfg && rt) {
		now = now_ns(cfg);
		rt->swept = now;
		sweep_slice(rt, now, slice_size());
		estimate_due(cfg, rt, now);
		cache_due(rt, now);
		defend_if_due(rt, now);
		thin_out(rt, now, thin_groups() / TICKS_PER_ROUND + 1);
		held_forget(rt, now, HELD / TICKS_PER_ROUND);
	}
	bpf_timer_start(&t->timer, TICK, 0);
	return 0;
}

SEC("tc")
int start(struct __sk_buff *skb)
{
	struct ticker *t = at(&ticker, 0);
	struct runtime *rt = at(&runtime, 0);
	long error;

	if (!t || !rt)
		return 1;
	error = bpf_timer_init(&t->timer, &ticker, CLOCK_MONOTONIC);
	if (error == -16 /* EBUSY: a former version of this program made it */)
		error = 0;
	if (!error)
		error = bpf_timer_set_callback(&t->timer, tick);
	if (!error)
		error = bpf_timer_start(&t->timer, TICK, 0);
	rt->timer_error = -error;
	return error ? 1 : 0;
}

SEC("tc")
int catch_up(struct __sk_buff *skb)
{
	const struct config *cfg = at(&config, 0);
	struct runtime *rt = at(&runtime, 0);
	struct sweep_walk w = {};

	if (!cfg || !rt)
		return 1;
	w.now = now_ns(cfg);
	bpf_loop(ALL_GROUPS, sweep_step, &w, 0);
	estimate_due(cfg, rt, w.now);
	cache_due(rt, w.now);
	defend_if_due(rt, w.now);
	thin_out(rt, w.now, rt->drop_left);
	held_forget(rt, w.now, HELD);
	return 0;
}

/* For a command that has changed a mode. */
SEC("tc")
int decide(struct __sk_buff *skb)
{
	return defend();
}

/* How many of the named connections (flush.h) it has ended. */
SEC("tc")
int flush(struct __sk_buff *skb)
{
	const struct config *cfg = at(&config, 0);
	struct flush_walk w = { .skb = skb };

	if (!cfg)
		return 0;
	w.now = now_ns(cfg);
	bpf_loop(FLUSH_MOST, flush_step, &w, 0);	/* until the packet is over */
	return w.ended;
}

/* End the connections of real servers that are gone; twice, since templates end after theirs. */
SEC("tc")
int purge(struct __sk_buff *skb)
{
	const struct config *cfg = at(&config, 0);
	struct purge_walk w = {};

	if (!cfg)
		return 1;
	w.now = now_ns(cfg);
	bpf_loop(ALL_GROUPS, purge_group, &w, 0);
	bpf_loop(ALL_GROUPS, purge_group, &w, 0);
	return 0;
}

#ifdef RESIZING
/* Move what stands in groups `skb->mark`... of the table that newcomers do not go to, as many as the packet is long;
 * the answer is how many did not fit. */
SEC("tc")
int move(struct __sk_buff *skb)
{
	const struct config *cfg = at(&config, 0);
	struct move_range r = {};

	if (!cfg)
		return -1;
	r.now = now_ns(cfg);
	r.first = skb->mark | (cfg->resizing == RESIZING_TO_OLD ? table_parity : table_parity ^ PARITY);
	bpf_loop(skb->len, move_group, &r, 0);
	return r.left;
}

static __always_inline __u32 target_group(struct __sk_buff *skb, const struct config *cfg)
{
	return skb->mark | (cfg->resizing == RESIZING_TO_OLD ? table_parity ^ PARITY : table_parity);
}

/* When all is moved: let connections in these groups of the other table know where what controls them is now. */
SEC("tc")
int mend(struct __sk_buff *skb)
{
	const struct config *cfg = at(&config, 0);
	struct move_range r = {};

	if (!cfg)
		return -1;
	r.first = target_group(skb, cfg);
	bpf_loop(skb->len, mend_group, &r, 0);
	return 0;
}

/* When all are mended: free what only said where something was moved to. */
SEC("tc")
int clear(struct __sk_buff *skb)
{
	const struct config *cfg = at(&config, 0);
	struct move_range r = {};

	if (!cfg)
		return -1;
	r.now = now_ns(cfg);
	r.first = target_group(skb, cfg);
	bpf_loop(skb->len, clear_group, &r, 0);
	return 0;
}
#endif

char LICENSE[] SEC("license") = "Dual BSD/GPL";
