/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What stands between BPF_PROG_TEST_RUN and the program that is measured: every repetition gets the frame anew (the
 * program before has rewritten it), from the next flow in turn, or from one at random.
 */
#include "prelude.h"

enum order {
	IN_TURN,		/* all flows, one after the other */
	AT_RANDOM,
};

struct plan {
	__u8 frame[96];
	__u32 length;
	__u32 first;		/* number of the first flow */
	__u32 flows;		/* how many there are */
	__u32 address_at;	/* where the client's IPv4 address and port stand in the frame */
	__u32 port_at;
	__u32 base;		/* the first client's address, host order */
	__u32 order;		/* enum order */
	__u32 scatter;		/* each flow is a client of its own */
	__u64 next;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct plan);
	__uint(max_entries, 1);
} plan SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} target SEC(".maps");

SEC("tc")
int replay(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct plan *p = at(&plan, 0);
	__u32 flow, address, *word;
	__u64 sum = 0;
	__u16 *half;

	if (!p || data + 54 > end)
		return TC_ACT_SHOT;
	if (p->order == AT_RANDOM) {
		p->next = p->next * 6364136223846793005ull + 1442695040888963407ull;
		flow = (p->next >> 32) * p->flows >> 32;
	} else {
		flow = p->next++ % p->flows;
	}
	flow += p->first;
	if (p->scatter)
		flow <<= 14;
	__builtin_memcpy(data, p->frame, 54);
	address = bpf_htonl(p->base + (flow >> 14));
	if (p->address_at == 26)
		*(__u32 *)(data + 26) = address;
	else
		*(__u32 *)(data + 30) = address;
	if (p->port_at == 34)
		*(__u16 *)(data + 34) = bpf_htons(1024 + (flow & 0x3fff));
	else
		*(__u16 *)(data + 36) = bpf_htons(1024 + (flow & 0x3fff));
	half = data + 24;
	*half = 0;
	word = data + 14;
	for (int i = 0; i < 5; i++)
		sum += word[i];
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	*half = ~sum;
	bpf_tail_call(skb, &target, 0);
	return TC_ACT_SHOT;
}

/* The cost of all this alone. */
SEC("tc")
int nothing(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
