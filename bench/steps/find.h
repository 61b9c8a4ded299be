/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Without looking for the connection: the one that was found first is found again. For one flow of LVS-DR.
 *
 * Replaces: conn_find_fast
 */

static struct found found_first;

static __always_inline struct conn *conn_find_fast(const struct tuple *key, __u64 now, struct found *found)
{
	struct conn *c;

	if (found_first.life) {
		c = conn_at(found_first.number);
		if (!c)
			return NULL;
		*found = found_first;
		barrier_var(c);
		return c;
	}
	c = product_conn_find_fast(key, now, found);
	if (c)
		found_first = *found;
	return c;
}
