/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What is put before a packet that travels in a tunnel (facts 6.7): room for it, the headers, and their checksums.
 *
 *   Ethernet | outer IP | GRE, or UDP and GUE | the client's packet, its TTL counted down
 *
 * Merged packets (gso_size) stay merged: the kernel cuts them when they leave, and copies the outer headers for each
 * piece. It cannot be told to sum up each piece anew; so the tunnel's own checksum is left out for these, which GUE and
 * GRE say in their headers. What they carry has its own.
 *
 * This is on every packet's way: what is asked for by name is in registers or in the cache lines of the real server and
 * of the route.
 */
#pragma once

enum {
	GUE_LEN = 4,
	GRE_LEN = 4,
	GRE_SUMMED_LEN = 8,
	GRE_SUMMED = 0x8000,
	IPV4_DF = 0x4000,
	NO_SUM = -1,
};

/* The headers before one packet. */
struct wrap {
	__u32 tunnel;		/* enum tunnel; read once, it may change */
	__u32 ipv6;		/* the outer one */
	__u32 head;		/* bytes of the outer IP header */
	__u32 extra;		/* and of what is behind it */
	__u32 dont_fragment;	/* IPV4_DF, or 0 */
	__u32 pieces;		/* what comes out will be cut up (cut.h) */
	__s32 carried;		/* the sum of the client's packet, or NO_SUM: the tunnel has none */
};

/* The identification of the packet before. Per CPU. */
MAP(tunnel_idents, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u32, 1, 0);

static __always_inline int has_ports(const struct packet *p)
{
	return p->kind == KIND_PLAIN && (p->tuple.protocol == IPPROTO_TCP || p->tuple.protocol == IPPROTO_UDP);
}

/* The sum, once its hop is counted, of a packet with a transport checksum, whether that is finished or the device's to finish, without a look at
 * what it carries: from the transport header on it is the complement of the pseudo header's, and that of an IPv4 header
 * is 0. If it arrived with a wrong one, so is the tunnel's: nobody takes it for right. NO_SUM: it cannot be told so. */
static __always_inline __s32 carried_known(struct __sk_buff *skb, const struct packet *p)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 size = p->length + ETH_LEN - p->l4, l4 = p->l4 & 0xfff, *word = data + ETH_LEN;
	__u16 *half = data + l4;
	__u64 sum;

	if (!has_ports(p) || data + l4 + UDP_LEN > end || (void *)(word + 5) > end)
		return NO_SUM;
	if (p->tuple.protocol == IPPROTO_UDP && (!half[3] || half[2] != bpf_htons(size)))
		return NO_SUM;
	sum = (__u64)bpf_htons(p->tuple.protocol) + bpf_htons(size);
	if (p->tuple.family == AF_INET) {
		if (word[1] & bpf_htonl(0x3fff))	/* a fragment */
			return NO_SUM;
		return (__u16)~fold(sum + word[3] + word[4]);
	}
	if (p->l4 != ETH_LEN + IPV6_LEN)
		return NO_SUM;
	/* the header and its pseudo form both have the addresses; the hop limit will be one less */
	return fold((__u64)word[0] + word[1] + (__u16)~bpf_htons(1) + (__u16)~fold(sum));
}

/* The same by adding up all of it. */
__noinline int carried_sum(struct __sk_buff *skb, const struct packet *p)
{
	int pending, total;
	__u16 field;

	if (!p)
		return NO_SUM;
	pending = sum_pending(skb, p, 0);
	if (pending < 0)
		return NO_SUM;
	if (!pending)
		return sum_of(skb, ETH_LEN, p->length, 0);
	if (bpf_skb_load_bytes(skb, sum_at(p), &field, 2))
		return NO_SUM;
	total = sum_of(skb, ETH_LEN, p->l4 - ETH_LEN, 0);
	return total < 0 ? NO_SUM : fold((__u32)total + (__u16)~field);
}

static __always_inline __u8 outer_tos(__u8 tos)
{
	return tos - (tos >> 1 & tos & 1);	/* ECN_CE, 3, becomes ECN_ECT0, 2 */
}

/* GUE's source port: of each flow another one, so that routers and network cards can tell flows apart. */
static __always_inline __u16 gue_port(const struct packet *p, __u32 first, __u32 last, int ipv6)
{
	const __u32 *src = p->tuple.src.word;
	__u32 client = ipv6 ? src[0] ^ src[1] ^ src[2] ^ src[3] : src[0];
	__u64 flow = ((__u64)client << 32 | (__u32)p->tuple.dport << 16 | p->tuple.sport) * 0x9e3779b97f4a7c15;

	return bpf_htons(first + ((flow >> 32) * (last - first) >> 32));
}

/* Make room for the outer headers. The kernel is told that they are a tunnel's, so that it can cut merged packets, and
 * devices can finish checksums inside; but then no packet can be made shorter any more, and so not what will be cut up
 * here. Of that IPv6 can only be the outer one. */
