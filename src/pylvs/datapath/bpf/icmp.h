/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Errors that the director answers itself: the packet is turned into the ICMP message about it and sent back.
 * Lengths, type of service and rate limits are the kernel's own (facts 6.9): per client one a second with six at
 * once, and a thousand a second with fifty at once in all; "too big" is exempt from both.
 */
#pragma once

enum { ICMP_QUOTE = 576 - 20 - 8, ICMPV6_QUOTE = 1280 - 40 - 8, QUOTE_CHUNK = 512 };
enum {
	ICMP4_UNREACHABLE = 3, ICMP4_HOST = 1, ICMP4_PORT = 3, ICMP4_TOO_BIG = 4, ICMP4_EXCEEDED = 11,
	ICMP6_UNREACHABLE = 1, ICMP6_ADDRESS = 3, ICMP6_PORT = 4, ICMP6_TOO_BIG = 2, ICMP6_EXCEEDED = 3,
};

struct allowance {
	__u64 stamp;
	__u64 tokens;		/* nanoseconds saved up; a message costs a second */
};

MAP(icmp_peers, BPF_MAP_TYPE_LRU_HASH, union address, struct allowance, 4096, 0);

static __always_inline int director_allows(struct runtime *rt, __u64 now)
{
	__u64 passed = now - rt->icmp_stamp, more;

	if (rt->icmp_tokens < 50 && passed >= SECOND / 50) {
		if (passed > SECOND)
			passed = SECOND;
		more = passed / MSEC;	/* 1000 a second */
		rt->icmp_tokens = rt->icmp_tokens + more > 50 ? 50 : rt->icmp_tokens + more;
		rt->icmp_stamp = now;
	}
	if (!rt->icmp_tokens)
		return 0;
	rt->icmp_tokens--;
	return 1;
}

static __always_inline int peer_allows(const struct packet *p, __u64 now)
{
	union address peer = p->tuple.src;	/* Linux 6.1 wants keys on the stack */
	struct allowance *known = bpf_map_lookup_elem(&icmp_peers, &peer);
	struct allowance fresh = { .stamp = now, .tokens = 5 * SECOND };

	if (!known) {
		bpf_map_update_elem(&icmp_peers, &peer, &fresh, BPF_ANY);
		return 1;
	}
	known->tokens += now - known->stamp;
	if (known->tokens > 6 * SECOND)
		known->tokens = 6 * SECOND;
	known->stamp = now;
	if (known->tokens < SECOND)
		return 0;
	known->tokens -= SECOND;
	return 1;
}

/* The sum over the quoted packet. Of a merged packet (gso_size) the transport checksum is still to be finished on the
 * way out, from the transport header to the end: that part will then sum up to the complement of what the field
 * holds now. */
static __always_inline int quote_sum(struct __sk_buff *skb, const struct packet *p, __u32 quote, __u64 *sum)
{
	int merged = skb->gso_size && p->kind == KIND_PLAIN;
	__u32 size = merged ? p->l4 - ETH_LEN : quote, left;
	__u8 *buffer = at(&scratch, 0);
	__u16 pending;

	if (!buffer || size < 4 || size > ICMPV6_QUOTE)
		return 0;
	size = within(size, SCRATCH);
	if (bpf_skb_load_bytes(skb, ETH_LEN, buffer, size))
		return 0;
	__builtin_memset(buffer + size, 0, 4);
	size = (size + 3) & ~3u;
#pragma unroll
	for (int i = 0; i < 3; i++) {
		if (size <= i * QUOTE_CHUNK)
			break;
		left = size - i * QUOTE_CHUNK;
		if (left > QUOTE_CHUNK)
			left = QUOTE_CHUNK;
		left = within(left, QUOTE_CHUNK);
		*sum = (__u32)bpf_csum_diff(NULL, 0, (__be32 *)(buffer + i * QUOTE_CHUNK), left, *sum);
	}
	if (merged) {
		if (bpf_skb_load_bytes(skb, p->l4 + (p->tuple.protocol == IPPROTO_TCP ? 16 : 6), &pending, 2))
			return 0;
		*sum += (__u16)~pending;
	}
	return 1;
}

