/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Checksums over pieces of a packet, and which of them the sender's machine has left to a device.
 */
#pragma once

#define CHUNK 512
#define PACKET_MAX 65536

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

struct summing {
	struct __sk_buff *skb;
	__u32 at;
	__u32 left;
	__s64 sum;
};

static long sum_step(__u64 i, struct summing *s)
{
	struct scratch_bytes *room = at(&scratch, 0);
	__u32 size = s->left > CHUNK ? CHUNK : s->left;

	if (!room || !size)
		return 1;
	barrier_var(size);
	size = ((size - 1) & (CHUNK - 1)) + 1;
	if (bpf_skb_load_bytes(s->skb, s->at, room->byte, size))
		return 1;
	if (size < CHUNK)
		__builtin_memset(room->byte + size, 0, 4);
	s->sum = bpf_csum_diff(NULL, 0, (__be32 *)room->byte, (size + 3) & ~3u, s->sum);
	s->at += size;
	s->left -= size;
	return 0;
}

/* The folded sum over the frame's bytes from `from` to `end`, and `seed`; negative if they cannot be read. */
static __noinline int sum_over(struct __sk_buff *skb, __u32 from, __u32 end, __u32 seed)
{
	struct summing s = { .skb = skb, .at = from, .left = end - from, .sum = seed };

	bpf_loop(PACKET_MAX / CHUNK, sum_step, &s, 0);
	return s.left ? -1 : fold((__u32)s.sum);
}

/* On a packet that has never been on a wire, what the inner transport checksum's field holds may be the sum of the
 * pseudo header alone: a device was to do the rest. The outer checksum is right already, as it will be with that done:
 * the inner segment will then sum up to the complement of what the field holds now. */
static __always_inline int sum_awaits_inner(struct __sk_buff *skb, const struct outer *o, const struct inner *in)
{
	__u32 field_at = o->at + in->l4 + (in->protocol == IPPROTO_TCP ? 16 : 6);
	__u16 field;
	int sum;

	if (in->protocol != IPPROTO_TCP && in->protocol != IPPROTO_UDP)
		return 0;
	if (bpf_skb_load_bytes(skb, field_at, &field, sizeof(field)))
		return 0;
	if (field != fold((__u64)in->pseudo + bpf_htons(in->protocol) + bpf_htons(in->length - in->l4)))
		return 0;
	sum = sum_over(skb, o->sum_at, o->at + in->l4, fold((__u64)o->seed + (__u16)~field));
	return sum == 0xffff;
}

/* Is the outer checksum right, or has somebody else made sure of that? */
static __always_inline int sum_right(struct __sk_buff *skb, const struct outer *o, const struct inner *in)
{
	/* merged packets: who merged them has looked; a sender who has not divided it yet has no checksum for the whole */
	if (!o->sum_at || skb->gso_size)
		return 1;
	if (bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) >= 0)	/* the device has */
		return 1;
	if (sum_over(skb, o->sum_at, o->end, o->seed) == 0xffff)
		return 1;
	/* the sum of the pseudo header alone, which GRE has none of: it has never been on a wire, and a device was to do
	 * the rest */
	if (o->field == (__u16)o->seed)
		return 1;
	return sum_awaits_inner(skb, o, in);
}

/* Remote checksum offload: the sender left the inner checksum to us, its field holds the sum of the pseudo header. The
 * outer headers are off. */
static __always_inline int sum_remote(struct __sk_buff *skb, __u32 start, __u32 field, __u32 length)
{
	int sum = sum_over(skb, ETH_LEN + start, ETH_LEN + length, 0);
	__u16 value;

	if (sum < 0)
		return 0;
	value = ~sum;
	if (!value && field - start == 6)	/* UDP's zero means that there is none */
		value = 0xffff;
	return !bpf_skb_store_bytes(skb, ETH_LEN + field, &value, sizeof(value), BPF_F_RECOMPUTE_CSUM);
}