static __always_inline int wrap_room(struct __sk_buff *skb, const struct wrap *w)
{
	__u32 size = w->head + w->extra, type = w->tunnel & TUNNEL_TYPE;
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;

	if (!w->pieces) {
		flags |= w->ipv6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
		if (type == TUNNEL_GUE)
			flags |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
		else if (type == TUNNEL_GRE)
			flags |= BPF_F_ADJ_ROOM_ENCAP_L4_GRE;
	} else if (w->ipv6) {	/* which makes room for the difference of the two headers, too */
		size -= IPV6_LEN - IPV4_MIN;
		if (bpf_skb_change_proto(skb, bpf_htons(ETH_P_IPV6), 0))
			return 0;
	}
	return !bpf_skb_adjust_room(skb, size, BPF_ADJ_ROOM_MAC, flags);
}

/* The sum of a tunnel's two addresses. */
static __always_inline __u16 wrap_addresses(const union address *from, const union address *to)
{
	__u64 sum = 0;

	for (int i = 0; i < 4; i++)	/* of IPv4 only the first is not 0 */
		sum += (__u64)from->word[i] + to->word[i];
	return fold(sum);
}

/* What is behind the outer IP header. Its sum, of half words, is returned. */
static __always_inline __u32 wrap_extra(__u16 *field, const struct packet *p, __u32 tunnel, __u32 length, __s32 carried,
					__u16 addresses)
{
	const struct config *cfg = at(&config, 0);
	__u16 size = bpf_htons(length);
	__u32 sum;

	if ((tunnel & TUNNEL_TYPE) == TUNNEL_GRE) {
		field[0] = bpf_htons(carried < 0 ? 0 : GRE_SUMMED);
		field[1] = bpf_htons(p->tuple.family == AF_INET ? ETH_P_IP : ETH_P_IPV6);
		sum = (__u32)field[0] + field[1];
		if (carried < 0)
			return sum;
		field[2] = ~fold(sum + carried);
		field[3] = 0;
		return sum + field[2];
	}
	field[0] = cfg ? gue_port(p, cfg->local_ports & 0xffff, cfg->local_ports >> 16,
				  p->tuple.family == AF_INET6) : 0;
	field[1] = bpf_htons(tunnel >> TUNNEL_PORT_SHIFT);
	field[2] = size;
	field[3] = 0;
	field[4] = bpf_htons(p->tuple.family == AF_INET ? IPPROTO_IPIP : IPPROTO_IPV6);
	field[5] = 0;	/* version, kind and length of options were 0, and so are the flags */
	sum = (__u32)field[0] + field[1] + size + field[4];
	if (carried < 0)
		return sum;
	field[3] = ~fold(sum + carried + bpf_htons(IPPROTO_UDP) + size + addresses);
	if (!field[3])
		field[3] = 0xffff;	/* 0 would mean that there is none */
	return sum + field[3];
}

static __always_inline __u16 wrap_ident(void)
{
	__u32 *before = at(&tunnel_idents, 0);

	return before ? ++*before + bpf_get_smp_processor_id() * 40503 : 0;
}

/* All headers into the room for them: of a tunnel from here to there. `addresses`: the sum of these two. */
static __always_inline int wrap_write(struct __sk_buff *skb, const struct packet *p, const struct wrap *w,
				      const union address *from, const union address *to, __u16 addresses)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 size = w->extra + p->length, type = w->tunnel & TUNNEL_TYPE, *word = data + ETH_LEN;
	__u32 first, second, third, check, sum = 0;

	third = (__u32)(p->ttl - 1) << 8 | (type == TUNNEL_GUE ? IPPROTO_UDP :
					    type == TUNNEL_GRE ? IPPROTO_GRE :
					    p->tuple.family == AF_INET ? IPPROTO_IPIP : IPPROTO_IPV6);
	/* whole words, and sums of what has not to be read back: that would have to wait for the stores */
	if (!w->ipv6) {
		if ((void *)(word + 5) > end)
			return 0;
		((__u16 *)data)[6] = bpf_htons(ETH_P_IP);
		first = 0x4500 | outer_tos(p->tos);
		size = (__u16)(IPV4_MIN + size);
		second = w->dont_fragment ? w->dont_fragment : (__u32)wrap_ident() << 16;
		check = bpf_ntohs(addresses) + first + size + (second >> 16) + (__u16)second + third;
		check = (check & 0xffff) + (check >> 16);
		check = (check & 0xffff) + (check >> 16);
		word[0] = bpf_htonl(first << 16 | size);
		word[1] = bpf_htonl(second);
		word[2] = bpf_htonl(third << 16 | (__u16)~check);
		word[3] = from->word[0];
		word[4] = to->word[0];
		word += 5;
		if (type == TUNNEL_IPIP)
			return 1;
	} else {
		if ((void *)(word + 10) > end)
			return 0;
		((__u16 *)data)[6] = bpf_htons(ETH_P_IPV6);
		first = bpf_htonl(0x60000000 | (__u32)outer_tos(p->tos) << 20);
		second = bpf_htonl(size << 16 | (third & 0xff) << 8 | third >> 8);
		word[0] = first;
		word[1] = second;
		__builtin_memcpy(word + 2, from, 16);
		__builtin_memcpy(word + 6, to, 16);
		sum = fold((__u64)first + second + addresses);
		word += 10;
	}
	if (type != TUNNEL_IPIP) {
		if ((void *)(word + 3) > end)
			return 0;
		sum += wrap_extra((__u16 *)word, p, w->tunnel, w->extra + p->length, w->carried, addresses);
	}
	bpf_csum_update(skb, sum);	/* if the network card has said the whole packet's */
	return 1;
}
