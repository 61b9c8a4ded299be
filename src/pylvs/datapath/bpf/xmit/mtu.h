/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What routers have said about the MTU of the way to a real server. The kernel would keep it with its route; a program
 * cannot tell the kernel, and so keeps it here, for as long as the kernel would.
 */
#pragma once

enum { LEARNED_MTU_MIN = 552, LEARNED_MTU_SECONDS = 600 };	/* net.ipv4.route.min_pmtu, mtu_expires */

struct learned_mtu {
	__u64 until;
	__u64 mtu;
};

MAP(learned_mtus, BPF_MAP_TYPE_LRU_HASH, union address, struct learned_mtu, 4096, 0);

/* Nobody can make a path wider by saying so: a greater MTU counts when the smaller one is forgotten. */
__noinline int mtu_learn(const union address *address, __u32 mtu, __u64 now)
{
	struct learned_mtu fresh = { .until = now + LEARNED_MTU_SECONDS * SECOND, .mtu = mtu };
	struct learned_mtu *known;
	union address key;

	if (!address)
		return 0;
	key = *address;
	known = bpf_map_lookup_elem(&learned_mtus, &key);
	if (known && known->until > now && known->mtu < mtu)
		return 0;
	return !bpf_map_update_elem(&learned_mtus, &key, &fresh, BPF_ANY);
}

/* An MTU, or what is known of a smaller one. */
__noinline __u32 mtu_known(const union address *address, __u32 mtu, __u64 now)
{
	struct learned_mtu *known;
	union address key;

	if (!address)
		return mtu;
	key = *address;
	known = bpf_map_lookup_elem(&learned_mtus, &key);
	return known && known->until > now && known->mtu < mtu ? known->mtu : mtu;
}
