/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Not even parsed: the program's frame alone.
 *
 * Patches tc.bpf.c: reason = parse(skb, p); => if (skb->len) return UP_NO_SERVICE; reason = parse(skb, p);
 */
