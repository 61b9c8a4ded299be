/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The short way into a tunnel, for packets of which all is known: where the tunnel leads was told to this CPU within this
 * tick of the clock, they fit, and they are neither merged, nor is their checksum still to be finished, nor is the outer
 * packet of another family.
 *
 * To make room behind the Ethernet header (bpf_skb_adjust_room) takes three times as long as to make it before the frame.
 * So these packets grow at the front: the client's packet stays where it is, and the end of the outer headers is written
 * over what was its Ethernet header. For the kernel all that is before the client's packet is a link-layer header then.
 * That is right where it adds that to a sum that a network card has told (CHECKSUM_COMPLETE): it adds what is written
 * there, and need not be told. It would be wrong where the IP header is looked for: in filters, drivers and captures. So
 * these packets leave through the kernel's neighbour code, which takes Ethernet's 14 bytes off, calls what follows the IP
 * header, and puts 14 bytes on again: the same ones, or that sum would be wrong.
 */
#pragma once

/* A way into a tunnel as it was told, and when; and what is the same in the headers of every packet that goes there. */
struct tunnel_path {
	__u64 tick;
	__u64 to[2];		/* the real server's address, and... */
	__u32 tunnel;		/* ...what its tunnel was like (enum tunnel) */
	__u32 protocol;		/* behind the outer IP header */
	union address from;
	__u32 ifindex;
	__u32 mtu;
	__u32 room;		/* the longest packet that fits into the tunnel; 0: not even those that must */
	__u16 outer;		/* bytes of all headers */
	__u16 addresses;	/* the sum of the tunnel's two, in host byte order */
	struct bpf_redir_neigh next;
	__u16 family;
	struct hop hop;
	__u16 ethertype;
	__u32 summed;		/* the tunnel has a checksum of its own; if not... */
	__u32 behind;		/* ...GRE's header, or GUE's */
	__u16 first_port;	/* GUE's UDP header: where it may come from, ... */
	__u16 last_port;
	__u16 port;		/* ...and goes to */
	__u16 unused[7];
};

_Static_assert(sizeof(struct tunnel_path) == 2 * 64 && __builtin_offsetof(struct tunnel_path, hop) % 4 == 2, "");

MAP(tunnel_paths, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct tunnel_path, PATHS, 0);

static __always_inline struct tunnel_path *tunnel_path_of(const struct dest *d)
{
	const __u64 *to = (const void *)&d->address;
	__u64 mix = to[0] ^ to[1];

	return at(&tunnel_paths, (__u32)(mix ^ mix >> 32) * 0x61c88647 >> 24);
}

/* What this CPU was told within this tick of the clock about the way to this real server, or NULL. */
static __always_inline struct tunnel_path *tunnel_path_known(const struct dest *d, __u64 now)
{
	struct tunnel_path *path = tunnel_path_of(d);
	const __u64 *to = (const void *)&d->address;

	if (path && path->tick == now && path->tunnel == *(volatile const __u32 *)&d->tunnel &&
	    path->to[0] == to[0] && path->to[1] == to[1] && path->family == d->family)
		return path;
	return NULL;
}

/* What is the same for all packets of a tunnel of this shape, into a path whose addresses are there. */
static __always_inline void swift_prepare(struct tunnel_path *path, const struct wrap *shape, const struct config *cfg)
{
	__u32 type = shape->tunnel & TUNNEL_TYPE, ipv6 = shape->ipv6;

	path->tunnel = shape->tunnel;
	path->outer = shape->head + shape->extra;
	path->ethertype = ipv6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	path->summed = type && shape->tunnel & (TUNNEL_CSUM | TUNNEL_REMCSUM);
	path->protocol = ipv6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
	if (type == TUNNEL_GUE) {
		path->behind = bpf_htonl((__u32)path->protocol << 16);
		path->protocol = IPPROTO_UDP;
		path->first_port = cfg->local_ports;
		path->last_port = cfg->local_ports >> 16;
		path->port = bpf_htons(shape->tunnel >> TUNNEL_PORT_SHIFT);
	} else if (type == TUNNEL_GRE) {
		path->behind = bpf_htonl(ipv6 ? ETH_P_IPV6 : ETH_P_IP);
		path->protocol = IPPROTO_GRE;
	}
}

/* Can it grow at the front? Its transport header has to be where it is without options, and the checksum not to be the
 * sum of the pseudo header, which somebody would still have to finish. */
