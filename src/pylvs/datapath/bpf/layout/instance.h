/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Counters, settings, and what the heartbeat knows of itself.
 */
#pragma once

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
 * `pylvs status --drops` shows; what begins with ANSWERED_ is counted beside the packet's own reason, and what begins
 * with SENT_ by the egress program, which sees packets that entered already, or are the director's own. */
enum reason {
	RECEIVED,
	FORWARDED_NAT_REQUEST,
	FORWARDED_NAT_REPLY,
	FORWARDED_LOCAL,
	FORWARDED_BY_STACK,
	FORWARDED_ROUTE,
	FORWARDED_BYPASS,
	FORWARDED_TUNNEL,
	FORWARDED_RELATED,
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
	UP_BACKUP,
	UP_TUNNELLED,
	UP_REPLY_UNCHANGED,
	UP_REPLY_FOR_STACK,
	UP_REPLY_TRANSLATED,
	UP_REPLY_TTL,
	UP_REPLY_TOO_BIG,
	UP_REPLY_NOT_ROUTED,
	UP_RELATED_UNKNOWN,
	HELD_FRAGMENT,		/* those that wait now (held.h) */
	DROPPED_TRUNCATED,
	DROPPED_NO_DESTINATION,
	DROPPED_DESTINATION_GONE,
	DROPPED_TABLE_FULL,
	DROPPED_CONN_MAX,
	DROPPED_CONTENDED,
	DROPPED_BY_DEFENCE,
	DROPPED_NOT_SIP,
	DROPPED_NO_ROUTE,
	DROPPED_LOOPBACK,
	DROPPED_TTL_EXCEEDED,
	DROPPED_TOO_BIG,
	DROPPED_NEEDS_FRAGMENTS,
	DROPPED_TUNNEL_TOO_NARROW,
	DROPPED_REWRITE_FAILED,
	DROPPED_WRONG_CHECKSUM,
	DROPPED_FRAGMENT,
	DROPPED_FIRST_LOST,
	DROPPED_HOLD_FULL,
	DROPPED_BY_HELPER,
	DROPPED_TUNNEL_ERROR,
	DROPPED_ORPHAN,
	ANSWERED_ICMP,
	ANSWERED_ICMP_LIMITED,
	SENT_REPLY,
	SENT_REQUEST,
	SENT_TO_LO,
	SENT_FAILED,
	REASONS,
};

/* Programs that a packet is passed on to, each with the whole stack for itself (steps.h). Named as its function is. */
enum step {
	STEP_INGRESS,
	STEP_RELATED,
	STEP_FRAGMENT,
	STEP_FTP,
	STEP_ORPHAN,
	STEP_COMPLAINT,
	STEP_FTP_LEAVES,
	STEPS,
};

/* What the egress program is on the interfaces for (egress.h). */
enum egress {
	EGRESS_OWN = 1,		/* services whose address is not the director's, to which it may be a client */
	EGRESS_LOCAL = 2,	/* LVS-NAT real servers on the director itself */
	EGRESS_STACK = 4,	/* connections whose packets the stack forwards */
	EGRESS_OTHER = 8,	/* among them tunnels to real servers of the other family */
};

/* By which address the stack knows a real server of the other family: these, and its number (strangers.py). */
enum stand_in {
	STAND_IN_IPV4 = 0xfe000000,	/* 254.0.0.0/8, which is nobody's */
	STAND_IN_IPV6_FIRST = 0x0064ff9b,	/* 64:ff9b:1:fffe::/96, of the prefix for translation within a network (RFC 8215) */
	STAND_IN_IPV6_SECOND = 0x0001fffe,
};

/* The kernel's numbers (facts section 0). */
enum sync_state {
	SYNC_MASTER = 1,
	SYNC_BACKUP = 2,
};

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
	__u32 local_ports;	/* net.ipv4.ip_local_port_range: the first, and the last << 16 */
	__u32 egress;		/* enum egress; 0: the egress program is on no interface */
	__u32 sync_state;	/* enum sync_state: which synchronisation daemons run */
	__u32 services_high;	/* numbers in use are below these: where the estimator stops */
	__u32 dests_high;
	__u32 changing;		/* 1 + number of the service a command is working on (all ones: all of them; one less:
				 * what the journal says): the next command tidies up after a killed one */
	__u32 pool_next;	/* where the next pool is looked for */
	__u64 pool_version;	/* of the pool that was written last */
	__u64 marks_moved;	/* when the other row of mark rules came into force: its former place rests for a while */
	__u64 generation;	/* counts changes: tells a process whether what it remembers still holds */
	__u32 sysctl_saved;	/* what unload gives back: bit 0: conf.lo.forwarding was 0, bit 1: the IPv6 one, bit 2:
				 * conf.lo.accept_local */
	__u64 seeds[TABLE_SEEDS];	/* of the connection table's hash */
	__u16 ftp_ports[2 * FTP_PORTS];	/* where the FTP helper reads along: two rows, of which one is in force; 0: none */
	__u32 ftp_row;
	__u8 programs[32];	/* hash of the object that is loaded */
	__u64 loaded;		/* seconds since the epoch */
	__u64 free_pages;	/* 1 + pages of memory that count as free, whatever the kernel says: for tests; 0: what it says */
	__u64 free_pages_at;	/* where it says that; 0: no defence has asked yet, or it lets nobody look there */
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
	__u32 held_cursor;	/* the slot where the sweep goes on to look for fragments that wait in vain (held.h) */
	__u32 awaiting;		/* connections that wait for a client whose port is not known yet */
	__u64 passing;		/* when a packet without a connection last went to the stack to be undone as it leaves (passing.h) */
};

/* Which source address an ICMPv6 error has: the VIP if it is the receiving interface's own, else that interface's
 * first global address, under the unspecified address. And where tunnels begin on kernels whose routing does not tell
 * packets: an interface's first global address, of IPv4 under ::ffff:0:0; that of the first interface that has one under
 * the number 0. Written by Python. */
struct own_address {
	__u32 ifindex;
	union address address;
};
