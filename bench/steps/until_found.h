/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Only as far as the connection, if there is one; nothing is forwarded then.
 *
 * Patches tc.bpf.c: if (c && p->truncated) { => if (c && !(p->tcp_flags & TCP_SYN)) return c->dest + UP_NO_SERVICE; if (c && p->truncated) {
 */
