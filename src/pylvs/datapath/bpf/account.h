/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Every packet is accounted for: received = forwarded + handed up + dropped, each under its reason, and requests and
 * replies of connections per real server, per service and in total (facts 8.1).
 */
#pragma once

static __always_inline void note(enum reason reason)
{
	__u64 *count = at(&reasons, reason);

	if (count)
		*count += 1;
}

static __always_inline __u32 service_counter(__u32 service)
{
	return 1 + service;
}

static __always_inline __u32 dest_counter(const struct config *cfg, __u32 dest)
{
	return 1 + cfg->max_services + dest;
}

enum traffic { A_CONN, A_REQUEST, A_REPLY };

static __always_inline void count_one(__u32 number, enum traffic what, __u32 bytes)
{
	struct counters *c = at(&counters, number);

	if (!c)
		return;
	if (what == A_CONN) {
		c->conns++;
	} else if (what == A_REQUEST) {
		c->inpkts++;
		c->inbytes += bytes;
	} else {
		c->outpkts++;
		c->outbytes += bytes;
	}
}

/* Only for a real server that stands in its service: one in the trash counts nothing. */
static __always_inline void count(const struct dest *d, __u32 dest, enum traffic what, __u32 bytes)
{
	const struct config *cfg = at(&config, 0);

	if (!cfg || !(d->flags & DEST_AVAILABLE))
		return;
	count_one(dest_counter(cfg, dest), what, bytes);
	count_one(service_counter(d->service), what, bytes);
	count_one(0, what, bytes);
}
