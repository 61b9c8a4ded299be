/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * A real server's answer that becomes longer or shorter on its way, and the sequence numbers of all that follows (facts
 * section 10): what the real server says is so many bytes further on for the client, and what the client acknowledges so
 * many bytes less far for the real server.
 *
 * Two shifts are known: that of what was sent up to the last answer that changed its length, and that since. So packets
 * that are sent again are shifted as they were before, and so is the answer itself, which is rewritten again.
 * All of it is one word, which changes in one step:
 *
 *   sequence number of that answer | shift before it, 24 bits | by how much more since, 8 bits
 */
#pragma once

enum { FTP_OPTIONS = 40, FTP_EDGE = 24, FTP_LINE = 64, FTP_SHIFT_MOST = 1 << 23, FTP_LONGER = 32, FTP_SHORTER = 64 };

/* The packet at hand. */
struct ftp_visit {
	struct packet packet;
	struct found found;
	struct found agreed;	/* a connection for data */
	struct tuple key;	/* under which the connection is known: its client's */
	struct tuple wanted;	/* of a connection for data */
	__u16 wanted_port;	/* the real server's; 0: none is wanted */
	__u16 changed;		/* the packet is not as it came any more */
	__u32 payload;		/* offset of what it says */
	__u32 size;
	__u32 first;		/* where in it an answer stands */
	__u32 mode;		/* enum ftp_mode of that answer */
	__u32 again;		/* it was rewritten before */
	__u32 options;		/* bytes of TCP's options */
	__u64 shift;
	__u32 place;		/* in the options */
	__u8 option[FTP_OPTIONS + FTP_EDGE];
	__u8 option_was[FTP_OPTIONS];
	__u8 line[FTP_LINE];	/* what is put in the place of an address */
	__u8 zeros[FTP_SHORTER];
};

MAP(ftp_visits, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct ftp_visit, 1, 0);

/* ---- shifts ------------------------------------------------------------------------------------------------------- */

static __always_inline __u32 shift_from(__u64 shift)
{
	return shift >> 32;
}

static __always_inline __s32 shift_before(__u64 shift)
{
	return (__s32)shift >> 8;
}

static __always_inline __s32 shift_more(__u64 shift)
{
	return (__s8)shift;
}

/* A real server's sequence number as the client is to see it. */
static __always_inline __u32 shifted(__u64 shift, __u32 number)
{
	return number + shift_before(shift) + ((__s32)(number - shift_from(shift)) > 0 ? shift_more(shift) : 0);
}

/* The other way: what the client acknowledges. */
static __always_inline __u32 unshifted(__u64 shift, __u32 number)
{
	number -= shift_before(shift);
	return (__s32)(number - shift_from(shift)) > 0 ? number - shift_more(shift) : number;
}

/* An answer at this sequence number has become longer. 0: so much cannot be remembered.
 * Once more, for the same answer: nothing changes. */
static __always_inline int shift_on(struct ftp_talk *talk, __u32 number, __s32 more)
{
	__u64 old;
	__s32 before;

	for (int i = 0; i < 4; i++) {
		old = *(volatile __u64 *)&talk->shift;
		if (shift_more(old) && (__s32)(number - shift_from(old)) <= 0)
			return 1;
		before = shift_before(old) + shift_more(old);
		if (before >= FTP_SHIFT_MOST - 128 || before <= 128 - FTP_SHIFT_MOST)
			return 0;
		if (__sync_val_compare_and_swap(&talk->shift, old, (__u64)number << 32 | (__u32)before << 8 |
						(__u8)more) == old)
			return 1;
	}
	return 0;
}

/* Replace a word of TCP's header. */
static __always_inline int tcp_put(struct __sk_buff *skb, struct ftp_visit *v, __u32 offset, __u32 old, __u32 new)
{
	old = bpf_htonl(old);
	new = bpf_htonl(new);
	if (old == new)
		return 1;
	v->changed = 1;
	return !bpf_l4_csum_replace(skb, v->packet.l4 + 16, old, new, 4) &&
	       !bpf_skb_store_bytes(skb, v->packet.l4 + offset, &new, 4, 0);
}

static __always_inline int tcp_get(struct __sk_buff *skb, const struct ftp_visit *v, __u32 offset, __u32 *word)
{
	if (bpf_skb_load_bytes(skb, v->packet.l4 + offset, word, 4))
		return 0;
	*word = bpf_ntohl(*word);
	return 1;
}

