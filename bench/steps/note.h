/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Without the reasons.
 *
 * Replaces: note
 */

static __always_inline void note(enum reason reason)
{
}
