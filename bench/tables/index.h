/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * Another connection table, to be measured against: a preallocated BPF hash whose value is the number of a record in
 * an array; free numbers wait in a BPF queue. Both directions of a LVS-NAT connection lead to one record.
 *
 * What it does not do: nobody gives way when it is full, and an IPv6 connection's packet mark is forgotten.
 *
 * Replaces: conn_release conn_find conn_find_fast? conn_claim sweep_group
 */

/* tuple -> number of the connection * 2 + 1 if it is the real server's side */
MAP(conn_index, BPF_MAP_TYPE_HASH, struct tuple, __u32, 1, 0);
/* numbers that were given back, the longest idle first; and the first that was never used */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__type(value, __u32);
	__uint(max_entries, 1);
} conn_free SEC(".maps");
MAP(conn_fresh, BPF_MAP_TYPE_ARRAY, __u32, __u64, 1, 0);

MAP(record_key, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct tuple, 1, 0);

static __always_inline void record_give_back(struct conn *c, __u32 number, __u64 now)
{
	c->packets = ticks(now);
	c->life = (c->life & ~0xffffu) | SLOT_FREE;
	bpf_map_push_elem(&conn_free, &number, 0);
}

__noinline int conn_release(__u32 number, __u32 life, __u64 now)
{
	struct runtime *rt = at(&runtime, 0);
	struct tuple *key = at(&record_key, 0);
	struct conn *c = conn_at(number);
	struct dest_load *load;
	struct dest *d;
	__u32 *ref;

	if (!c || !rt || !key || (life & LIFE_KIND) != SLOT_CONN)
		return 0;
	if (__sync_val_compare_and_swap(&c->life, life, (life & ~LIFE_KIND) | SLOT_DEAD) != life)
		return 0;
	d = at(&dests, c->dest);
	if (d && conn_method(c) == METHOD_MASQ) {
		conn_back_key(c, d, key);
		/* a newer connection of the same client port to the same server may own the reply side by now */
		ref = bpf_map_lookup_elem(&conn_index, key);
		if (ref && *ref == number * 2 + 1)
			bpf_map_delete_elem(&conn_index, key);
	}
	conn_key(c, key);
	bpf_map_delete_elem(&conn_index, key);
	load = at(&dest_loads, c->dest);
	if (load)
		load_unbind(load, c->status >> 8, now);
	__sync_fetch_and_add(&rt->conns, -1);
	record_give_back(c, number, now);
	return 1;
}

static __always_inline struct conn *conn_find(const struct tuple *key, __u64 now, struct found *found)
{
	__u32 *ref = bpf_map_lookup_elem(&conn_index, key), number, life, back;
	struct conn *c;

	found->life = found->from_server = 0;
	if (!ref)
		return NULL;
	number = *ref >> 1;
	back = *ref & 1;
	c = conn_at(number);
	if (!c)
		return NULL;
	life = *(volatile __u32 *)&c->life;
	if ((life & LIFE_KIND) != SLOT_CONN)
		return NULL;
	if (past(c->expires, now)) {
		conn_release(number, life, now);
		return NULL;
	}
	found->number = number;
	found->life = life;
	found->from_server = back;
	return c;
}

static __always_inline struct conn *conn_find_fast(const struct tuple *key, __u64 now, struct found *found)
{
	return conn_find(key, now, found);
}

static __always_inline __u32 record_take(__u64 now)
{
	__u64 *fresh = at(&conn_fresh, 0);
	struct conn *c;
	__u32 number;

	if (!fresh)
		return 0;
	if (!bpf_map_pop_elem(&conn_free, &number)) {
		c = conn_at(number);
		if (c && past(c->packets + REST_TICKS, now)) {
			c->life = (c->life & ~0xffffu) + (1u << LIFE_TURN_SHIFT) + SLOT_FILLING;
			return 1 + number;
		}
		bpf_map_push_elem(&conn_free, &number, 0);
	}
	number = __sync_fetch_and_add(fresh, 1);
	c = conn_at(number);
	if (!c) {
		__sync_fetch_and_add(fresh, -1);
		return 0;
	}
	c->life = (1u << LIFE_TURN_SHIFT) + SLOT_FILLING;
	return 1 + number;
}

__noinline int conn_claim(const struct tuple *key, struct found *found, __u64 now)
{
	struct birth *birth = at(&births, 0);
	struct runtime *rt = at(&runtime, 0);
	struct dest_load *load;
	__u32 number, ref, life;
	struct tuple mine;
	struct conn *c;
	long error;
	int nat;

	if (!key || !found || !birth || !rt)
		return DROPPED_TABLE_FULL;
	load = at(&dest_loads, birth->dest);
	if (!load)
		return DROPPED_TABLE_FULL;
	birth->made = 0;
	nat = (birth->flags & CONN_METHOD) == METHOD_MASQ;
	mine = *key;
	key = &mine;
	number = record_take(now) - 1;
	c = conn_at(number);
	if (!c)
		return DROPPED_TABLE_FULL;
	conn_fill(c, key, birth, now);
	life = (c->life & ~LIFE_KIND) | SLOT_CONN;
	c->life = life;
	__sync_fetch_and_add(&load->total, 1);
	__sync_fetch_and_add(&rt->conns, 1);
	ref = number * 2;
	error = bpf_map_update_elem(&conn_index, key, &ref, BPF_NOEXIST);
	if (!error && nat) {
		birth_reply(birth, key);
		ref++;
		error = bpf_map_update_elem(&conn_index, &birth->reply, &ref, BPF_ANY);
		if (error)
			bpf_map_delete_elem(&conn_index, key);
	}
	if (error) {
		__sync_fetch_and_add(&rt->conns, -1);
		load_unbind(load, birth->flags, now);
		record_give_back(c, number, now);
		return error == -EEXIST && conn_find(key, now, found) ? RECEIVED : DROPPED_CONTENDED;
	}
	found->number = number;
	found->life = life;
	found->from_server = 0;
	birth->made = 1;
	return RECEIVED;
}

static __always_inline void sweep_group(__u32 number, __u64 now)
{
	struct slots *group = at(&slots, number);
	__u64 *fresh = at(&conn_fresh, 0);

	if (!group || !fresh || number * GROUP_SLOTS >= *fresh)
		return;
	for (__u32 place = 0; place < GROUP_SLOTS; place++) {
		struct conn *c = &group->slot[place];
		__u32 life = c->life;

		if ((life & LIFE_KIND) == SLOT_CONN && past(c->expires, now))
			conn_release(number * GROUP_SLOTS + place, life, now);
	}
}