/* An option of TCP's; of selective acknowledgements each edge is unshifted. */
static long ftp_option_step(__u64 i, void *nothing)
{
	struct ftp_visit *v = at(&ftp_visits, 0);
	__u32 place, length;
	__u8 *option;

	if (!v)
		return 1;
	place = v->place;
	if (place >= FTP_OPTIONS || place >= v->options)
		return 1;
	option = &v->option[place];
	if (option[0] <= 1) {
		v->place = place + 1;
		return !option[0];	/* the end of them; else nothing */
	}
	length = option[1];
	v->place = place + length;
	if (length < 2 || place + length > v->options)
		return 1;
	if (option[0] != 5)
		return 0;
	for (__u32 edge = 2; edge <= 30 && edge + 4 <= length; edge += 4) {
		__u32 at = place + edge, number;
		__u8 *byte;

		if (at > FTP_OPTIONS)
			break;
		byte = &v->option[at];
		number = (__u32)byte[0] << 24 | (__u32)byte[1] << 16 | (__u32)byte[2] << 8 | byte[3];
		number = unshifted(v->shift, number);
		byte[0] = number >> 24;
		byte[1] = number >> 16;
		byte[2] = number >> 8;
		byte[3] = number;
	}
	return 0;
}

/* The selective acknowledgements of a client's packet. */
__noinline int ftp_unshift_edges(struct __sk_buff *skb)
{
	struct ftp_visit *v = at(&ftp_visits, 0);
	__u32 size;
	__s64 diff;

	if (!v)
		return 0;
	size = v->options;
	if (!size)
		return 1;
	if (size > FTP_OPTIONS)
		return 0;
	size = within(size, FTP_OPTIONS + FTP_EDGE);
	__builtin_memset(v->option, 0, sizeof(v->option));
	if (bpf_skb_load_bytes(skb, v->packet.l4 + TCP_MIN, v->option, size))
		return 0;
	__builtin_memcpy(v->option_was, v->option, FTP_OPTIONS);
	v->place = 0;
	bpf_loop(FTP_OPTIONS, ftp_option_step, NULL, 0);
	diff = bpf_csum_diff((__be32 *)v->option_was, FTP_OPTIONS, (__be32 *)v->option, FTP_OPTIONS, 0);
	if (!(__u32)diff || (__u32)diff == 0xffffffff)
		return 1;
	v->changed = 1;
	return !bpf_l4_csum_replace(skb, v->packet.l4 + 16, 0, diff, 0) &&
	       !bpf_skb_store_bytes(skb, v->packet.l4 + TCP_MIN, v->option, size, 0);
}

/* What a client acknowledges, in the real server's numbers. */
__noinline int ftp_unshift(struct __sk_buff *skb, __u64 shift)
{
	struct ftp_visit *v = at(&ftp_visits, 0);
	__u32 number;

	if (!v)
		return 0;
	v->shift = shift;
	if (!tcp_get(skb, v, 8, &number) || !tcp_put(skb, v, 8, number, unshifted(shift, number)))
		return 0;
	return ftp_unshift_edges(skb);
}

/* A real server's sequence number, in the client's. */
__noinline int ftp_shift(struct __sk_buff *skb, __u64 shift)
{
	struct ftp_visit *v = at(&ftp_visits, 0);
	__u32 number;

	return v && tcp_get(skb, v, 4, &number) && tcp_put(skb, v, 4, number, shifted(shift, number));
}

/* ---- another text ------------------------------------------------------------------------------------------------- */

/* Is the segment's checksum right? One that a device has still to finish is the sum over the addresses so far. */
__noinline int ftp_sound(struct __sk_buff *skb)
{
	struct ftp_visit *v = at(&ftp_visits, 0);
	struct sum_over over = { .skb = skb };
	const struct packet *p;
	__u16 field;
	__u64 sum;

	if (!v)
		return 0;
	p = &v->packet;
	over.at = p->l4;
	over.left = p->length + ETH_LEN - p->l4;
	sum = bpf_htonl(over.left) + (__u64)bpf_htonl(IPPROTO_TCP);
#pragma unroll
	for (int i = 0; i < 4; i++)
		sum += (__u64)p->tuple.src.word[i] + p->tuple.dst.word[i];
	if (bpf_skb_load_bytes(skb, p->l4 + 16, &field, 2))
		return 0;
	if (field == fold(sum))
		return 1;
	over.sum = fold(sum);
	bpf_loop(65536 / SUM_CHUNK, sum_over_step, &over, 0);
	return !over.left && fold((__u32)over.sum) == 0xffff;
}

static __always_inline __u32 line_number(struct ftp_visit *v, __u32 place, __u32 number)
{
	__u32 ten = 10000, started = 0;

#pragma unroll
	for (int i = 0; i < 5; i++) {
		started |= number >= ten || ten == 1;
		if (started)
			v->line[place++ & (FTP_LINE - 1)] = '0' + number / ten % 10;
		ten /= 10;
	}
	return place;
}

