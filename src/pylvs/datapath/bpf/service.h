/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * From a packet to its virtual service (facts 1.3).
 */
#pragma once

/* 1 + the number of the service; 0: there is none. */
__noinline __u32 service_find(const struct packet *p)
{
	struct service_key key = {};
	__u32 *found;

	if (!p)
		return 0;
	key.address = p->tuple.dst;
	key.port = p->tuple.dport;
	key.protocol = p->tuple.protocol;
	key.family = p->tuple.family;
	found = bpf_map_lookup_elem(&service_index, &key);
	return found ? 1 + *found : 0;
}
