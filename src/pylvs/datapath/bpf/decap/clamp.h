/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * On TC egress of the real server's interfaces: what its SYN and SYN+ACK segments say of the longest segment that it takes
 * (RFC 9293, 3.7.1) is lowered to what gets through the tunnel from the director. A client that is told so sends nothing
 * longer, and nobody has to tell it of the path's MTU.
 *
 * An option that is not there, or a smaller one, says enough; what makes no sense is left as it is.
 */
#pragma once

enum {
	TCP_MIN = 20,
	TCP_OPTIONS_MAX = 40,
	TCP_LENGTH_AT = 12,
	TCP_FLAGS_AT = 13,
	TCP_SUM_AT = 16,
	TCP_SYN = 2,
	TCPOPT_END = 0,
	TCPOPT_NOTHING = 1,
	TCPOPT_MSS = 2,
	TCPOPT_MSS_LEN = 4,
};

/* Where the TCP header begins of a packet that is a real server's answer to a client. 0: it is none. */
static __always_inline __u32 clamp_tcp(struct __sk_buff *skb, __u64 settings)
{
	union address src = {};
	__u8 family, protocol;
	__u32 l4;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, ETH_LEN, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5 ||
		    ip.frag_off & bpf_htons(0x1fff))
			return 0;
		family = AF_INET;
		src.word[0] = ip.saddr;
		protocol = ip.protocol;
		l4 = ETH_LEN + ip.ihl * 4;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, ETH_LEN, &ip, sizeof(ip)) || ip.version != 6)
			return 0;
		family = AF_INET6;
		__builtin_memcpy(&src, &ip.saddr, 16);
		protocol = ip.nexthdr;
		l4 = ETH_LEN + IPV6_LEN;
	} else {
		return 0;
	}
	if (protocol != IPPROTO_TCP)
		return 0;
	/* where no VIP was named, any address of this host may be one */
	if (settings & DECAP_ONLY_VIPS ? !member(settings, DECAP_VIP, family, &src) : skb->ingress_ifindex != 0)
		return 0;
	return l4;
}

/* Where among the options in `scratch` we are. */
struct clamp_walk {
	__u32 next;		/* where the next one begins */
	__u32 size;
	__u32 found;		/* where the longest segment stands; 0: nowhere */
};

static long clamp_byte(__u64 i, struct clamp_walk *walk)
{
	struct scratch_bytes *room = at(&scratch, 0);
	__u32 place = i & 63;
	__u8 kind;

	if (!room || place >= walk->size)
		return 1;
	if (place != walk->next)
		return 0;
	kind = room->byte[place];
	if (kind == TCPOPT_END)
		return 1;
	walk->next += kind == TCPOPT_NOTHING ? 1 : room->byte[place + 1];
	if (walk->next <= place + (kind != TCPOPT_NOTHING) || walk->next > walk->size)
		return 1;
	if (kind != TCPOPT_MSS)
		return 0;
	if (walk->next == place + TCPOPT_MSS_LEN)
		walk->found = place + 2;
	return 1;
}

/* Was it lowered? */
static __always_inline int clamp_way(struct __sk_buff *skb, __u64 settings, __u16 most)
{
	struct scratch_bytes *room = at(&scratch, 0);
	__u16 was, now = bpf_htons(most);
	struct clamp_walk walk = {};
	__u32 l4, size, where;
	__u8 word[2];

	l4 = clamp_tcp(skb, settings);
	if (!l4 || !room || bpf_skb_load_bytes(skb, l4 + TCP_LENGTH_AT, word, sizeof(word)) || !(word[1] & TCP_SYN))
		return 0;
	size = (word[0] >> 4) * 4;
	if (size <= TCP_MIN)
		return 0;
	size = ((size - TCP_MIN - 1) & 63) + 1;
	if (bpf_skb_load_bytes(skb, l4 + TCP_MIN, room->byte, size))
		return 0;
	walk.size = size;
	bpf_loop(TCP_OPTIONS_MAX, clamp_byte, &walk, 0);
	if (!walk.found)
		return 0;
	where = walk.found + l4 + TCP_MIN;
	if (bpf_skb_load_bytes(skb, where, &was, sizeof(was)) || bpf_ntohs(was) <= most)
		return 0;
	if (bpf_skb_store_bytes(skb, where, &now, sizeof(now), 0))
		return 0;
	if ((where - l4) & 1) {		/* its bytes stand in two words of the checksum */
		was = was << 8 | was >> 8;
		now = now << 8 | now >> 8;
	}
	/* a checksum that a device has still to finish does not know of the options yet: the helper leaves it as it is */
	return !bpf_l4_csum_replace(skb, l4 + TCP_SUM_AT, was, now, sizeof(now));
}
