/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What decap.bpf.c, the program of a tunnel real server, shares with Python. It has maps of its own: a director's
 * layout does not depend on it.
 */
#pragma once

/* decap_config.settings: all that decides, in one word, so that a change of it is one store. */
enum decap_setting {
	DECAP_IPIP = 0x1,	/* which tunnels are taken off; none: the program lets everything pass */
	DECAP_GRE = 0x2,
	DECAP_GUE = 0x4,
	DECAP_TYPES = 0x7,
	DECAP_ROW = 0x10,	/* which of the two rows of decap_members counts; the other may be written to */
	DECAP_ONLY_VIPS = 0x20,	/* inner packets to these; else: to any address of this host */
	DECAP_ONLY_DIRECTORS = 0x40,	/* outer packets from these; else: from anybody */
	DECAP_MSS4_SHIFT = 32,	/* 16 bits: the longest TCP segment that clients are told to send, over IPv4; 0: any */
	DECAP_MSS6_SHIFT = 48,	/* over IPv6 */
};

struct decap_config {
	__u64 settings;
	__u64 loaded;		/* when: seconds since 1970 */
	__u8 program[32];	/* which build of the program */
};

enum decap_kind {
	DECAP_VIP,
	DECAP_DIRECTOR,
	DECAP_PORT,		/* of GUE: in word[0] of the address, in network byte order */
	DECAP_MEMBERS = 8192,	/* of all kinds, in both rows */
};

/* What is in the set of VIPs, directors, ports. */
struct decap_member {
	union address address;
	__u8 row;
	__u8 kind;
	__u8 family;		/* AF_INET, AF_INET6; of a port 0 */
	__u8 unused;
};

/* What became of a packet: of every one that an interface received, exactly one beside the first. The last is of those
 * that leave. */
enum decap_reason {
	DECAP_RECEIVED,
	DECAP_UNWRAPPED_IPIP,	/* the outer headers are off, the inner packet is on its way into the stack */
	DECAP_UNWRAPPED_GRE,
	DECAP_UNWRAPPED_GUE,
	DECAP_UP_OTHER,		/* no tunnel packet of a kind that is taken off */
	DECAP_UP_OTHER_HOST,	/* for another host, or with a VLAN's tag: it comes again on the VLAN's own interface */
	DECAP_UP_FRAGMENT,	/* the outer packet came in pieces */
	DECAP_UP_NOT_LOCAL,	/* the outer destination is no address of this host */
	DECAP_UP_SENDER,	/* not from a director that was named */
	DECAP_UP_HEADER,	/* the tunnel header wants something that we do not know */
	DECAP_UP_MALFORMED,	/* lengths that do not fit, here or in the inner packet */
	DECAP_UP_INNER,		/* the inner destination is no VIP, or no address of this host: we are no relay */
	DECAP_UP_REFUSED,	/* a merged packet that this kernel cannot turn into one of the other family */
	DECAP_DROPPED_CHECKSUM,	/* GRE's, or GUE's outer UDP's */
	DECAP_DROPPED_ECN,	/* congestion was noted on a packet whose sender knows nothing of that (RFC 6040) */
	DECAP_DROPPED_BROKEN,	/* the kernel refused half-way */
	DECAP_CLAMPED,		/* a SYN or SYN+ACK: the longest segment that it asks for was lowered */
	DECAP_REASONS,
};

union decap_names {
	enum decap_setting decap_setting;
	enum decap_kind decap_kind;
	enum decap_reason decap_reason;
};
