/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Rates as the kernel estimates them (facts 8.3): every 2 s, the newest interval weighing a quarter.
 * The objects are spread over EST_SLICES slices of 16 ms; each is visited once per round.
 */
#pragma once

#define SLICE_TIME (16 * MSEC)

const volatile __u32 cpus = 1;

struct sum_walk {
	struct counters sum;
	__u32 number;
};

static long sum_step(__u64 cpu, struct sum_walk *w)
{
	struct counters *c = bpf_map_lookup_percpu_elem(&counters, &w->number, cpu);

	if (!c)
		return 1;
	w->sum.conns += c->conns;
	w->sum.inpkts += c->inpkts;
	w->sum.outpkts += c->outpkts;
	w->sum.inbytes += c->inbytes;
	w->sum.outbytes += c->outbytes;
	return 0;
}

static __always_inline void average(__u64 *rate, __u64 *last, __u64 now, __u32 scale)
{
	__s64 newest = (now - *last) * scale, old = *rate;

	*rate = old + ((newest - old) >> 2);
	*last = now;
}

static __noinline int estimate(__u32 number)
{
	struct estimate *e = at(&estimates, number);
	struct sum_walk w = { .number = number };

	if (!e)
		return 0;
	bpf_loop(cpus, sum_step, &w, 0);
	average(&e->rate.conns, &e->last.conns, w.sum.conns, 512);
	average(&e->rate.inpkts, &e->last.inpkts, w.sum.inpkts, 512);
	average(&e->rate.outpkts, &e->last.outpkts, w.sum.outpkts, 512);
	average(&e->rate.inbytes, &e->last.inbytes, w.sum.inbytes, 16);
	average(&e->rate.outbytes, &e->last.outbytes, w.sum.outbytes, 16);
	return 0;
}

struct estimate_walk {
	__u32 number;
	__u32 end;
};

static long estimate_step(__u64 i, struct estimate_walk *w)
{
	if (w->number >= w->end)
		return 1;
	estimate(w->number);
	w->number += EST_SLICES;
	return 0;
}

static __always_inline void estimate_range(__u32 from, __u32 count, __u32 slice)
{
	struct estimate_walk w = { .number = from + slice, .end = from + count };

	bpf_loop(count / EST_SLICES + 1, estimate_step, &w, 0);
}

struct slice_walk {
	__u64 slice;
	__u32 services;
	__u32 max_services;
	__u32 dests;
};

static long slice_step(__u64 i, struct slice_walk *w)
{
	__u32 slice = (w->slice + i) % EST_SLICES;

	estimate_range(0, 1 + w->services, slice);
	estimate_range(1 + w->max_services, w->dests, slice);
	return 0;
}

/* Every slice whose time has come since the last call; a round at most. */
static __always_inline void estimate_due(const struct config *cfg, struct runtime *rt, __u64 now)
{
	struct slice_walk w = {
		.services = cfg->services_high,
		.max_services = cfg->max_services,
		.dests = cfg->dests_high,
	};
	__u64 until = now / SLICE_TIME, since = rt->estimated, due;
	const struct sysctls *sys = at(&sysctls, 0);

	due = until > since ? until - since : 0;
	if (due > EST_SLICES)
		due = EST_SLICES;
	/* no slice twice, whoever else is at it */
	if (__sync_val_compare_and_swap(&rt->estimated, since, until) != since)
		return;
	/* then what is published stands still (facts 8.2) */
	if (!sys || !sys->run_estimation || !sys->est_cpulist)
		return;
	w.slice = until - due + 1;
	bpf_loop(due, slice_step, &w, 0);
}
