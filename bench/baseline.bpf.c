/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What a program that only balances established IPv4 TCP connections costs: parse, one lookup in a BPF hash whose value
 * says where to send, rewrite, transmit. No statistics, no states, no expiry, no new connections, no check that is not
 * needed to stay within the packet. Three ways to transmit, since which of them is "plain" is a matter of opinion;
 * `floor_of`, which adds to the first what IPVS must do for every packet at the least; and `one_line`, which does nothing
 * but read one cache line of an array: what the memory alone costs.
 */
#include "prelude.h"

#define ETH_LEN 14
#define IPV4_MIN 20

struct key {
	__u32 src;
	__u32 dst;
	__u16 sport;
	__u16 dport;
	__u32 protocol;
};

enum method_of { TO_ROUTE, TO_NAT_SERVER, TO_NAT_CLIENT };

struct target {
	__u32 address;		/* the new one under NAT */
	__u32 hop;		/* whose neighbour is asked for */
	__u32 ifindex;
	__u16 port;
	__u8 method;
	__u8 unused;
	__u8 dmac[6];
	__u8 smac[6];
};

/* With what a connection must remember beside that. */
struct entry {
	struct target target;
	__u32 status;
	__u32 expires;
	__u32 timeout;
	__u32 packets;
	__u32 lines_mask;	/* of the template alone: how many lines there are, less one */
	__u32 unused[3];
};

MAP(targets, BPF_MAP_TYPE_HASH, struct key, struct target, 1, 0);
MAP(entries, BPF_MAP_TYPE_HASH, struct tuple, struct entry, 1, 0);
SHARED_ARRAY(lines, struct conn);
MAP(template, BPF_MAP_TYPE_ARRAY, __u32, struct entry, 1, 0);

static __always_inline struct iphdr *headers(struct __sk_buff *skb, __u16 **port)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = data + ETH_LEN;

	if (data + ETH_LEN + IPV4_MIN + 20 > end || eth->h_proto != bpf_htons(ETH_P_IP) || ip->version != 4 ||
	    ip->ihl != 5 || ip->protocol != IPPROTO_TCP)
		return NULL;
	*port = (void *)(ip + 1);
	return ip;
}

static __always_inline int hop(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + ETH_LEN;
	__u32 check;

	if ((void *)(ip + 1) > end)
		return 0;
	check = ip->check + bpf_htons(0x0100);
	ip->check = check + (check >= 0xffff);
	ip->ttl--;
	return 1;
}

static __always_inline int rewrite(struct __sk_buff *skb, __u32 src, __u32 dst, __u16 sport, __u16 dport,
				   const struct target *t)
{
	int reply = t->method == TO_NAT_CLIENT;
	__u32 old = reply ? src : dst, new = t->address;
	__u16 old_port = reply ? sport : dport, new_port = t->port;
	void *data, *end;
	struct iphdr *ip;
	__u16 *port;

	if (t->method == TO_ROUTE)
		return hop(skb);
	if (bpf_l4_csum_replace(skb, ETH_LEN + IPV4_MIN + 16, old, new, 4 | BPF_F_PSEUDO_HDR) ||
	    bpf_l4_csum_replace(skb, ETH_LEN + IPV4_MIN + 16, old_port, new_port, 2) ||
	    bpf_l3_csum_replace(skb, ETH_LEN + 10, old, new, 4) || !hop(skb))
		return 0;
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	ip = data + ETH_LEN;
	port = (void *)(ip + 1);
	if ((void *)(port + 2) > end)
		return 0;
	if (reply) {
		ip->saddr = new;
		port[0] = new_port;
	} else {
		ip->daddr = new;
		port[1] = new_port;
	}
	return 1;
}

static __always_inline long send_by_target(struct __sk_buff *skb, const struct target *t)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (data + ETH_LEN > end)
		return TC_ACT_SHOT;
	__builtin_memcpy(data, t->dmac, 6);
	__builtin_memcpy(data + 6, t->smac, 6);
	return bpf_redirect(t->ifindex, 0);
}

static __always_inline long send_by_route(struct __sk_buff *skb, const struct target *t)
{
	struct bpf_fib_lookup fib = { .family = AF_INET, .ifindex = 1, .tot_len = 40, .ipv4_dst = t->hop };
	void *data, *end;

	if (bpf_fib_lookup(skb, &fib, sizeof(fib), 0))
		return TC_ACT_SHOT;
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (data + ETH_LEN > end)
		return TC_ACT_SHOT;
	__builtin_memcpy(data, fib.dmac, 6);
	__builtin_memcpy(data + 6, fib.smac, 6);
	return bpf_redirect(fib.ifindex, 0);
}

static __always_inline long send_by_neighbour(struct __sk_buff *skb, const struct target *t)
{
	struct bpf_redir_neigh next = { .nh_family = AF_INET, .ipv4_nh = t->hop };

	return bpf_redirect_neigh(t->ifindex, &next, sizeof(next), 0);
}

enum sending { BY_TARGET, BY_ROUTE, BY_NEIGHBOUR };

