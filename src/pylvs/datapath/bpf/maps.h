/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The pinned maps: the whole state of a director. Sizes given here are the least; Python sets the real ones at load.
 * Arrays that Python reads or writes a word at a time can be mapped into its memory.
 */
#pragma once

#define MAP(name, kind, k, v, entries, flags)		\
	struct {					\
		__uint(type, kind);			\
		__type(key, k);				\
		__type(value, v);			\
		__uint(max_entries, entries);		\
		__uint(map_flags, flags);		\
	} name SEC(".maps")

#define SHARED_ARRAY(name, v) MAP(name, BPF_MAP_TYPE_ARRAY, __u32, v, 1, BPF_F_MMAPABLE)

SHARED_ARRAY(config, struct config);
SHARED_ARRAY(runtime, struct runtime);
SHARED_ARRAY(sysctls, struct sysctls);
SHARED_ARRAY(slots, struct slots);
SHARED_ARRAY(tags, struct tags);
SHARED_ARRAY(groups, struct group);
SHARED_ARRAY(services, struct service);
SHARED_ARRAY(pools, union pool_slot);
SHARED_ARRAY(dests, struct dest);
SHARED_ARRAY(dest_loads, struct dest_load);
SHARED_ARRAY(estimates, struct estimate);

MAP(marks, BPF_MAP_TYPE_ARRAY, __u32, struct mark_rule, 2 * MARK_RULES, BPF_F_MMAPABLE);
MAP(call_ids, BPF_MAP_TYPE_HASH, struct tuple, struct call_id, 1, BPF_F_NO_PREALLOC);
MAP(ftp_talks, BPF_MAP_TYPE_HASH, struct tuple, struct ftp_talk, 1, BPF_F_NO_PREALLOC);
MAP(service_index, BPF_MAP_TYPE_HASH, struct service_key, __u32, 1, 0);
MAP(speakers, BPF_MAP_TYPE_HASH, struct service_key, __u32, 1, BPF_F_NO_PREALLOC);	/* outgoing.h */
MAP(nat_servers, BPF_MAP_TYPE_HASH, struct service_key, __u32, 1, BPF_F_NO_PREALLOC);	/* orphan.h */
MAP(counters, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct counters, 1, 0);
MAP(reasons, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, REASONS, 0);
MAP(own_addresses, BPF_MAP_TYPE_HASH, struct own_address, union address, 1024, 0);

/* Room to look at a piece of a packet in. */
enum { SCRATCH = 2048, SCRATCH_PADDING = 8 };
struct scratch_bytes {
	__u8 byte[SCRATCH + SCRATCH_PADDING];
};
MAP(scratch, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct scratch_bytes, 1, 0);

static __always_inline void *at(void *map, __u32 number)
{
	return bpf_map_lookup_elem(map, &number);
}

/* A size that is known to be 1..most (a power of two), in a form that every verifier understands: what compilers make
 * of an ordinary comparison the one of Linux 6.1 does not always follow. */
static __always_inline __u32 within(__u32 size, __u32 most)
{
	barrier_var(size);
	return ((size - 1) & (most - 1)) + 1;
}