static __always_inline int swift_can(struct __sk_buff *skb, const struct packet *p, int ipv6)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 head = ipv6 ? IPV6_LEN : IPV4_MIN, *word = data + ETH_LEN;
	__u16 *half = data + ETH_LEN + head;
	__u64 sum;

	if (p->l4 != ETH_LEN + head || (void *)(half + 9) > end)
		return 0;
	if (ipv6)
		sum = (__u64)word[2] + word[3] + word[4] + word[5] + word[6] + word[7] + word[8] + word[9];
	else
		sum = (__u64)word[3] + word[4];
	sum += bpf_htons(p->length - head) + bpf_htons(p->tuple.protocol);
	/* folded once, it is at most 0x2000d; what differs by a multiple of 0xffff is the same sum */
	sum = (sum & 0xffff) + ((__u32)sum >> 16) + (sum >> 32);
	sum -= p->tuple.protocol == IPPROTO_TCP ? half[8] : half[3];
	return sum != 0 && sum != 0xffff && sum != 2 * 0xffff;
}

/* Make room before the frame, and write all headers there. `carried`: as in struct wrap. */
static __always_inline int swift_wrap(struct __sk_buff *skb, const struct packet *p, const struct tunnel_path *path,
				      __s32 carried, __u32 dont_fragment, int ipv6)
{
	__u32 size = path->outer + p->length, head = ipv6 ? IPV6_LEN : IPV4_MIN, first, ident, third, check, *word;
	void *data, *end;

	if (bpf_skb_change_head(skb, path->outer + MAC_LEN - ETH_LEN, 0))
		return 0;
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	word = data + MAC_LEN;
	if (data + MAC_LEN + head > end)
		return 0;
	*(__u16 *)data = path->hop.half[0];
	*(__u32 *)(data + 2) = *(__u32 *)__builtin_assume_aligned(&path->hop.half[1], 4);
	*(__u32 *)(data + 6) = *(__u32 *)__builtin_assume_aligned(&path->hop.half[3], 4);
	*(__u16 *)(data + 10) = path->hop.half[5];
	*(__u16 *)(data + 12) = path->ethertype;
	if (ipv6) {
		word[0] = bpf_htonl(0x60000000 | (__u32)outer_tos(p->tos) << 20);
		word[1] = bpf_htonl((size - IPV6_LEN) << 16 | path->protocol << 8 | (p->ttl - 1));
		__builtin_memcpy(word + 2, &path->from, 16);
		__builtin_memcpy(word + 6, path->to, 16);
	} else {
		first = 0x4500 + outer_tos(p->tos);
		third = (__u32)(p->ttl - 1) << 8 | path->protocol;
		check = path->addresses + first + (__u16)size + third;
		if (dont_fragment) {
			check += IPV4_DF;
			word[1] = bpf_htonl(IPV4_DF);
		} else {
			ident = wrap_ident();
			check += ident;
			word[1] = bpf_htonl(ident << 16);
		}
		check = (check & 0xffff) + (check >> 16);
		check += check >> 16;
		word[0] = bpf_htonl(first << 16 | (__u16)size);
		word[2] = bpf_htonl(third << 16 | (__u16)~check);
		word[3] = path->from.word[0];
		word[4] = *(const __u32 *)path->to;
	}
	word += head / 4;
	size -= head;
	if (path->protocol != IPPROTO_UDP && path->protocol != IPPROTO_GRE)
		return 1;
	if (path->summed) {
		if ((void *)(word + 3) > end)
			return 0;
		wrap_extra((__u16 *)word, p, path->tunnel, size, carried, bpf_htons(path->addresses));
		return 1;
	}
	if ((void *)(word + 1) > end)
		return 0;
	if (path->protocol == IPPROTO_GRE) {
		word[0] = path->behind;
		return 1;
	}
	if ((void *)(word + 3) > end)
		return 0;
	((__u16 *)word)[0] = gue_port(p, path->first_port, path->last_port, ipv6);
	((__u16 *)word)[1] = path->port;
	word[1] = bpf_htonl(size << 16);
	word[2] = path->behind;
	return 1;
}

/* RECEIVED: it cannot go this way, and is as it was. */
static __always_inline int swift(struct __sk_buff *skb, const struct packet *p, const struct tunnel_path *path,
				 __u32 dont_fragment, int ipv6)
{
	__s32 carried = NO_SUM;

	if (!swift_can(skb, p, ipv6))
		return RECEIVED;
	if (path->summed) {
		carried = carried_known(skb, p);
		if (carried < 0)
			return RECEIVED;
	}
	if (!decrement_ttl(skb, ipv6 ? AF_INET6 : AF_INET) || !swift_wrap(skb, p, path, carried, dont_fragment, ipv6))
		return DROPPED_REWRITE_FAILED;
	return FORWARDED_TUNNEL;
}
