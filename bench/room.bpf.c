/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The least that a tunnel can cost: the kernel makes room for its headers, behind the Ethernet header or before it, and
 * nothing is put there.
 */
#include "prelude.h"

static __always_inline int room(struct __sk_buff *skb, __u32 size, __u64 flags)
{
	bpf_skb_adjust_room(skb, size, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO | flags);
	return TC_ACT_SHOT;
}

/* What the measurement costs. */
SEC("tc")
int nothing(struct __sk_buff *skb)
{
	return TC_ACT_SHOT;
}

SEC("tc")
int room_ipv4(struct __sk_buff *skb)
{
	return room(skb, 20, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4);
}

SEC("tc")
int room_ipv6(struct __sk_buff *skb)
{
	return room(skb, 40, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6);
}

SEC("tc")
int front_ipv4(struct __sk_buff *skb)
{
	bpf_skb_change_head(skb, 20, 0);
	return TC_ACT_SHOT;
}

SEC("tc")
int front_ipv6(struct __sk_buff *skb)
{
	bpf_skb_change_head(skb, 40, 0);
	return TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