/* What a client is to read: v1,v2,v3,v4,p1,p2 or |||port|, in v->line. Its length. */
static __always_inline __u32 ftp_line(struct ftp_visit *v, const union address *vip, __u16 vport, __u32 mode)
{
	__u32 place = 0, port = bpf_ntohs(vport);

	if (mode == FTP_EPSV) {
		v->line[0] = v->line[1] = v->line[2] = '|';
		place = line_number(v, 3, port);
		v->line[place++ & (FTP_LINE - 1)] = '|';
		return place;
	}
#pragma unroll
	for (int i = 0; i < 4; i++) {
		place = line_number(v, place, vip->byte[i]);
		v->line[place++ & (FTP_LINE - 1)] = ',';
	}
	place = line_number(v, place, port >> 8);
	v->line[place++ & (FTP_LINE - 1)] = ',';
	return line_number(v, place, port & 0xff);
}

/* The sum over so many bytes of what is said. */
__noinline __u32 ftp_sum(struct __sk_buff *skb, __u32 from, __u32 size)
{
	struct sum_over over = { .skb = skb, .at = from, .left = size };

	bpf_loop(2 * FTP_READ / SUM_CHUNK, sum_over_step, &over, 0);
	return over.sum;
}

/* The lengths that IP and TCP know, where the packet has become so much longer. */
static __always_inline int ftp_lengthen(struct __sk_buff *skb, struct packet *p, __s32 more)
{
	__u16 was = bpf_htons(p->length + ETH_LEN - p->l4), is = bpf_htons(p->length + ETH_LEN - p->l4 + more);

	if (bpf_l4_csum_replace(skb, p->l4 + 16, was, is, 2 | BPF_F_PSEUDO_HDR))
		return 0;
	p->length += more;
	if (p->tuple.family == AF_INET) {
		was = bpf_htons(p->length - more);
		is = bpf_htons(p->length);
		return !bpf_l3_csum_replace(skb, ETH_LEN + 10, was, is, 2) &&
		       !bpf_skb_store_bytes(skb, ETH_LEN + 2, &is, 2, 0);
	}
	/* as of an address (nat.h): this header has no checksum that changes along */
	bpf_csum_update(skb, (__u32)is + (__u16)~was);
	is = bpf_htons(p->length - IPV6_LEN);
	return !bpf_skb_store_bytes(skb, ETH_LEN + 4, &is, 2, 0);
}

/* Put v->line, of this length, in the place of what was read (ftp_readings), and what follows behind it.
 * While sums are taken the packet has the longer of the two lengths, and zeros at the end of the shorter text. */
__noinline int ftp_rewrite(struct __sk_buff *skb, __u32 length)
{
	struct ftp_reading *r = at(&ftp_readings, 0);
	struct ftp_visit *v = at(&ftp_visits, 0);
	struct ftp_text *text = at(&ftp_text, 0);
	__u32 begin, end, rest, before, after, longest, whole, diff;
	__s32 more;

	if (!r || !v || !text)
		return 0;
	begin = r->begin;
	end = r->end;
	more = length - (end - begin);
	if (more > FTP_LONGER || more < -FTP_SHORTER || r->size < end || begin > end || end >= FTP_READ)
		return 0;
	v->changed = 1;
	longest = v->size + (more > 0 ? more : 0);
	whole = v->packet.length + ETH_LEN;
	if (more > 0 && (bpf_skb_change_tail(skb, whole + more, 0) ||
			 bpf_skb_store_bytes(skb, v->payload + v->size, v->zeros, within(more, FTP_SHORTER), 0)))
		return 0;
	before = ftp_sum(skb, v->payload, longest);
	rest = r->size - end;
	if (rest && bpf_skb_store_bytes(skb, v->payload + begin + length, &text->byte[end], within(rest, FTP_READ), 0))
		return 0;
	if (more < 0 && bpf_skb_store_bytes(skb, v->payload + v->size + more, v->zeros, within(-more, FTP_SHORTER), 0))
		return 0;
	if (bpf_skb_store_bytes(skb, v->payload + begin, v->line, within(length, 32), 0))
		return 0;
	after = ftp_sum(skb, v->payload, longest);
	diff = after + ~before;
	diff += diff < after;
	if (bpf_l4_csum_replace(skb, v->packet.l4 + 16, 0, diff, 0))
		return 0;
	if (!more)
		return 1;
	if (more < 0 && bpf_skb_change_tail(skb, whole + more, 0))
		return 0;
	if (!ftp_lengthen(skb, &v->packet, more))
		return 0;
	v->size += more;
	return 1;
}
