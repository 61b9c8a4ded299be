/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Without looking for the connection: the one that was found first is found again. For one flow of LVS-DR.
 *
 * Replaces: table_find
 */

static __u64 found_first;

__noinline __u64 table_find(const struct tuple *key, __u32 kinds, __u32 except)
{
	__u64 slot = found_first;

	if (!slot || except) {
		slot = product_table_find(key, kinds, except);
		if (!except)
			found_first = slot;
	}
	return slot;
}
