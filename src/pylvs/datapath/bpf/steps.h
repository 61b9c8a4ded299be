/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Packets that are rarer than those of connections are passed on to programs of their own, by tail calls: each has the
 * whole stack for itself, and what it does is nothing that the main road has to carry.
 *
 * Each build has an array of its own, so that programs only ever pass on to those that they were built with; Python
 * fills it before the first packet comes, and pins it for as long as the programs run.
 */
#pragma once

MAP(steps, BPF_MAP_TYPE_PROG_ARRAY, __u32, __u32, STEPS, 0);
