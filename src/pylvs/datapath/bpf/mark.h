/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The director's own firewall marks: rules in order, of which the first that matches says the mark.
 *
 * They are gone through for packets alone that no connection knows, and only if there is a service by mark.
 */
#pragma once

struct mark_walk {
	const struct tuple *tuple;
	__u32 first;
	__u32 ifindex;
	__u32 mark;
};

static __always_inline int within_network(const union address *address, const union address *network,
					  const union address *mask)
{
	__u32 differs = 0;

#pragma unroll
	for (int i = 0; i < 4; i++)
		differs |= (address->word[i] ^ network->word[i]) & mask->word[i];
	return !differs;
}

static __always_inline int within_ports(__u16 port, const __u16 *ranges, int count)
{
	int found = 0;

#pragma unroll
	for (int i = 0; i < count; i++)
		found |= port >= ranges[2 * i] && port <= ranges[2 * i + 1];
	return found;
}

static long mark_step(__u64 i, struct mark_walk *w)
{
	const struct mark_rule *r = at(&marks, w->first + i);
	const struct tuple *t = w->tuple;

	if (!r || !t)
		return 1;
	if ((r->family && r->family != t->family) || (r->protocol && r->protocol != t->protocol) ||
	    (r->ifindex && r->ifindex != w->ifindex) ||
	    !within_network(&t->dst, &r->destination, &r->destination_mask) ||
	    !within_network(&t->src, &r->source, &r->source_mask) ||
	    !within_ports(bpf_ntohs(t->dport), r->dports, MARK_DPORTS) ||
	    !within_ports(bpf_ntohs(t->sport), r->sports, MARK_SPORTS))
		return 0;
	w->mark = r->mark;
	return 1;
}

/* What the rules in force say of a packet that came by an interface; the mark that it has if none matches. */
__noinline __u32 mark_by_rules(const struct packet *p, __u32 ifindex, __u32 mark, __u32 rules)
{
	struct mark_walk w = { .ifindex = ifindex, .mark = mark };

	if (!p)
		return mark;
	w.tuple = &p->tuple;
	w.first = rules & MARK_ROW ? MARK_RULES : 0;
	rules &= MARK_COUNT;
	bpf_loop(rules > MARK_RULES ? MARK_RULES : rules, mark_step, &w, 0);
	return w.mark;
}

/* The firewall mark that counts for a packet. */
static __always_inline __u32 packet_mark(struct __sk_buff *skb, const struct packet *p, const struct config *cfg)
{
	__u32 rules = cfg->marks;

	if (!(cfg->families & SERVES_MARKS) || !(rules & MARK_COUNT))
		return skb->mark;
	return mark_by_rules(p, skb->ingress_ifindex, skb->mark, rules);
}
