/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * On TC ingress of whoever hears from a director: does the sum that the packet is said to have (CHECKSUM_COMPLETE), if any,
 * fit what is in it?
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum { CHUNK = 512, MOST = 4096, IPV4 = 0x0800, IPV6 = 0x86dd };

struct heard {
	__u64 packets;
	__u64 told;	/* a sum */
	__u64 wrong;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct heard);
	__uint(max_entries, 1);
} heard SEC(".maps");

struct bytes {
	__u8 byte[CHUNK + 8];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct bytes);
	__uint(max_entries, 1);
} room SEC(".maps");

struct walk {
	struct __sk_buff *skb;
	__u32 at;
	__u64 sum;
};

static long add(__u64 i, struct walk *w)
{
	__u32 zero = 0, left = w->skb->len - w->at;
	struct bytes *b = bpf_map_lookup_elem(&room, &zero);

	if (!b || w->at >= w->skb->len)
		return 1;
	__builtin_memset(b, 0, sizeof(*b));
	if (left > CHUNK)
		left = CHUNK;
	left = ((left - 1) & (CHUNK - 1)) + 1;
	if (bpf_skb_load_bytes(w->skb, w->at, b, left))
		return 1;
	w->sum += (__u32)bpf_csum_diff(0, 0, (__be32 *)b, CHUNK, 0);
	w->at += left;
	return 0;
}

static __always_inline __u32 fold(__u64 sum)
{
	for (int i = 0; i < 5; i++)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff ? 0 : sum;
}

SEC("tc")
int hear(struct __sk_buff *skb)
{
	struct walk w = { .skb = skb, .at = ETH_HLEN };
	__s64 said = bpf_csum_update(skb, 0);
	struct heard *h;
	__u32 zero = 0;

	h = bpf_map_lookup_elem(&heard, &zero);
	if (!h || (skb->protocol != bpf_htons(IPV4) && skb->protocol != bpf_htons(IPV6)))
		return -1;
	__sync_fetch_and_add(&h->packets, 1);
	if (said < 0)
		return -1;
	__sync_fetch_and_add(&h->told, 1);
	bpf_loop(MOST / CHUNK, add, &w, 0);
	if (fold((__u32)said) != fold(w.sum))
		__sync_fetch_and_add(&h->wrong, 1);
	return -1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