static __always_inline int icmp4_write(struct __sk_buff *skb, const struct packet *p, const union address *from,
				       __u8 type, __u8 code, __u32 mtu, __u32 quote, __u64 sum)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + MAC_LEN;
	__u32 *word = (void *)ip, *icmp = (void *)(ip + 1);

	if ((void *)(icmp + 2) > end)
		return 0;
	((__u16 *)data)[6] = bpf_htons(ETH_P_IP);
	ip->version = 4;
	ip->ihl = 5;
	ip->tos = (p->tos & 0x1e) | 0xc0;
	ip->tot_len = bpf_htons(28 + quote);
	ip->id = bpf_get_prandom_u32();
	ip->ttl = 64;
	ip->protocol = IPPROTO_ICMP;
	ip->saddr = from->word[0];
	ip->daddr = p->tuple.src.word[0];
	ip->frag_off = 0;
	ip->check = 0;
	ip->check = ~fold((__u64)word[0] + word[1] + word[2] + word[3] + word[4]);
	icmp[0] = bpf_htonl((__u32)type << 24 | (__u32)code << 16);
	icmp[1] = bpf_htonl(mtu);
	((__u16 *)icmp)[1] = ~fold(sum + icmp[0] + icmp[1]);
	return 1;
}

static __always_inline int icmp6_write(struct __sk_buff *skb, const struct packet *p, const union address *from,
				       __u8 type, __u8 code, __u32 mtu, __u32 quote, __u64 sum)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ipv6hdr *ip = data + MAC_LEN;
	__u32 *word = (void *)(ip + 1);
	__u64 total = sum;

	if ((void *)(word + 2) > end)
		return 0;
	((__u16 *)data)[6] = bpf_htons(ETH_P_IPV6);
	*(__u32 *)ip = bpf_htonl(0x60000000);
	ip->payload_len = bpf_htons(8 + quote);
	ip->nexthdr = IPPROTO_ICMPV6;
	ip->hop_limit = 64;
	__builtin_memcpy(&ip->saddr, from, 16);
	__builtin_memcpy(&ip->daddr, &p->tuple.src, 16);
	word[0] = bpf_htonl((__u32)type << 24 | (__u32)code << 16);
	word[1] = bpf_htonl(mtu);
#pragma unroll
	for (int i = 0; i < 4; i++)
		total += (__u64)from->word[i] + p->tuple.src.word[i];
	total += (__u64)bpf_htonl(8 + quote) + bpf_htonl(IPPROTO_ICMPV6) + word[0] + word[1];
	((__u16 *)word)[1] = ~fold(total);
	return 1;
}

/* The VIP if it is one of the receiving interface's addresses, else what that interface would use. Of IPv4, always that. */
static __always_inline void own_source(struct __sk_buff *skb, const struct packet *p, union address *from)
{
	struct own_address key = { .ifindex = skb->ingress_ifindex, .address = p->tuple.dst };
	union address *known = bpf_map_lookup_elem(&own_addresses, &key);

	*from = p->tuple.dst;
	if (known)
		return;
	__builtin_memset(&key.address, 0, 16);
	if (p->tuple.family == AF_INET)
		key.address.word[2] = bpf_htonl(0xffff);
	known = bpf_map_lookup_elem(&own_addresses, &key);
	if (known)
		*from = *known;
}

/* The VIP if it is the director's own, which it need not be: the director may be on the way there. Then what it would
 * say something to the client from. */
