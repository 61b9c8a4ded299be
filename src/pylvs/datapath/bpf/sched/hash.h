/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What the hashing schedulers have in common (facts 4.9, 4.12): an address folded into 32 bits, and two hashes of that.
 * pylvs.schedulers.hashing computes the same.
 */
#pragma once

static __always_inline __u32 fold_address(const union address *a)
{
	return bpf_ntohl(a->word[0] ^ a->word[1] ^ a->word[2] ^ a->word[3]);
}

/* 8 bits of it. */
static __always_inline __u32 hash8(__u32 value)
{
	return value * 0x61c88647u >> 24;
}

/* The client's port, if the flags want it to count (sh-port, mh-port). */
static __always_inline __u32 hashed_port(const struct pool *o, const struct packet *p)
{
	return o->flags & POOL_SCHED2 ? bpf_ntohs(p->tuple.sport) : 0;
}

#define ROTATE(v, bits) ((v) << (bits) | (v) >> (64 - (bits)))
#define SIP_ROUND(a, b, c, d)							\
	do {									\
		a += b; b = ROTATE(b, 13); b ^= a; a = ROTATE(a, 32);		\
		c += d; d = ROTATE(d, 16); d ^= c;				\
		a += d; d = ROTATE(d, 21); d ^= a;				\
		c += b; b = ROTATE(b, 17); b ^= c; c = ROTATE(c, 32);		\
	} while (0)

/* SipHash-1-3 of 32 bits, with the key that mh looks up by in both halves. */
static __always_inline __u32 siphash(__u32 value)
{
	__u64 key = 2654435761u, b = 4ull << 56 | value;
	__u64 v0 = key ^ 0x736f6d6570736575ull, v1 = key ^ 0x646f72616e646f6dull;
	__u64 v2 = key ^ 0x6c7967656e657261ull, v3 = key ^ 0x7465646279746573ull;

	v3 ^= b;
	SIP_ROUND(v0, v1, v2, v3);
	v0 ^= b;
	v2 ^= 0xff;
	SIP_ROUND(v0, v1, v2, v3);
	SIP_ROUND(v0, v1, v2, v3);
	SIP_ROUND(v0, v1, v2, v3);
	return v0 ^ v1 ^ v2 ^ v3;
}
