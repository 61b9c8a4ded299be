/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * From a packet to its virtual service (facts 1.3).
 */
#pragma once

/* The firewall mark that counts for a packet. */
static __always_inline __u32 packet_mark(struct __sk_buff *skb, const struct packet *p)
{
	return skb->mark;
}

/* 1 + the number of the service; 0: there is none. */
__noinline __u32 service_find(const struct packet *p, __u32 mark)
{
	struct service_key key = {};
	__u32 *found;

	if (!p)
		return 0;
	key.family = p->tuple.family;
	if (mark) {
		key.fwmark = mark;
		key.protocol = IPPROTO_TCP;	/* whatever the packet's is (facts 1.2) */
		found = bpf_map_lookup_elem(&service_index, &key);
		if (found)
			return 1 + *found;
		key.fwmark = 0;
	}
	key.address = p->tuple.dst;
	key.port = p->tuple.dport;
	key.protocol = p->tuple.protocol;
	found = bpf_map_lookup_elem(&service_index, &key);
	return found ? 1 + *found : 0;
}
