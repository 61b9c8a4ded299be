/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * A crowd of clients and real servers between BPF_PROG_TEST_RUN and the program under test: every repetition gets the
 * frame of a flow and an event that are chosen at random, and what was chosen of the plan's own flows is written down.
 */
#include "prelude.h"

enum { FRAME = 74, EVENTS = 32, LOG = 1 << 16 };	/* FRAME: an IPv6 TCP segment; an IPv4 one is padded */

struct flow {
	__u8 request[FRAME];
	__u8 reply[FRAME];
	__u32 mark;
};

/* One for each thread; each is handed its number as the packet's priority. */
struct plan {
	__u64 random;
	__u32 shared_first, shared_count;	/* flows that several threads have */
	__u32 own_first, own_count;
	__u32 own_of_8;				/* how many of eight packets are of its own flows */
	__u32 in_turn;				/* flows of the shared ones one after the other: 1 + the next */
	__u32 flags_at;				/* 0: datagrams, which have none */
	__u32 logged;
	__u8 events[EVENTS];			/* TCP flags; 0x80: from the real server's side */
};

MAP(flows, BPF_MAP_TYPE_ARRAY, __u32, struct flow, 1, BPF_F_MMAPABLE);
MAP(plans, BPF_MAP_TYPE_ARRAY, __u32, struct plan, 8, BPF_F_MMAPABLE);
MAP(journal, BPF_MAP_TYPE_ARRAY, __u32, __u64, 8 * LOG, BPF_F_MMAPABLE);
MAP(target, BPF_MAP_TYPE_PROG_ARRAY, __u32, __u32, 1, 0);

SEC("tc")
int replay(struct __sk_buff *skb)
{
	__u32 number = skb->priority, chosen, flow, own;
	__u64 *entry;
	struct plan *p = at(&plans, number);
	void *data, *end;
	struct flow *f;
	__u8 event;

	if (!p)
		return TC_ACT_SHOT;
	p->random = p->random * 6364136223846793005ull + 1442695040888963407ull;
	chosen = p->random >> 33;
	event = p->events[chosen & (EVENTS - 1)];
	own = (chosen >> 5 & 7) < p->own_of_8;
	if (own)
		flow = p->own_first + (p->own_count ? (chosen >> 8) % p->own_count : 0);
	else if (p->in_turn)
		flow = p->shared_first + (p->shared_count ? p->in_turn++ % p->shared_count : 0);
	else
		flow = p->shared_first + (p->shared_count ? (chosen >> 8) % p->shared_count : 0);
	f = at(&flows, flow);
	if (!f)
		return TC_ACT_SHOT;
	skb->mark = f->mark;
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (data + FRAME > end)
		return TC_ACT_SHOT;
	__builtin_memcpy(data, event & 0x80 ? f->reply : f->request, FRAME);
	if (p->flags_at == 47)
		*(__u8 *)(data + 47) = event & 0x7f;
	else if (p->flags_at == 67)
		*(__u8 *)(data + 67) = event & 0x7f;
	if (own) {
		chosen = number * LOG + (p->logged & (LOG - 1));
		entry = at(&journal, chosen);
		if (entry)
			*entry = flow << 8 | event;
		p->logged++;
	}
	bpf_tail_call(skb, &target, 0);
	return TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
