/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * From a packet to its virtual service (facts 1.3).
 */
#pragma once

static __always_inline struct service *service_find(const struct packet *p)
{
	struct service_key key = {
		.address = p->tuple.dst,
		.port = p->tuple.dport,
		.protocol = p->tuple.protocol,
		.family = p->tuple.family,
	};
	__u32 *found = bpf_map_lookup_elem(&service_index, &key);

	return found ? at(&services, *found) : NULL;
}
