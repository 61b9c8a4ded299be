/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Every structure that the packet path and Python share, declared in layout/ and nowhere else:
 * the build reads it back from the object's BTF and writes Python's view of it.
 *
 * Rules of this file:
 *  - Addresses and ports are in network byte order, everything else in host order.
 *  - An IPv4 address is word[0] of an address; the other words are zero.
 *  - Times are nanoseconds of the director's clock (clock.h) where nothing else is said, timeouts are milliseconds.
 *  - Who writes a structure is said at its head. What both sides write, they write atomically.
 *  - The build makes a version number of all this (config.layout_version): programs of another layout do not take
 *    over the maps.
 */
#pragma once

enum limit {
	TCP_STATES = 11,
	TCP_EVENTS = 4,		/* SYN FIN ACK RST */
	SCTP_STATES = 14,
	SCTP_EVENTS = 10,	/* DATA INIT INIT_ACK COOKIE_ECHO COOKIE_ACK SHUTDOWN SHUTDOWN_ACK SHUTDOWN_COMPLETE ERROR ABORT */
	DIRECTIONS = 3,		/* INPUT OUTPUT INPUT_ONLY */
	TIMEOUT_UDP = TCP_STATES,	/* in a row of timeouts, behind those of TCP's states */
	TIMEOUT_SCTP = TIMEOUT_UDP + 1,	/* and then SCTP's */
	TIMEOUTS = TIMEOUT_SCTP + SCTP_STATES,
	FTP_PORTS = 8,
	EST_SLICES = 125,	/* the estimator visits 1/125 of the objects every 16 ms: all in 2 s */
};

/* By what an address is found in the map `parties` (fragment.h): the upper 16 bits of its words' sum without carry times
 * the factor. */
enum party_bits {
	PARTY_BITS = 1 << 16,
	PARTY_FACTOR = 0x61c88647,
};

union address {
	__u32 word[4];
	__u8 byte[16];
};

#include "layout/connections.h"
#include "layout/services.h"
#include "layout/instance.h"

/* An enumeration gets into BTF, and so to Python, only where something has its type. */
union names {
	enum limit limit;
	struct back back;
	struct more more;
	struct ftp_talk ftp_talk;
	enum slot_kind slot_kind;
	enum life life;
	enum aside aside;
	enum table table;
	enum resizing resizing;
	enum step step;
	enum egress egress;
	enum stand_in stand_in;
	enum sync_state sync_state;
	enum conn_flag conn_flag;
	enum dest_number dest_number;
	enum ftp_mode ftp_mode;
	enum family_bit family_bit;
	enum mark_limit mark_limit;
	enum service_flag service_flag;
	enum scheduler scheduler;
	enum state state;
	enum table_key table_key;
	enum cache_size cache_size;
	enum pool_flag pool_flag;
	enum engine engine;
	enum pool_table pool_table;
	enum template_state template_state;
	enum dest_flag dest_flag;
	enum tunnel tunnel;
	enum reason reason;
	enum party_bits party_bits;
};
