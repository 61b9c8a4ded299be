/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The persistence engine for SIP (facts 5.5): a template for each Call-ID, not for each client alone.
 *
 * The text is read once, byte by byte. What counts as a header line, and how its value ends, is as generous and as
 * strict as the kernel's.
 */
#pragma once

#define SIP_READ 4096		/* bytes of a datagram in which the Call-ID is looked for */
#define CALL_ID_MOST 255

struct sip_text {
	__u8 byte[SIP_READ];
};

MAP(sip_text, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct sip_text, 1, 0);

/* The table of states, and which of them mean something here: pylvs.helpers.sip has them. */
enum { SIP_STATES = 24, SIP_CLASSES = 16 };

const volatile __u8 sip_class[256];
const volatile __u8 sip_table[SIP_STATES * SIP_CLASSES];
const volatile __u32 sip_value, sip_word, sip_nothing, sip_found, sip_failed;

struct sip_walk {
	__u32 state;
	__u32 start;		/* of the value */
	__u32 length;
	__u32 skip;		/* where reading goes on after a value that is none */
};

static __always_inline __u32 sip_next(__u32 state, __u32 class)
{
	__u32 place = state * SIP_CLASSES + class;

	return place < sizeof(sip_table) ? sip_table[place] : sip_failed;
}

static long sip_step(__u64 i, struct sip_walk *w)
{
	struct sip_text *text = at(&sip_text, 0);
	__u32 class, next;

	if (!text || i >= SIP_READ)
		return 1;
	if (i < w->skip)
		return 0;
	class = sip_class[text->byte[i]];
	next = sip_next(w->state, class);
	if (w->state >= sip_value && w->state < sip_word)
		w->start = i;
	if (next == sip_nothing) {
		w->skip += w->start;	/* as in the kernel, which adds up where it stood */
		next = i < w->skip ? 0 : sip_next(0, class);
	}
	w->state = next;
	w->length = i - w->start;
	return next >= sip_found;
}

/* Read the Call-ID of a datagram into `call_id`. 0: it has none. */
__noinline int sip_read(struct __sk_buff *skb, const struct packet *p)
{
	struct sip_text *text = at(&sip_text, 0);
	struct call_id *id = at(&call_id, 0);
	struct sip_walk w = {};
	__u32 begin, size, length;

	if (!p || !text || !id || p->tuple.protocol != IPPROTO_UDP)
		return 0;
	begin = p->l4 + UDP_LEN;
	size = p->length + ETH_LEN - begin;
	if (p->length + ETH_LEN <= begin)
		return 0;
	if (size > SIP_READ)
		size = SIP_READ;
	size = within(size, SIP_READ);
	if (bpf_skb_load_bytes(skb, begin, text, size))
		return 0;
	w.skip = w.start = FIRST(0, p->length);
	w.state = FIRST(0, p->length) * SIP_STATES;	/* any state, as far as a verifier knows, not only 0 or 1 */
	bpf_loop(size, sip_step, &w, 0);
	if (w.state != sip_found)
		return 0;
	length = w.length;
	if (length < 1 || length > CALL_ID_MOST)
		return 0;
	length = within(length, CALL_ID_MOST + 1);
	__builtin_memset(id, 0, sizeof(*id));
	id->length = length;
	return !bpf_skb_load_bytes(skb, begin + w.start, id->text, length);
}

/* ---- templates ---------------------------------------------------------------------------------------------------- */

/* A template's key has, where others have a client port, 16 bits of the Call-ID's hash; what the whole is stands in
 * `call_ids` under that key from just before the template is found until just before its slot is free again. Of Call-IDs
 * that look alike each next one has the next number. */
#define LOOK_ALIKES 8

static __always_inline __u16 alike(__u32 hash, __u32 i)
{
	__u16 number = hash + i;

	return number ? number : LOOK_ALIKES;
}

static __always_inline int call_id_same(const struct call_id *a, const struct call_id *b)
{
	const __u64 *x = (const void *)a, *y = (const void *)b;

	for (__u32 i = 0; i < sizeof(*a) / 8; i++)
		if (x[i] != y[i])
			return 0;
	return 1;
}

static __always_inline __u32 call_id_hash(const struct call_id *id)
{
	const __u64 *word = (const void *)id;
	__u64 hash = table_seeds[0];

	for (__u32 i = 0; i < sizeof(*id) / 8; i++)
		hash = (hash ^ word[i]) * 0x9e3779b97f4a7c15ull + (hash >> 29);
	return hash >> 32;
}

/* Complete the template's key in `births` with the Call-ID that was read, as of a template that is there, or of one that
 * is to be. */
__noinline int sip_key(void)
{
	struct birth *birth = at(&births, 0);
	struct call_id *id = at(&call_id, 0), *known;
	__u32 hash, free = 0;
	__u64 slot;

	if (!birth || !id)
		return DROPPED_NOT_SIP;
	hash = call_id_hash(id);
	for (__u32 i = 0; i < LOOK_ALIKES; i++) {
		birth->template.sport = alike(hash, i);
		slot = table_find(&birth->template, table_hash(&birth->template),
				  KINDS(SLOT_TEMPLATE) | KINDS(SLOT_INVALID) | KINDS(SLOT_DEAD));
		if (!slot) {
			if (!free)
				free = birth->template.sport;
			continue;
		}
		known = bpf_map_lookup_elem(&call_ids, &birth->template);
		if ((slot >> 32 & LIFE_KIND) == SLOT_TEMPLATE && known && call_id_same(known, id))
			return RECEIVED;
	}
	birth->template.sport = free;
	return free ? RECEIVED : DROPPED_CONTENDED;
}
