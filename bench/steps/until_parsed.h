/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Only as far as the parsed packet; nothing is forwarded.
 *
 * Patches tc.bpf.c: if (reason != RECEIVED) return reason; if (!(cfg->families => return p->tuple.sport ? UP_NO_SERVICE : reason; if (!(cfg->families
 */