static __always_inline int balance(struct __sk_buff *skb, enum sending sending)
{
	struct key key = { .protocol = IPPROTO_TCP };
	struct target *t;
	struct iphdr *ip;
	__u16 *port;

	ip = headers(skb, &port);
	if (!ip)
		return TC_ACT_UNSPEC;
	key.src = ip->saddr;
	key.dst = ip->daddr;
	key.sport = port[0];
	key.dport = port[1];
	t = bpf_map_lookup_elem(&targets, &key);
	if (!t)
		return TC_ACT_UNSPEC;
	if (ip->ttl <= 1)
		return TC_ACT_SHOT;
	if (!rewrite(skb, key.src, key.dst, key.sport, key.dport, t))
		return TC_ACT_SHOT;
	if (sending == BY_TARGET)
		return send_by_target(skb, t);
	return sending == BY_ROUTE ? send_by_route(skb, t) : send_by_neighbour(skb, t);
}

SEC("tc")
int plain(struct __sk_buff *skb)
{
	return balance(skb, BY_TARGET);
}

SEC("tc")
int plain_fib(struct __sk_buff *skb)
{
	return balance(skb, BY_ROUTE);
}

SEC("tc")
int plain_neigh(struct __sk_buff *skb)
{
	return balance(skb, BY_NEIGHBOUR);
}

static __always_inline void add_one(__u32 number)
{
	__u64 *count = at(&reasons, number);

	if (count)
		*count += 1;
}

static __always_inline void add_packet(__u32 number, __u32 bytes, int reply)
{
	struct counters *c = at(&counters, number);

	if (!c)
		return;
	if (reply) {
		c->outpkts++;
		c->outbytes += bytes;
	} else {
		c->inpkts++;
		c->inbytes += bytes;
	}
}

/* As `plain`, with a key that IPv6 fits into too, packets and bytes of three objects, two reasons, a state that may
 * change, and the time of the last use. */
SEC("tc")
int floor_of(struct __sk_buff *skb)
{
	const struct config *cfg = at(&config, 0);
	struct tuple key = { .protocol = IPPROTO_TCP, .family = AF_INET };
	__u32 status, bytes, expires;
	struct entry *e;
	struct iphdr *ip;
	__u16 *port;
	__u8 flags;
	int reply;

	add_one(RECEIVED);
	ip = headers(skb, &port);
	if (!ip || !cfg)
		return TC_ACT_UNSPEC;
	key.src.word[0] = ip->saddr;
	key.dst.word[0] = ip->daddr;
	key.sport = port[0];
	key.dport = port[1];
	flags = ((__u8 *)port)[13];
	bytes = bpf_ntohs(ip->tot_len);
	e = bpf_map_lookup_elem(&entries, &key);
	if (!e || (__s32)(e->expires - ticks(now_ns(cfg))) < 0)
		return TC_ACT_UNSPEC;
	if (ip->ttl <= 1)
		return TC_ACT_SHOT;
	reply = e->target.method == TO_NAT_CLIENT;
	add_packet(0, bytes, reply);
	add_packet(1, bytes, reply);
	add_packet(2, bytes, reply);
	status = flags & 4 ? 6 : flags & 2 ? 3 : flags & 1 ? 5 : 1;
	if (e->status != status)
		__sync_val_compare_and_swap(&e->status, e->status, status);
	expires = ticks(now_ns(cfg) + e->timeout * MSEC);
	if (e->expires != expires)
		e->expires = expires;
	e->packets++;
	if (!rewrite(skb, key.src.word[0], key.dst.word[0], key.sport, key.dport, &e->target))
		return TC_ACT_SHOT;
	add_one(FORWARDED_ROUTE);
	return send_by_target(skb, &e->target);
}

/* A line that is the flow's own, of an array as large as the slots of the connection table. */
SEC("tc")
int one_line(struct __sk_buff *skb)
{
	struct entry *e = at(&template, 0);
	struct iphdr *ip;
	struct conn *c;
	__u16 *port;
	__u64 hash;

	ip = headers(skb, &port);
	if (!ip || !e)
		return TC_ACT_UNSPEC;
	hash = ((__u64)(ip->saddr ^ ip->daddr) << 32 | port[0] | (__u32)port[1] << 16) * 0x9e3779b97f4a7c15ull;
	hash = (hash ^ hash >> 29) * 0xbf58476d1ce4e5b9ull >> 32;
	c = at(&lines, hash & e->lines_mask);
	return c && c->life == 0 ? TC_ACT_REDIRECT : TC_ACT_SHOT;
}

/* Not measured: remember the template under a packet's addresses, for both kinds of programs. */
SEC("tc")
int learn(struct __sk_buff *skb)
{
	struct tuple wide = { .protocol = IPPROTO_TCP, .family = AF_INET };
	struct key key = { .protocol = IPPROTO_TCP };
	const struct config *cfg = at(&config, 0);
	struct entry *e = at(&template, 0), mine;
	struct iphdr *ip;
	__u16 *port;

	ip = headers(skb, &port);
	if (!ip || !e || !cfg)
		return TC_ACT_SHOT;
	wide.src.word[0] = key.src = ip->saddr;
	wide.dst.word[0] = key.dst = ip->daddr;
	wide.sport = key.sport = port[0];
	wide.dport = key.dport = port[1];
	mine = *e;
	/* a reply's client is not in the template */
	if (mine.target.method == TO_NAT_CLIENT)
		mine.target.hop = key.dst;
	mine.expires = ticks(now_ns(cfg) + mine.timeout * MSEC);
	bpf_map_update_elem(&targets, &key, &mine.target, BPF_ANY);
	bpf_map_update_elem(&entries, &wide, &mine, BPF_ANY);
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
