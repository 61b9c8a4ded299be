/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Virtual services, their pools of real servers, what lblc and lblcr remember, and firewall marks.
 */
#pragma once

struct service_key {
	union address address;
	__u32 fwmark;
	__u16 port;
	__u8 protocol;
	__u8 family;
};

/* What there are services of (config.families): with a family's last service IPVS stops seeing its packets, connections
 * or not; and what a packet need not be looked up as while there is none. */
enum family_bit {
	SERVES_IPV4 = 1,
	SERVES_IPV6 = 2,
	SERVES_MARKS = 4,	/* by firewall mark */
	SERVES_FTP = 8,		/* on port 21 */
	SERVES_PORT_ZERO = 16,
	SERVES_SPEAKERS = 32,	/* real servers that begin connections (outgoing.h) */
	SERVES_ORPHANS = 64,	/* real servers that are told when their connection is unknown (orphan.h) */
};

enum service_flag {
	SERVICE_USED = 1,
};

/* Written by Python, but for `state`. `pool` is the one word whose change makes a new configuration of the service
 * visible. */
struct service {
	__u32 pool;		/* slot of the current pool's head; 0: none */
	__u32 flags;		/* enum service_flag */
	struct service_key key;
	__u64 made;		/* config.generation at its making: tells it from a former service of this number */
	__u64 state;		/* what its scheduler remembers of its choices, and of which pool that is (enum state) */
	__u64 unused[2];
};

/* A scheduler's state is what stands in the service if its tag is that of the pool; else nobody has been chosen from
 * this pool yet, and it is what Python has put into the pool's head. So a new pool and its state appear in one store,
 * and the packet path never writes into a pool. */
enum state {
	STATE_PLACE_BITS = 23,	/* 1 + a place; 0: the list's head */
	STATE_TAG_SHIFT = 54,	/* above: the low bits of the pool's version, halved */
};

enum scheduler {
	SCHED_NONE,		/* legal: a service whose newcomers find nobody */
	SCHED_RR,
	SCHED_WRR,
	SCHED_LC,
	SCHED_WLC,
	SCHED_LBLC,
	SCHED_LBLCR,
	SCHED_DH,
	SCHED_SH,
	SCHED_SED,
	SCHED_NQ,
	SCHED_FO,
	SCHED_OVF,
	SCHED_MH,
	SCHED_TWOS,
	SCHED_TABLE,		/* whatever Python class: the pool has its name and its table (table.py) */
};

/* What SCHED_TABLE looks up its table by: pool_head.step. */
enum table_key {
	TABLE_BY_CLIENT,
	TABLE_BY_CLIENT_PORT,
	TABLE_BY_DESTINATION,
	TABLE_KEY = 0xff,
	TABLE_FALLBACK = 0x100,	/* if that one takes no connections, whoever comes next in the table */
};

/* A pool is what a service schedules over, and how: a head, its options, its real servers, newest first, then the
 * lookup table of a scheduler that has one, and the name of one that is not LVS's own. Python writes a whole new pool
 * and then points the service at it; of a pool in use nothing changes but weights, one store each. What it had before
 * is written over at once: whoever has read something of a pool looks whether the service still points there, and
 * whether its version is the same, and only then believes it. Versions never come again. */
struct pool_head {
	__u32 scheduler;	/* enum scheduler */
	__u32 count;
	__u64 state;		/* the scheduler's, to begin with (enum state), without a tag */
	__u32 step;		/* wrr: greatest common divisor of the weights; SCHED_TABLE: enum table_key */
	__u32 top;		/* wrr: highest current weight */
	__u32 version;		/* odd while Python writes here */
	__u32 bound;		/* low half of config.generation after the scheduler was bound: lblc's caches are of one such */
};

/* The kernel's service flags (facts section 0). */
enum pool_flag {
	POOL_PERSISTENT = 0x0001,
	POOL_ONE_PACKET = 0x0004,
	POOL_SCHED1 = 0x0008,
	POOL_SCHED2 = 0x0010,
	POOL_SCHED3 = 0x0020,
};

enum engine {
	ENGINE_NONE,
	ENGINE_SIP,
};

struct pool_options {
	__u32 flags;		/* enum pool_flag */
	__u32 timeout;		/* of persistence templates, seconds */
	__u32 netmask;		/* IPv4: in network byte order; IPv6: the prefix length */
	__u32 engine;		/* enum engine: the persistence engine */
	__u32 table;		/* entries of the lookup table behind the real servers */
	__u32 name;		/* bytes of the scheduler's name behind that */
	__u32 unused[2];
};

struct pool_server {
	__u32 dest;
	__s32 weight;
	__u32 flags;		/* conn_flag that its connections are born with */
	__s32 last_weight;	/* the last that was not 0 (mh) */
	__u32 upper;		/* its thresholds, which stand in its struct dest_load for those who count */
	__u32 lower;
	__u32 tunnel;		/* enum tunnel: as in its struct dest, which follows this */
	__u32 unused;
};

