/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * LVS-NAT: a request gets the real server's address and port as its destination, a reply the VIP's as its source
 * (facts 6.4, 6.5). Transport checksums go through the kernel's helpers, which know what a device still has to
 * finish; the IPv4 header's own is always complete and is mended in place. SCTP's is sctp.h's; what AH and ESP protect
 * is left alone.
 */
#pragma once

enum { SUM_CHUNK = 512 };

/* Some of a packet's bytes, to be summed up: SUM_CHUNK at a time. */
struct sum_over {
	struct __sk_buff *skb;
	__u32 at;
	__u32 left;
	__s64 sum;
};

static long sum_over_step(__u64 i, struct sum_over *over)
{
	__u8 *buffer = at(&scratch, 0);
	__u32 size = over->left > SUM_CHUNK ? SUM_CHUNK : over->left;

	if (!buffer || !size)
		return 1;
	size = within(size, SUM_CHUNK);
	if (bpf_skb_load_bytes(over->skb, over->at, buffer, size))
		return 1;
	if (size < SUM_CHUNK)
		__builtin_memset(buffer + size, 0, 4);
	over->sum = bpf_csum_diff(NULL, 0, (__be32 *)buffer, (size + 3) & ~3u, over->sum);
	over->at += size;
	over->left -= size;
	return 0;
}

/* A UDP datagram without a checksum leaves with a real one, as from kernel IPVS. The field is 0 when this is called. */
__noinline int udp_fill_checksum(struct __sk_buff *skb, __u32 l4, __u32 src, __u32 dst)
{
	struct sum_over over = { .skb = skb, .at = l4 };
	__u16 length, sum;

	if (bpf_skb_load_bytes(skb, l4 + 4, &length, 2))
		return 0;
	over.left = bpf_ntohs(length);
	if (over.left < UDP_LEN)
		return 1;	/* nonsense: left as it came */
	over.sum = (__u64)src + dst + bpf_htons(IPPROTO_UDP) + length;
	over.sum = (over.sum & 0xffffffff) + (over.sum >> 32);
	bpf_loop(65536 / SUM_CHUNK, sum_over_step, &over, 0);
	if (over.left)
		return 0;
	sum = ~fold((__u32)over.sum);
	if (!sum)
		sum = 0xffff;
	return bpf_skb_store_bytes(skb, l4 + 6, &sum, 2, BPF_F_RECOMPUTE_CSUM) == 0;
}

/* An IPv6 address in the header becomes another one, by so much. If a device has said the whole packet's sum, that changes
 * along. Of IPv4 the header's own checksum makes up for it, and bpf_l4_csum_replace with BPF_F_PSEUDO_HDR counts on that,
 * of IPv6 too, where nothing does: so it takes away from that sum what the transport checksum gives, and what the address
 * gives is missing. (Linux 6.16 has a flag against it, which older ones refuse.) */
static __always_inline void address_changed(struct __sk_buff *skb, __s64 diff)
{
	bpf_csum_update(skb, diff);
}

static __always_inline int sums_after(struct __sk_buff *skb, const struct packet *p, const union address *old_addr,
				      const union address *new_addr, __u16 old_port, __u16 new_port, __s64 diff)
{
	__u32 at = p->l4 + (p->tuple.protocol == IPPROTO_TCP ? 16 : 6);
	__u64 zero_means_none = p->tuple.protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;

	if (p->tuple.family == AF_INET) {
		if (bpf_l4_csum_replace(skb, at, old_addr->word[0], new_addr->word[0],
					4 | BPF_F_PSEUDO_HDR | zero_means_none))
			return 0;
	} else if (bpf_l4_csum_replace(skb, at, 0, diff, BPF_F_PSEUDO_HDR | zero_means_none)) {
		return 0;
	}
	if (old_port != new_port &&
	    bpf_l4_csum_replace(skb, at, old_port, new_port, 2 | zero_means_none))
		return 0;
	return 1;
}

static __always_inline void mend_ipv4_sum(struct iphdr *ip, __u32 old, __u32 new)
{
	__u64 sum = (__u16)~ip->check;

	sum += (__u32)~old;
	sum += new;
	ip->check = ~fold(sum);
}

/* nat_rewrite's `how`. */
enum { REWRITE_REPLY = 1, REWRITE_STAYS = 2 };

/* Put new_addr:new_port into the destination (a request) or the source (a reply), and decrement the TTL, unless it stays
 * on this machine. */
static __always_inline int nat_rewrite(struct __sk_buff *skb, const struct packet *p, const union address *new_addr,
				       __u16 new_port, int how)
{
	const union address *old_addr;
	__u16 old_port, udp_sum = 1;
	int reply = how & REWRITE_REPLY;
	void *data, *end;
	__s64 diff = 0;
	__u16 *port;
	__u32 l4;

	old_addr = reply ? &p->tuple.src : &p->tuple.dst;
	old_port = reply ? p->tuple.sport : p->tuple.dport;
	l4 = p->l4 & 0xfff;
	if (p->tuple.family == AF_INET6) {
		diff = bpf_csum_diff((__be32 *)old_addr, 16, (__be32 *)new_addr, 16, 0);
		address_changed(skb, diff);
	}
	if (p->kind == KIND_PLAIN ? !sums_after(skb, p, old_addr, new_addr, old_port, new_port, diff) :
				    !rewrite_rarer(skb, p, new_port, reply))
		return 0;
	if (!(how & REWRITE_STAYS) && !decrement_ttl(skb, p->tuple.family))
		return 0;
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (p->kind == KIND_PLAIN) {
		port = data + l4;
		if (data + l4 + UDP_LEN > end)
			return 0;
		port[!reply] = new_port;
		if (p->tuple.protocol == IPPROTO_UDP)
			udp_sum = port[3];
		if (!udp_sum)	/* nothing in the packet makes up for the port */
			bpf_csum_update(skb, (__u32)new_port + (__u16)~old_port);
	}
	if (p->tuple.family == AF_INET) {
		struct iphdr *ip = data + ETH_LEN;

		if ((void *)(ip + 1) > end)
			return 0;
		mend_ipv4_sum(ip, old_addr->word[0], new_addr->word[0]);
		if (reply)
			ip->saddr = new_addr->word[0];
		else
			ip->daddr = new_addr->word[0];
		if (!udp_sum && !p->fragment)	/* of a fragment nobody can tell what it should be */
			return udp_fill_checksum(skb, l4, reply ? new_addr->word[0] : p->tuple.src.word[0],
						 reply ? p->tuple.dst.word[0] : new_addr->word[0]);
	} else {
		struct ipv6hdr *ip = data + ETH_LEN;

		if ((void *)(ip + 1) > end)
			return 0;
		if (reply)
			__builtin_memcpy(&ip->saddr, new_addr, 16);
		else
			__builtin_memcpy(&ip->daddr, new_addr, 16);
	}
	return 1;
}
