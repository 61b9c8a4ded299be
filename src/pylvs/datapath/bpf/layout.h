/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Every structure that the packet path and Python share, declared here and nowhere else:
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
	EST_SLICES = 125,	/* the estimator visits 1/125 of the objects every 16 ms: all in 2 s */
};

union address {
	__u32 word[4];
	__u8 byte[16];
};

/* ---- connections ------------------------------------------------------------------------------------------- */

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
	CONN_NOOUTPUT = 0x0080,
	CONN_INACTIVE = 0x0100,
	CONN_TEMPLATE = 0x1000,
	CONN_ONE_PACKET = 0x2000,
	CONN_ASSURES = 0x4000,	/* ours: it has told its template so */
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
	__u32 dest;		/* number of the real server's struct dest */
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

/* The real server's side of a LVS-NAT connection: where a struct conn has the client's tuple, this has a reply's. */
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

/* ---- services and real servers ------------------------------------------------------------------------------ */

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
	__u32 unused[2];
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

/* What a real server is. Written by Python alone. */
struct dest {
	union address address;
	__u16 port;
	__u8 family;
	__u8 flags;		/* enum dest_flag */
	__u32 service;
	struct service_key key;	/* of its service: what re-adding looks for in the trash */
	__u64 deleted;		/* when it went to the trash */
	__u64 service_made;	/* service.made of its service */
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

/* ---- the caches of lblc and lblcr ------------------------------------------------------------------------------ */

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

/* ---- firewall marks ----------------------------------------------------------------------------------------- */

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

/* ---- counters ----------------------------------------------------------------------------------------------- */

/* Per CPU; number 0 is the director's total, then the services, then the real servers. */
struct counters {
	__u64 conns;
	__u64 inpkts;
	__u64 outpkts;
	__u64 inbytes;
	__u64 outbytes;
};

/* Rates as of the last visit of the estimator, and the zero point of `ipvsadm -Z`. */
struct estimate {
	struct counters last;
	struct counters rate;	/* scaled: conns and packets by 1024, bytes by 32 (facts 8.3) */
	struct counters zero;	/* written by Python */
};

/* Every packet that enters is counted under RECEIVED and under exactly one of the others. The names are what
 * `pylvs status --drops` shows; what begins with ANSWERED_ is counted beside the packet's own reason. */
enum reason {
	RECEIVED,
	FORWARDED_NAT_REQUEST,
	FORWARDED_NAT_REPLY,
	FORWARDED_ROUTE,
	UP_NOT_IP,
	UP_OTHER_HOST,
	UP_VLAN,
	UP_MALFORMED,
	UP_MARTIAN,
	UP_PROTOCOL,
	UP_FRAGMENT,
	UP_NO_SERVICE,
	UP_NO_CONNECTION,
	UP_JUST_ENDED,
	UP_CLIENT_PORT_20,
	UP_FTP_DATA,
	UP_LOCAL_REAL_SERVER,
	UP_REPLY_UNCHANGED,
	UP_REPLY_TTL,
	UP_REPLY_TOO_BIG,
	UP_REPLY_NOT_ROUTED,
	DROPPED_TRUNCATED,
	DROPPED_NO_DESTINATION,
	DROPPED_DESTINATION_GONE,
	DROPPED_TABLE_FULL,
	DROPPED_CONN_MAX,
	DROPPED_CONTENDED,
	DROPPED_BY_DEFENCE,
	DROPPED_NOT_SIP,
	DROPPED_NO_ROUTE,
	DROPPED_TTL_EXCEEDED,
	DROPPED_TOO_BIG,
	DROPPED_NEEDS_FRAGMENTS,
	DROPPED_REWRITE_FAILED,
	ANSWERED_ICMP,
	ANSWERED_ICMP_LIMITED,
	REASONS,
};

/* ---- the instance ------------------------------------------------------------------------------------------- */

enum resizing {
	RESIZING_NOT,
	RESIZING_TO_OLD,	/* newcomers go into the old table: in preparation, or since the new one was too small */
	RESIZING_TO_NEW,
};

/* One, written by Python alone. */
struct config {
	__u32 layout_version;
	__u32 conn_slots;
	__u32 table;		/* which of the pinned tables is in force: slots_<n>, tags_<n>, groups_<n> */
	__u32 resizing;		/* enum resizing: another table is taking over, and newcomers go there or here */
	__u32 max_services;
	__u32 max_dests;
	__u64 clock_offset;	/* added to the machine's clock: tests move it forward */
	__u32 timeouts[2 * TIMEOUTS];	/* milliseconds: two rows, of which one is in force */
	__u32 timeouts_row;	/* which one: a change fills the other and moves this */
	__u32 families;		/* enum family_bit */
	__u32 marks;		/* enum mark_limit: which rules are in force, and how many: a change is one store of this */
	__u32 mark_device;	/* number of the interface by which netfilter's marked packets come; 0: none */
	__u32 unprivileged;	/* net.ipv4.ip_unprivileged_port_start */
	__u32 services_high;	/* numbers in use are below these: where the estimator stops */
	__u32 dests_high;
	__u32 changing;		/* 1 + number of the service a command is working on (all ones: all of them): the next
				 * command tidies up after a killed one */
	__u32 pool_next;	/* where the next pool is looked for */
	__u64 pool_version;	/* of the pool that was written last */
	__u64 marks_moved;	/* when the other row of mark rules came into force: its former place rests for a while */
	__u64 generation;	/* counts changes: tells a process whether what it remembers still holds */
	__u32 sysctl_saved;	/* what unload gives back: bit 0: conf.lo.forwarding was 0, bit 1: the IPv6 one */
	__u64 seeds[TABLE_SEEDS];	/* of the connection table's hash */
	__u8 programs[32];	/* hash of the object that is loaded */
	__u64 loaded;		/* seconds since the epoch */
	__u64 free_pages;	/* 1 + pages of memory that count as free, whatever the kernel says: for tests; 0: what it says */
};

/* One: /proc/sys/net/ipv4/vs, under the kernel's names (facts 9.4; pylvs.sysctl has defaults and ranges). Written by
 * Python; the packet path moves the modes of the defences between automatic off (1) and automatic on (2). */
struct sysctls {
	__s64 amemthresh;
	__s64 am_droprate;
	__s64 drop_entry;
	__s64 drop_packet;
	__s64 secure_tcp;
	__s64 conntrack;
	__s64 snat_reroute;
	__s64 sync_version;
	__s64 sync_ports;
	__s64 sync_persist_mode;
	__s64 sync_qlen_max;
	__s64 sync_sock_size;
	__s64 cache_bypass;
	__s64 expire_nodest_conn;
	__s64 sloppy_tcp;
	__s64 sloppy_sctp;
	__s64 expire_quiescent_template;
	__s64 sync_threshold;
	__s64 sync_period;	/* the second number of sync_threshold */
	__s64 sync_refresh_period;
	__s64 sync_retries;
	__s64 nat_icmp_send;
	__s64 pmtu_disc;
	__s64 backup_only;
	__s64 conn_reuse_mode;
	__s64 schedule_icmp;
	__s64 ignore_tunneled;
	__s64 run_estimation;
	__s64 est_nice;
	__s64 debug_level;
	__s64 lblc_expiration;
	__s64 lblcr_expiration;
	__s64 conn_lfactor;
	__s64 svc_lfactor;
	__s64 conn_max;
	__s64 est_cpulist;	/* how many CPUs est_cpus names; 0: nothing is estimated */
	__u64 est_cpus[16];
};

/* One, written by the packet path alone. */
struct runtime {
	__u64 conns;		/* connections in the table */
	__u64 gave_way;		/* half-open ones that made room for others */
	__u64 cursor;		/* the group where the sweep goes on */
	__u64 swept;		/* when it last ran */
	__u64 sweeps;		/* times it went round */
	__u64 estimated;	/* the last slice that the estimator did, counted since the clock's start */
	__u64 icmp_tokens;	/* the director's ICMP allowance (icmp.h) */
	__u64 icmp_stamp;
	__u64 timer_error;	/* what starting the timer answered, negated; 0: it runs */
	__u64 defended;		/* when the defences were last decided on (alarm.h) */
	__s64 memory;		/* pages of it that were free then; -1: not known */
	__s64 available;	/* the same as amemthresh counts them: the table's free slots matter, too */
	__u32 secure;		/* TCP's secure table is in force */
	__u32 drop_entry;	/* idle entries are being dropped */
	__s32 drop_rate;	/* every so manieth connection is dropped; 0: none */
	__s32 drop_counter;
	__u32 todrop[9];	/* candidates seen, by their packet count (facts 9.4) */
	__u32 cache_round;	/* the minute in which caches were last looked through */
	__u32 drop_left;	/* groups of the table that drop_entry has still to visit in this second */
	__u64 entries_dropped;	/* by drop_entry */
};

/* Which source address an ICMPv6 error has: the VIP if it is the receiving interface's own, else that interface's
 * first global address, under the unspecified address. Written by Python. */
struct own_address {
	__u32 ifindex;
	union address address;
};

/* An enumeration gets into BTF, and so to Python, only where something has its type. */
union names {
	enum limit limit;
	struct back back;
	struct more more;
	enum slot_kind slot_kind;
	enum life life;
	enum table table;
	enum resizing resizing;
	enum conn_flag conn_flag;
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
	enum reason reason;
};
