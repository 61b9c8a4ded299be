/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * A tunnel real server without tunnel devices, on TC ingress of its interfaces: takes the headers off that a director
 * has put around a client's packet (IPIP, GRE, GUE, over IPv4 and IPv6; facts 6.7), and lets the inner packet go on
 * into the stack as if it had come so. It reads top to bottom:
 *
 *   outer header -> is it for us? -> tunnel header -> inner packet: is it whole, and allowed? -> checksum, ECN -> off
 *
 * One layer and no more: what it has unwrapped it does not see again. Nor do other TC programs, a director's on the
 * same interface among them: the packet has been scheduled, and two directors that are each other's real servers must
 * not pass it to and fro. What is not unwrapped goes on unchanged, to whoever comes next.
 *
 * `clamp` is another program, for TC egress, where clients can be told how long their segments may be (clamp.h).
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define AF_INET 2
#define AF_INET6 10
#define PACKET_HOST 0
#define VLAN_ID 0x0fff
#ifndef NULL
#define NULL ((void *)0)
#endif

#include "layout.h"
#include "layout/decap.h"

enum { SCRATCH = 512, SCRATCH_PADDING = 8 };
struct scratch_bytes {
	__u8 byte[SCRATCH + SCRATCH_PADDING];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct decap_config);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct decap_member);
	__type(value, __u32);
	__uint(max_entries, DECAP_MEMBERS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} members SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, DECAP_REASONS);
} reasons SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct scratch_bytes);
	__uint(max_entries, 1);
} scratch SEC(".maps");

static __always_inline void *at(void *map, __u32 number)
{
	return bpf_map_lookup_elem(map, &number);
}

static __always_inline int member(__u64 settings, __u8 kind, __u8 family, const union address *address)
{
	struct decap_member key = { .row = !!(settings & DECAP_ROW), .kind = kind, .family = family };

	key.address = *address;
	return bpf_map_lookup_elem(&members, &key) != NULL;
}

static __always_inline __u16 fold(__u64 sum);

#include "decap/outer.h"
#include "decap/inner.h"
#include "decap/sums.h"
#include "decap/clamp.h"

/* Is this an address of our own? Routing is asked; where it would forward nothing in any case, it does not say, and
 * then a packet that is not for us goes nowhere from here anyway. */
static __noinline int local(struct __sk_buff *skb, __u8 family, const union address *src, const union address *dst)
{
	struct bpf_fib_lookup way = { .family = family, .ifindex = skb->ifindex };
	int found;

	if (family == AF_INET) {
		way.ipv4_src = src->word[0];
		way.ipv4_dst = dst->word[0];
	} else {
		__builtin_memcpy(way.ipv6_src, src, 16);
		__builtin_memcpy(way.ipv6_dst, dst, 16);
	}
	found = bpf_fib_lookup(skb, &way, sizeof(way), 0);
	return found == BPF_FIB_LKUP_RET_NOT_FWDED || found == BPF_FIB_LKUP_RET_FWD_DISABLED;
}

/* Take everything off between the Ethernet header and the inner packet. */
static __always_inline int take_off(struct __sk_buff *skb, const struct outer *o, const struct inner *in)
{
	__be16 protocol = in->family == AF_INET ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	__s32 length = o->at - ETH_LEN;

	if (in->family != o->family) {
		/* makes room for a longer header, or takes the room from a shorter one away, behind the Ethernet header:
		 * that the packet is of the other family now is what we are after */
		if (bpf_skb_change_proto(skb, protocol, 0))
			return DECAP_UP_REFUSED;
		length += in->family == AF_INET6 ? IPV6_LEN - (int)sizeof(struct iphdr) :
						   (int)sizeof(struct iphdr) - IPV6_LEN;
	}
	if (bpf_skb_adjust_room(skb, -length, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return in->family != o->family ? DECAP_DROPPED_BROKEN : DECAP_UP_REFUSED;
	if (in->family != o->family && bpf_skb_store_bytes(skb, ETH_LEN - 2, &protocol, sizeof(protocol), 0))
		return DECAP_DROPPED_BROKEN;
	bpf_set_hash_invalid(skb);	/* it was of the outer addresses */
	return o->unwrapped;
}

static __always_inline int way(struct __sk_buff *skb, __u64 settings)
{
	struct outer o = {};
	struct inner in = {};
	int why, ecn;

	if (skb->pkt_type != PACKET_HOST || (skb->vlan_present && skb->vlan_tci & VLAN_ID))	/* 0: a priority, no VLAN */
		return DECAP_UP_OTHER_HOST;
	why = outer_read(skb, &o, settings);
	if (why == DECAP_UP_OTHER)
		return why;
	if (!local(skb, o.family, &o.src, &o.dst))
		return DECAP_UP_NOT_LOCAL;
	if (why != DECAP_RECEIVED)
		return why;
	if (settings & DECAP_ONLY_DIRECTORS && !member(settings, DECAP_DIRECTOR, o.family, &o.src))
		return DECAP_UP_SENDER;
	if (!inner_read(skb, &o, &in))
		return DECAP_UP_MALFORMED;
	if (settings & DECAP_ONLY_VIPS ? !member(settings, DECAP_VIP, in.family, &in.dst) :
					 !local(skb, in.family, &in.src, &in.dst))
		return DECAP_UP_INNER;
	if (!sum_right(skb, &o, &in))
		return DECAP_DROPPED_CHECKSUM;
	ecn = ecn_after(o.ecn, in.ecn);
	if (ecn < 0)
		return DECAP_DROPPED_ECN;
	why = take_off(skb, &o, &in);
	if (why != o.unwrapped)
		return why;
	if (ecn != in.ecn && !ecn_put(skb, &in, ecn))
		return DECAP_DROPPED_BROKEN;
	/* of a merged packet, or one of this machine's own, the stack knows that a checksum is still to be made */
	if (o.remote_field && !skb->gso_size && !sum_remote(skb, o.remote_start, o.remote_field, in.length))
		return DECAP_DROPPED_BROKEN;
	return why;
}

static __always_inline void note(__u32 reason)
{
	__u64 *count = at(&reasons, reason);

	if (count)
		*count += 1;
}

SEC("tc")
int decap(struct __sk_buff *skb)
{
	const struct decap_config *cfg = at(&config, 0);
	__u64 settings;
	int reason;

	if (!cfg)
		return TC_ACT_UNSPEC;
	settings = *(const volatile __u64 *)&cfg->settings;
	if (!(settings & DECAP_TYPES))
		return TC_ACT_UNSPEC;
	note(DECAP_RECEIVED);
	reason = way(skb, settings);
	note(reason);
	if (reason >= DECAP_DROPPED_CHECKSUM)
		return TC_ACT_SHOT;
	return reason <= DECAP_UNWRAPPED_GUE ? TC_ACT_OK : TC_ACT_UNSPEC;
}

SEC("tc")
int clamp(struct __sk_buff *skb)
{
	const struct decap_config *cfg = at(&config, 0);
	__u64 settings;
	__u16 most;

	if (!cfg)
		return TC_ACT_UNSPEC;
	settings = *(const volatile __u64 *)&cfg->settings;
	most = settings >> (skb->protocol == bpf_htons(ETH_P_IPV6) ? DECAP_MSS6_SHIFT : DECAP_MSS4_SHIFT);
	if (most && clamp_way(skb, settings, most))
		note(DECAP_CLAMPED);
	return TC_ACT_UNSPEC;
}

const volatile union decap_names decap_names;
char LICENSE[] SEC("license") = "Dual BSD/GPL";
