/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Orphans: what a LVS-NAT real server sends from its port of a service, though no connection knows of it. The stack would
 * forward it to the client, who knows nobody of that name. With nat_icmp_send it is dropped, and the real server is told:
 * ICMP port unreachable (facts 6.3).
 */
#pragma once

static __always_inline int orphan_way(struct __sk_buff *skb, struct packet *p, struct outcome *out, int reason)
{
	const struct config *cfg = at(&config, 0);
	struct service_key key = {};
	struct bpf_fib_lookup fib;
	__u32 *found;
	int routed;

	if (!cfg || parse(skb, p) != RECEIVED || p->truncated)
		return reason;
	if ((p->tuple.protocol == IPPROTO_TCP && (p->tcp_flags & TCP_RST)) ||
	    (p->kind == KIND_SCTP && p->sctp_event == 1 + SCTP_E_ABORT))
		return reason;
	key.address = p->tuple.src;
	key.port = p->tuple.sport;
	key.family = p->tuple.family;
	found = bpf_map_lookup_elem(&nat_servers, &key);	/* of a service by mark: whatever the protocol */
	if (!found) {
		key.protocol = p->tuple.protocol;
		found = bpf_map_lookup_elem(&nat_servers, &key);
	}
	if (!found || p->ttl <= 1)
		return reason;
	routed = route_forwarded(skb, &fib, p, 0);
	if (routed != ROUTED && routed != ROUTED_UNRESOLVED)
		return reason;	/* to the director itself, whose stack answers; or it says that there is no way */
	out->verdict = TC_ACT_SHOT;
	/* the stack's forwarding takes the hop off before IPVS looks, unless it has done so already */
	if ((cfg->mark_device ^ skb->ingress_ifindex) && !decrement_ttl(skb, p->tuple.family))
		return DROPPED_REWRITE_FAILED;
	out->error = 1 + ERROR_ORPHAN;
	return DROPPED_ORPHAN;
}

SEC("tc")
int orphan(struct __sk_buff *skb)
{
	struct outcome out = { .verdict = TC_ACT_UNSPEC };
	int reason;
	PACKET(p);

	if (!p)
		return TC_ACT_UNSPEC;
	__builtin_memset(p, 0, sizeof(*p));
	reason = orphan_way(skb, p, &out, UP_NO_SERVICE);
	if (out.error)
		out.verdict = icmp_answer(skb, p, out.error - 1, 0);
	note(reason);
	return out.verdict;
}
