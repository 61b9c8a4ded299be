/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The plain connection table, to be measured against: a preallocated BPF hash from a packet's addresses to the
 * connection itself. The real server's side of a LVS-NAT connection is an entry of its own that holds the client's
 * addresses: a reply costs a second lookup.
 *
 * What it does not do: a SYN does not take over a connection in TIME_WAIT, removed real servers' connections are not
 * let go of at once, nobody gives way when it is full, and the sweep cannot stop in the middle. It has no numbers, so
 * found.number only says whether the connection has just been made.
 *
 * Replaces: conn_release conn_find conn_find_fast? conn_claim sweep_group
 * Patches tc.bpf.c: c = conn_at(found.number); if (!c) return UP_JUST_ENDED; => c = conn_again(c, &p->tuple, &found); if (!c) return UP_JUST_ENDED;
 * Patches state.h: c = conn_at(found->number); if (!c) return 0; => c = conn_of(&p->tuple, found); if (!c) return 0;
 */

MAP(conn_hash, BPF_MAP_TYPE_HASH, struct tuple, struct conn, 1, 0);
MAP(entry_key, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct tuple, 1, 0);
MAP(first_key, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct tuple, 1, 0);	/* the packet path's stack is full */

static __always_inline int hash_release(const struct tuple *key, struct conn *c, __u64 now)
{
	struct runtime *rt = at(&runtime, 0);
	struct tuple *reply = at(&entry_key, 0);
	__u32 life = c->life, status = c->status, dest = c->dest;
	struct dest *d = at(&dests, dest);
	struct dest_load *load;

	if (!rt || !reply || (life & LIFE_KIND) != SLOT_CONN)
		return 0;
	if (__sync_val_compare_and_swap(&c->life, life, (life & ~LIFE_KIND) | SLOT_DEAD) != life)
		return 0;
	if (d && conn_method(c) == METHOD_MASQ) {
		conn_back_key(c, d, reply);
		bpf_map_delete_elem(&conn_hash, reply);
	}
	bpf_map_delete_elem(&conn_hash, key);
	load = at(&dest_loads, dest);
	if (load)
		load_unbind(load, status >> 8, now);
	__sync_fetch_and_add(&rt->conns, -1);
	return 1;
}

__noinline int conn_release(__u32 number, __u32 life, __u64 now)
{
	/* else callers leave them out, and the verifier misses them */
	barrier_var(number);
	barrier_var(life);
	barrier_var(now);
	return 0;
}

static __always_inline struct conn *conn_find(const struct tuple *key, __u64 now, struct found *found)
{
	struct conn *c = bpf_map_lookup_elem(&conn_hash, key);
	struct tuple *first = at(&first_key, 0);

	found->life = found->from_server = found->number = 0;
	if (!c || !first)
		return NULL;
	if ((c->life & LIFE_KIND) == SLOT_BACK) {
		conn_key(c, first);
		c = bpf_map_lookup_elem(&conn_hash, first);
		if (!c)
			return NULL;
		found->from_server = 1;
	}
	if ((c->life & LIFE_KIND) != SLOT_CONN)
		return NULL;
	if (past(c->expires, now)) {
		if (!found->from_server)
			hash_release(key, c, now);
		found->from_server = 0;
		return NULL;
	}
	found->life = c->life;
	return c;
}

/* The connection that a packet has found, found anew. */
static __always_inline struct conn *conn_of(const struct tuple *key, const struct found *found)
{
	struct tuple *first = at(&first_key, 0);
	struct conn *c = bpf_map_lookup_elem(&conn_hash, key);

	if (!c || !first || (c->life & LIFE_KIND) != SLOT_BACK)
		return c;
	conn_key(c, first);
	return bpf_map_lookup_elem(&conn_hash, first);
}

static __always_inline struct conn *conn_find_fast(const struct tuple *key, __u64 now, struct found *found)
{
	return conn_find(key, now, found);
}

static __always_inline struct conn *conn_again(struct conn *c, const struct tuple *key, const struct found *found)
{
	return found->number ? bpf_map_lookup_elem(&conn_hash, key) : c;
}

MAP(newborns, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct conn, 1, 0);

__noinline int conn_claim(const struct tuple *key, struct found *found, __u64 now)
{
	struct birth *birth = at(&births, 0);
	struct runtime *rt = at(&runtime, 0);
	struct dest_load *load;
	struct conn *c = at(&newborns, 0);
	struct tuple mine;
	long error;

	if (!key || !found || !birth || !rt || !c)
		return DROPPED_TABLE_FULL;
	load = at(&dest_loads, birth->dest);
	if (!load)
		return DROPPED_TABLE_FULL;
	mine = *key;
	key = &mine;
	c->life = (1u << LIFE_TURN_SHIFT) | SLOT_CONN;
	conn_fill(c, key, birth, now);
	found->life = c->life;
	found->number = 1;
	birth->made = 1;
	found->from_server = 0;
	__sync_fetch_and_add(&load->total, 1);
	__sync_fetch_and_add(&rt->conns, 1);
	error = bpf_map_update_elem(&conn_hash, key, c, BPF_ANY);
	if (!error && (birth->flags & CONN_METHOD) == METHOD_MASQ) {
		birth_reply(birth, key);
		c->life = (c->life & ~LIFE_KIND) | SLOT_BACK;
		error = bpf_map_update_elem(&conn_hash, &birth->reply, c, BPF_ANY);
		if (error)
			bpf_map_delete_elem(&conn_hash, key);
	}
	if (error) {
		__sync_fetch_and_add(&rt->conns, -1);
		load_unbind(load, birth->flags, now);
		return DROPPED_TABLE_FULL;
	}
	return RECEIVED;
}

static long sweep_entry(void *map, const void *key, void *value, struct sweep_walk *w)
{
	struct conn *c = value;

	if ((c->life & LIFE_KIND) == SLOT_CONN && past(c->expires, w->now))
		hash_release(key, c, w->now);
	return 0;
}

static __always_inline void sweep_group(__u32 number, __u64 now)
{
	struct sweep_walk w = { .now = now };

	if (!number)
		bpf_for_each_map_elem(&conn_hash, sweep_entry, &w, 0);
}
