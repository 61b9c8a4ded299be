/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Connections, templates, and the table that they stand in.
 */
#pragma once

/* A packet's own addresses, as it arrives: the key under which a connection is found from either side. */
struct tuple {
	union address src;
	union address dst;
	__u16 sport;
	__u16 dport;
	__u8 protocol;
	__u8 family;
	__u16 unused;
};

/* What a slot of the connection table is used for: the low byte of its life word. */
enum slot_kind {
	SLOT_FREE,
	SLOT_FILLING,		/* taken; nobody but its taker looks at it */
	SLOT_CONN,		/* a connection, found under its client's tuple */
	SLOT_BACK,		/* the real server's side of a LVS-NAT connection, found under a reply's tuple */
	SLOT_MORE,		/* what an IPv6 connection has no room for */
	SLOT_DEAD,		/* being taken apart by whoever made it so */
	SLOT_MOVING,		/* on its way to another table (move.h) */
	SLOT_TEMPLATE,		/* a persistence template: a struct conn that no packet's own addresses find */
	SLOT_INVALID,		/* a template that nobody finds any more; it lives on for the connections that it controls */
	SLOT_MOVED,		/* what controls connections was here before a resize: `dest` is its number now (move.h) */
};

/* A slot's life word: what it is, and which of its lives this is. It changes with every use of the slot, so whoever
 * has looked at a slot knows by it whether what he saw was of one piece. */
enum life {
	LIFE_KIND = 0xff,
	LIFE_MORE_SHIFT = 8,	/* 1 + place in its group of the slot with the rest of an IPv6 connection; 0: none */
	LIFE_TURN_SHIFT = 16,	/* counts the lives */
};

/* The kernel's connection flags, the numbers of facts section 0. In conn.status they stand above the state. */
enum conn_flag {
	CONN_METHOD = 0x0007,
	CONN_OWN = 0x0008,	/* ours: its client is the director itself */
	CONN_NOOUTPUT = 0x0080,
	CONN_INACTIVE = 0x0100,
	CONN_NO_CPORT = 0x0800,	/* it waits for its client, whose port is not known yet */
	CONN_TEMPLATE = 0x1000,
	CONN_ASSURES = 0x4000,	/* ours: it has told its template so */
	CONN_FTP = 0x8000,	/* ours: the FTP helper reads along */
	CONN_STACK = 0x0040,	/* ours: the stack forwards its packets (conntrack was on at its birth) */
};

/* The state of a template. */
enum template_state {
	TEMPLATE_NONE,
	TEMPLATE_ASSURED,
};

enum method {
	METHOD_MASQ = 0,
	METHOD_LOCALNODE = 1,
	METHOD_TUNNEL = 2,
	METHOD_ROUTE = 3,
	METHOD_BYPASS = 4,	/* to where its packets were going anyway: nobody of its service took it (cache_bypass) */
};

enum dest_number {
	DEST_NONE = 0xffffffff,	/* of a connection without a real server */
};

/* conn.status: the state, conn_flag << 8, and the low byte of the life's turn. */
#define STATUS_STATE 0xffu
#define STATUS_FLAG(flag) ((__u32)(flag) << 8)
#define STATUS_TURN_SHIFT 24
#define STATUS_TURN (0xffu << STATUS_TURN_SHIFT)

/* What an established packet does not need. */
struct conn_rest {
	__u32 fwmark;		/* packet mark at birth */
	__u32 control;		/* 1 + number of the connection or template that controls this one */
	__u32 controls;		/* how many this one controls: it does not end before them */
	__u32 unused[3];
};

/* One connection: one cache line. Written by the packet path alone; Python reads it through mmap.
 * The real server's address is not here: it is that of its struct dest. */
struct conn {
	__u32 life;		/* enum life */
	__u32 status;		/* changed by compare-and-swap */
	__u32 expires;		/* in ticks (clock.h), which wrap: compare differences */
	__u32 timeout;		/* milliseconds */
	__u32 packets;		/* from the client; of a free slot: the tick when it became free */
	__u32 dest;		/* number of the real server's struct dest; DEST_NONE */
	__u16 cport;
	__u16 vport;
	__u16 dport;
	__u8 protocol;
	__u8 family;
	union conn_place {
		struct conn_ipv4 {
			__u32 caddr;
			__u32 vaddr;
			struct conn_rest rest;
		} ipv4;
		struct conn_ipv6 {
			union address caddr;
			union address vaddr;
		} ipv6;
	} at;
};

/* The real server's side of a connection: where a struct conn has the client's tuple, this has a reply's. LVS-NAT ones have
 * it; and those of other methods whose requests are addressed to the real server as long as the stack has them: by it
 * they get their VIP again. No packet's own addresses find the latter, for their protocol is another: */
enum aside {
	BACK_ASIDE = 0x80,
};


struct back {
	__u32 life;
	__u32 unused;
	__u64 conns;		/* number of the newest connection with such replies; << 32: 1 + the one before it */
	__u32 freed;
	__u32 unused_too;
	__u16 sport;
	__u16 dport;
	__u16 unused_port;
	__u8 protocol;
	__u8 family;
	union conn_place at;	/* source and destination as caddr and vaddr */
};

/* The rest of an IPv6 connection, in a slot of the same group. */
struct more {
	__u32 life;
	__u32 conn;		/* whose it is */
	__u64 unused;
	__u32 freed;
	__u32 unused_too[3];
	struct conn_rest rest;
	__u64 unused_end;
};

/* What tells one template from another where the persistence engine is sip. */
struct call_id {
	__u32 length;
	__u8 text[256];
	__u32 unused;
};

/* What the FTP helper knows of a connection on which it reads along, under its client's tuple. */
struct ftp_talk {
	__u64 shift;		/* what rewriting did to the real server's sequence numbers (ftp/stream.h) */
	__u64 answered;		/* the answer rewritten last: sequence number << 32 | enum ftp_mode */
	__u32 asked;		/* enum ftp_mode: for what the client waits */
	__u32 unused;
};

/* How a client has asked where to open its connection for data. */
enum ftp_mode {
	FTP_NOT_ASKED,
	FTP_PASV,
	FTP_EPSV,
};

/* The table is groups of 64 slots. Of each slot there is a byte: 0 if it is free, 1 if it is taken but not to be
 * found, else eight bits of its key's hash. Looking for a connection is looking for its byte, eight at a time. */
enum table {
	GROUP_SLOTS = 64,
	TAG_WORDS = 8,
	TAG_FREE = 0,
	TAG_HELD = 1,
	TAG_FIRST = 2,
	TABLE_SEEDS = 11,
};

struct tags {
	__u64 word[TAG_WORDS];
};

struct slots {
	struct conn slot[GROUP_SLOTS];
};

struct group {
	__u32 used;		/* slots that are not free */
	__u32 spilled;		/* keys that belong here but were put into their other group */
	__u64 astray;		/* a byte per word of tags: keys whose search begins there and that are not there */
};
