/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * From a packet to its virtual service (facts 1.3): by its mark; by its address and port; a port to which FTP's data may
 * come, with the service on port 21; any port, with the service on port 0.
 */
#pragma once

#define PORT_FTP 21
#define PORT_FTP_DATA 20

/* 1 + the number of the service; 0: there is none. */
__noinline __u32 service_find(const struct packet *p, __u32 mark)
{
	const struct config *cfg = at(&config, 0);
	struct service_key key = {};
	__u32 *found = NULL, port;

	if (!p || !cfg)
		return 0;
	key.family = p->tuple.family;
	if (mark && (cfg->families & SERVES_MARKS)) {
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
	port = bpf_ntohs(p->tuple.dport);
	if (!found && (cfg->families & SERVES_FTP) && key.protocol == IPPROTO_TCP &&
	    (port == PORT_FTP_DATA || port >= cfg->unprivileged)) {
		key.port = bpf_htons(PORT_FTP);
		found = bpf_map_lookup_elem(&service_index, &key);
	}
	if (!found && (cfg->families & SERVES_PORT_ZERO)) {
		key.port = 0;
		found = bpf_map_lookup_elem(&service_index, &key);
	}
	return found ? 1 + *found : 0;
}
