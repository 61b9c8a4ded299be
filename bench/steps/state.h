/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Without protocol states. A new connection gets the timeout of its first packet's state all the same: it has to live.
 *
 * Replaces: state_move
 */

static __always_inline void state_move(const struct config *cfg, struct conn *c, const struct found *found,
				       struct packet *p, enum direction direction)
{
	if (c->timeout == 3000)
		c->timeout = cfg->timeouts[1];
}
