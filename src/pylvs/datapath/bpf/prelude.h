/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What every program begins with: the kernel's headers and ours that all share.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* From headers that would bring in the C library's. */
#define AF_INET 2
#define AF_INET6 10
#define PACKET_HOST 0
#define EEXIST 17
#define CLOCK_MONOTONIC 1
#ifndef NULL
#define NULL ((void *)0)
#endif

#include "layout.h"
#include "maps.h"
#include "clock.h"

/* Linux 6.1 verifies a loop's callback once, with what its variables hold before the first round, and throws away the
 * branches that cannot be taken with that. So a first value on which a branch depends must be one that the verifier does
 * not know: `word` is one whose top bit is never set, and the verifier does not know that. */
#define FIRST(value, word) ((value) + (__u32)((__u64)(word) >> (8 * sizeof(word) - 1)))