__noinline int own_ipv4_source(struct __sk_buff *skb, const struct packet *p, union address *from)
{
	struct own_address key = { .address.word[2] = bpf_htonl(0xffff) };
	union address any = {}, *known;
	struct bpf_fib_lookup fib;

	if (!p || !from)
		return 0;
	*from = p->tuple.dst;
	if (route_ask(skb, &fib, AF_INET, &any, &p->tuple.dst, 0) == ROUTED_NOWHERE)
		return 1;
	if (route_ask(skb, &fib, AF_INET, &any, &p->tuple.src, 0) != ROUTED_NOWHERE)
		key.ifindex = fib.ifindex;
	known = bpf_map_lookup_elem(&own_addresses, &key);
	if (!known) {
		key.ifindex = 0;
		known = bpf_map_lookup_elem(&own_addresses, &key);
	}
	if (known)
		*from = *known;
	return 1;
}

/* Turn the packet into the error about it and send that to the client; the answer is the program's verdict. */
__noinline int icmp_answer(struct __sk_buff *skb, struct packet *p, enum error error, __u32 mtu)
{
	const struct config *cfg = at(&config, 0);
	struct runtime *rt = at(&runtime, 0);
	struct bpf_fib_lookup fib;
	union address from;
	__u32 quote, limit;
	enum routed routed;
	struct hop hop;
	__u8 type, code;
	__u64 sum = 0, now;
	int ipv6;

	if (!p || !rt || !cfg)
		return TC_ACT_SHOT;
	now = now_ns(cfg);
	ipv6 = p->tuple.family == AF_INET6;
	if (error != ERROR_TOO_BIG && (!director_allows(rt, now) || !peer_allows(p, now))) {
		note(ANSWERED_ICMP_LIMITED);
		return TC_ACT_SHOT;
	}
	if (ipv6) {
		type = error == ERROR_TTL ? ICMP6_EXCEEDED : error == ERROR_TOO_BIG ? ICMP6_TOO_BIG : ICMP6_UNREACHABLE;
		code = error == ERROR_PORT || error == ERROR_ORPHAN ? ICMP6_PORT : error == ERROR_HOST ? ICMP6_ADDRESS : 0;
		own_source(skb, p, &from);
	} else {
		type = error == ERROR_TTL ? ICMP4_EXCEEDED : ICMP4_UNREACHABLE;
		code = error == ERROR_PORT || error == ERROR_ORPHAN ? ICMP4_PORT : error == ERROR_HOST ? ICMP4_HOST :
		       error == ERROR_TOO_BIG ? ICMP4_TOO_BIG : 0;
		if (error == ERROR_ORPHAN)
			own_source(skb, p, &from);
		else
			own_ipv4_source(skb, p, &from);
	}
	if (error == ERROR_RELAYED) {
		type = mtu >> 24;
		code = mtu >> 16;
		mtu = 0;
	}
	limit = ipv6 ? ICMPV6_QUOTE : ICMP_QUOTE;
	quote = p->length > limit ? limit : p->length;
	if (!quote_sum(skb, p, quote, &sum))
		return TC_ACT_SHOT;
	routed = route_ask(skb, &fib, p->tuple.family, &from, &p->tuple.src, 0);
	if (routed != ROUTED && routed != ROUTED_UNRESOLVED)
		return TC_ACT_SHOT;
	if (skb->len != ETH_LEN + quote && bpf_skb_change_tail(skb, ETH_LEN + quote, 0))
		return TC_ACT_SHOT;
	/* the new headers begin with a new Ethernet header and end where the quoted packet begins */
	if (bpf_skb_change_head(skb, (ipv6 ? 48 : 28) + MAC_LEN - ETH_LEN, 0))
		return TC_ACT_SHOT;
	if (ipv6 ? !icmp6_write(skb, p, &from, type, code, mtu, quote, sum) :
		   !icmp4_write(skb, p, &from, type, code, mtu, quote, sum))
		return TC_ACT_SHOT;
	note(ANSWERED_ICMP);
	/* always by the neighbour code, which lets the IP header begin behind the Ethernet header: what goes straight to an
	 * interface without link-layer headers would begin with the header that is quoted */
	hop = hop_of(&fib);
	if (routed == ROUTED && !frame_address(skb, &hop))
		return TC_ACT_SHOT;
	return frame_transmit(skb, &fib, 1);
}
