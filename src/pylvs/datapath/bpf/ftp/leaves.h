/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What LVS-NAT real servers say on FTP's control connections, where the stack has had it in its hands: because it forwards
 * (conntrack), or because the real server is the director itself. It is read and rewritten as it leaves.
 */
#pragma once

static __always_inline int ftp_leaves_way(struct __sk_buff *skb, struct ftp_visit *v, struct outcome *out)
{
	const struct config *cfg = at(&config, 0);
	int reason;
	__u64 now;

	if (!cfg)
		return UP_JUST_ENDED;
	now = now_ns(cfg);
	reason = ftp_find(skb, now);
	if (reason != RECEIVED)
		return reason;
	if (!v->found.life || !v->found.from_server)	/* it has just ended: the client knows no such address */
		return DROPPED_BY_HELPER;
	reason = ftp_listens(skb, v, now);
	return reason == RECEIVED ? egress_reply(skb, &v->packet, &v->found, out, now) : reason;
}

/* What was merged and has become longer is one segment now, and may be too long to leave. */
static __always_inline int ftp_too_long(struct __sk_buff *skb, const struct ftp_visit *v)
{
	__u32 mtu = 0;

	return v->changed && !skb->gso_size && bpf_check_mtu(skb, skb->ifindex, &mtu, 0, 0);
}

SEC("tc")
int ftp_leaves(struct __sk_buff *skb)
{
	struct outcome out = { .verdict = TC_ACT_UNSPEC };
	struct ftp_visit *v = at(&ftp_visits, 0);
	int reason = UP_JUST_ENDED;

	if (!v)
		return TC_ACT_SHOT;
#pragma clang loop unroll(disable)
	for (int i = 0; i < (TWO_TABLES ? 2 : 1) && reason == UP_JUST_ENDED; i++)
		reason = ftp_leaves_way(skb, v, &out);
	if (v->packet.fragment)
		egress_first(&v->packet, reason);
	if (reason != SENT_REPLY || ftp_too_long(skb, v))	/* it is to be said again */
		out.verdict = TC_ACT_SHOT;
	sent(SENT_REPLY, &out);
	return out.verdict;
}