enum pool_table {
	POOL_TABLE_SLOT = 16,	/* entries of the lookup table in one pool_slot */
	POOL_TABLE_NOBODY = 0xffff,
};

union pool_slot {
	struct pool_head head;
	struct pool_options options;
	struct pool_server server;
	__u16 table[POOL_TABLE_SLOT];	/* places of real servers */
};

enum dest_flag {
	DEST_USED = 1,
	DEST_AVAILABLE = 2,	/* stands in its service's pool; else it waits in the trash for its connections */
	DEST_LOCAL = 4,		/* is an address of the director itself */
};

/* How LVS-TUN wraps packets for a real server: the type (facts section 0), what is summed up, and GUE's port, in one word:
 * a change of them is one store, and counts for connections that exist, too. */
enum tunnel {
	TUNNEL_TYPE = 0xff,
	TUNNEL_IPIP = 0,
	TUNNEL_GUE = 1,
	TUNNEL_GRE = 2,
	TUNNEL_CSUM = 0x100,
	TUNNEL_REMCSUM = 0x200,
	TUNNEL_FLAGS_SHIFT = 8,
	TUNNEL_PORT_SHIFT = 16,	/* in host byte order */
};

/* What a real server is. Written by Python alone. What packets ask for is in its first cache line. */
struct dest {
	union address address;
	__u16 port;
	__u8 family;
	__u8 flags;		/* enum dest_flag */
	__u32 service;
	__u32 tunnel;		/* enum tunnel */
	__u32 source_ifindex;	/* when packets to it leave by this interface, ... */
	union address source;	/* ...a tunnel begins here: for kernels whose routing does not tell packets (tunnel.h) */
	struct service_key key;	/* of its service: what re-adding looks for in the trash */
	__u64 deleted;		/* when it went to the trash */
	__u64 service_made;	/* service.made of its service */
	__u64 unused[5];
};

/* How busy it is: written by the packet path, atomically. And what is decided by that: written by Python. */
struct dest_load {
	__s32 active;
	__s32 total;		/* active and inactive, templates not */
	__u64 idle;		/* when total last became 0, or persistent */
	__s32 persistent;	/* templates */
	__u32 overload;		/* takes no new connections (facts 1.9); Python clears or sets it at a change of the thresholds */
	__u32 upper;		/* Python's from here on; 0: no threshold */
	__u32 lower;
	__s32 weight;		/* as in its pool, for those who come from a connection; and so are the flags */
	__u32 flags;
	__s32 cached;		/* entries of lblc's and lblcr's caches that name it */
	__u32 unused[5];
};

enum cache_size {
	CACHE_ROOM = 1 << 16,	/* destinations that all services' caches remember together */
	CACHE_SIZE = 16384,	/* of one service: from here on it is trimmed (facts 4.13) */
	CACHE_MOST = CACHE_SIZE + CACHE_SIZE / 2,
	CACHE_SET = 64,		/* real servers in a set of lblcr */
};

struct cache_key {
	union address address;	/* the destination */
	__u32 service;
	__u32 bound;		/* pool_head.bound: a scheduler bound anew begins with nothing */
};

/* What one service's cache is like. Written by the packet path. */
struct cache {
	__u64 entries;		/* bound << 32 | how many */
	__u32 round;		/* the minute in which it was last looked through */
	__u32 quiet;		/* minutes since what is too old was looked for */
	__u32 goal;		/* this minute, so many entries go to make room... */
	__u32 old;		/* ...or those that are too old */
};

enum mark_limit {
	MARK_RULES = 1024,
	MARK_DPORTS = 8,
	MARK_SPORTS = 4,
	MARK_COUNT = 0xffff,	/* of config.marks: rules in force */
	MARK_ROW = 0x10000,	/* of config.marks: they are in the second row */
	MARK_NO_INTERFACE = 0xffffffff,
	MARK_NAME = 16,		/* bytes of an interface's name */
};

/* Which packets get which mark (mark.h). What is not asked for is 0; of ports, all. Two rows of MARK_RULES, of which
 * one is in force; written by Python alone, which changes the other one. */
struct mark_rule {
	union address destination;
	union address destination_mask;
	union address source;
	union address source_mask;
	__u16 dports[2 * MARK_DPORTS];	/* first and last by turns, in host order; what is not used is 1 to 0: none */
	__u16 sports[2 * MARK_SPORTS];
	__u32 ifindex;		/* MARK_NO_INTERFACE: the interface is not there now */
	__u32 mark;
	__u8 protocol;
	__u8 family;
	__u16 unused;
	__u32 unused_too;
	__u8 interface[MARK_NAME];	/* what ifindex was looked up for */
};
