/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The least that a tunnel can cost: the kernel's helper makes room for the outer headers, and nothing is put there.
 */
#include "prelude.h"

#define BARE(name, size, flags)									\
	SEC("tc")										\
	int name(struct __sk_buff *skb)								\
	{											\
		return bpf_skb_adjust_room(skb, size, BPF_ADJ_ROOM_MAC, flags) ? TC_ACT_SHOT : TC_ACT_SHOT;	\
	}

SEC("tc")
int nothing(struct __sk_buff *skb)
{
	return TC_ACT_SHOT;
}

BARE(room_ipip, 20, BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4)
BARE(room_ipip6, 40, BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6)
BARE(room_gre, 24, BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_GRE)
BARE(room_gue, 32, BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP)
BARE(room_plain, 20, BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
