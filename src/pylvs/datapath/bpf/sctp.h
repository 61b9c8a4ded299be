/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * SCTP: what a packet means for its association (facts 3.3), and its checksum.
 *
 * The CRC32c is over ports and payload, not over addresses. So it changes with a port only, and then by what the change
 * alone sums up to, a few bytes followed by zeros: as CRCs are linear, the rest of the packet need not be read, however
 * long it is and wherever it lies, and a packet that came with a wrong sum leaves with a wrong one.
 */
#pragma once

enum {
	SCTP_C_ABORT = 6,
	SCTP_C_COOKIE_ECHO = 10,
	SCTP_C_COOKIE_ACK = 11,
	SCTP_CHUNKS = 15,	/* types that say something of their own */
};
enum { SCTP_E_DATA = 0, SCTP_E_INIT = 1, SCTP_E_ABORT = 9 };

/* packet.sctp_event */
enum {
	SCTP_SILENT = 0,	/* there is no chunk, or not all of its header: nothing changes */
	SCTP_EVENT = 0x1f,	/* else 1 + the event */
	SCTP_BEHIND = 0x20,	/* the ABORT is not the first chunk */
	SCTP_DONE = 0x40,	/* the association has followed it */
};

struct sctp_chunk {
	__u8 type;
	__u8 flags;
	__u16 length;
};

const volatile __u8 sctp_events[SCTP_CHUNKS];

static __always_inline __u8 sctp_event(struct __sk_buff *skb, __u32 at, __u32 end)
{
	struct sctp_chunk chunk;
	__u32 length, type;

	if (at + sizeof(chunk) > end || bpf_skb_load_bytes(skb, at, &chunk, sizeof(chunk)))
		return SCTP_SILENT;
	type = chunk.type;
	length = bpf_ntohs(chunk.length);
	if ((type == SCTP_C_COOKIE_ECHO || type == SCTP_C_COOKIE_ACK) && length >= sizeof(chunk)) {
		at += (length + 3) & ~3u;
		if (at + sizeof(chunk) <= end && !bpf_skb_load_bytes(skb, at, &chunk, sizeof(chunk)) &&
		    chunk.type == SCTP_C_ABORT)
			return (1 + SCTP_E_ABORT) | SCTP_BEHIND;
	}
	return 1 + (type < SCTP_CHUNKS ? sctp_events[type] : SCTP_E_DATA);
}

/* What a CRC32c register becomes after 2^n zero bytes: of each nibble, to be added up. */
enum { SHIFTS = 16, NIBBLES = 8, NIBBLE = 16 };
const volatile __u32 sctp_shift[SHIFTS][NIBBLES][NIBBLE];

static __always_inline __u32 crc_over_zeros(__u32 sum, __u32 length)
{
	__u32 next;

	for (int i = 0; i < SHIFTS; i++) {
		if (!(length >> i & 1))
			continue;
		next = 0;
#pragma unroll
		for (int j = 0; j < NIBBLES; j++)
			next ^= sctp_shift[i][j][sum >> 4 * j & (NIBBLE - 1)];
		sum = next;
	}
	return sum;
}

/* Is the checksum still to be made, by the device that sends the packet? So packets come from senders on this machine
 * and from virtual machines. No field of the context tells, but of such a packet alone it can neither be said that it
 * was checked, nor be claimed, nor has it a sum by the receiving device. */
static __always_inline int sum_is_pending(struct __sk_buff *skb)
{
	if (skb->gso_size)
		return 1;
	if (bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) >= 0 || bpf_csum_update(skb, 0) >= 0)
		return 0;
	bpf_csum_level(skb, BPF_CSUM_LEVEL_INC);
	if (bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) < 0)
		return 1;
	bpf_csum_level(skb, BPF_CSUM_LEVEL_DEC);
	return 0;
}

/* Another port in a packet of LVS-NAT: the destination of a request, the source of a reply. AH and ESP have none to be
 * seen. Returns 0 if it could not be done. */
__noinline int rewrite_rarer(struct __sk_buff *skb, const struct packet *p, __u32 new_port, __u32 reply)
{
	__u8 before[4], after[4], sum[4];
	__u32 crc, change;
	__u16 port = new_port;

	if (!p)
		return 0;
	if (p->kind != KIND_SCTP || port == (reply ? p->tuple.sport : p->tuple.dport))
		return 1;
	if (p->fragment)	/* how many bytes there are behind the port only the last fragment would tell */
		return 0;
	if (bpf_skb_load_bytes(skb, p->l4, before, 4) ||
	    bpf_skb_store_bytes(skb, p->l4 + (reply ? 0 : 2), &port, 2, 0) ||
	    bpf_skb_load_bytes(skb, p->l4, after, 4))
		return 0;
	if (sum_is_pending(skb))
		return 1;
	if (bpf_skb_load_bytes(skb, p->l4 + 8, sum, 4))
		return 0;
	change = (__u32)(before[0] ^ after[0]) | (__u32)(before[1] ^ after[1]) << 8 |
		 (__u32)(before[2] ^ after[2]) << 16 | (__u32)(before[3] ^ after[3]) << 24;
	crc = crc_over_zeros(change, p->length + ETH_LEN - p->l4);
	sum[0] ^= crc;
	sum[1] ^= crc >> 8;
	sum[2] ^= crc >> 16;
	sum[3] ^= crc >> 24;
	return bpf_skb_store_bytes(skb, p->l4 + 8, sum, 4, 0) == 0;
}
