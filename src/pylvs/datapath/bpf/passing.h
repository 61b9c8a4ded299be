/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * One-packet scheduling where the stack forwards (conntrack): there is no connection to say, as a packet leaves, what is
 * to be undone. So that is kept here, under the addresses that it has in the stack, for as long as it may be there: a next
 * hop is asked for three times, a second apart.
 *
 * A packet with the same addresses on its way to something else, in that time, is refused, as with connections: the
 * VIP that it gets again would be a guess.
 */
#pragma once

#define PASSING_NS (4 * SECOND)

struct passing {
	__u64 deadline;
	union address address;	/* of a request: its VIP; of a reply: its new source */
	__u32 dest;
	__u16 port;
	__u8 method;		/* enum method */
	__u8 reply;
};

MAP(passing, BPF_MAP_TYPE_LRU_HASH, struct tuple, struct passing, 4096, 0);

/* A packet goes to the stack: with this destination, or as it came. 0: another one is in its way. */
__noinline int passing_put(const struct packet *p, const struct way *way, __u32 dest, __u32 method, __u64 now)
{
	struct passing fresh = { .deadline = now + PASSING_NS, .dest = dest, .method = method }, *known;
	struct runtime *rt = at(&runtime, 0);
	struct tuple key;

	if (!p || !way || !rt)
		return 0;
	key = p->tuple;
	fresh.reply = way->nat;
	if (way->nat) {
		fresh.address = way->address;
		fresh.port = way->port;
	} else {
		fresh.address = p->tuple.dst;
		fresh.port = p->tuple.dport;
		key.dst = way->address;
	}
	known = bpf_map_lookup_elem(&passing, &key);
	if (known && known->deadline > now &&
	    (known->dest != dest || !same_address(&known->address, &fresh.address, p->tuple.family)))
		return 0;
	if (rt->passing != now)
		rt->passing = now;
	return !bpf_map_update_elem(&passing, &key, &fresh, BPF_ANY);
}

/* What is to be undone with a packet that leaves, or NULL. */
static __always_inline struct passing *passing_find(const struct packet *p, __u64 now)
{
	struct runtime *rt = at(&runtime, 0);
	struct passing *known;
	struct tuple key;

	if (!rt || now - rt->passing > PASSING_NS)
		return NULL;
	key = p->tuple;		/* Linux 6.1 wants keys on the stack */
	known = bpf_map_lookup_elem(&passing, &key);
	return known && known->deadline > now ? known : NULL;
}
