/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The steps of the connection table, each a program of its own, so that a test can stand still between two of them as
 * CPUs never do. What they are given and what they answer is in `ask`.
 */
#define DEEP_STACK
#include "prelude.h"
#include "account.h"
#include "parse.h"
#include "table.h"
#include "conn.h"
#include "claim.h"
#include "state.h"

struct ask {
	__u64 hash;
	__u64 now;
	__u64 answer;
	__u32 number;
	__u32 life;
	__u32 kind;
	__u32 flag;
	struct tuple key;
	struct found found;
	struct birth birth;
	struct packet packet;
};

MAP(ask, BPF_MAP_TYPE_ARRAY, __u32, struct ask, 1, 0);

#define STEP(name, does)				\
SEC("tc")						\
int name(struct __sk_buff *skb)				\
{							\
	const struct config *cfg = at(&config, 0);	\
	struct runtime *rt = at(&runtime, 0);		\
	struct ask *a = at(&ask, 0);			\
							\
	if (!a || !cfg || !rt)				\
		return 1;				\
	a->answer = does;				\
	return 0;					\
}

static __always_inline __u64 moved(const struct config *cfg, struct ask *a)
{
	struct conn *c = conn_at(a->number);

	if (!c)
		return 0;
	state_move(cfg, c, &a->found, &a->packet, INPUT);
	return 1;
}

static __always_inline __u64 claimed(struct ask *a)
{
	struct birth *birth = at(&births, 0);

	if (!birth)
		return 0;
	*birth = a->birth;
	return conn_claim(&a->key, &a->found, a->now) == RECEIVED;
}

STEP(hash, table_hash(&a->key))
STEP(take, table_take(a->hash, a->flag, a->now))
STEP(take_in_group, group_take(a->number, hash_place(a->hash), a->flag, a->now))
STEP(find, table_find(&a->key, a->hash, a->kind | (__u64)a->number << 32))
STEP(publish, (table_publish(a->number, a->kind), 1))
STEP(give_back, table_give_back(a->number, a->flag, a->now))
STEP(settle, conn_settle(a->number, &a->key, a->hash, SETTLE(a->kind), a->now))
STEP(release, conn_release(a->number, a->life, a->now))
STEP(claim, claimed(a))
STEP(lookup, conn_find(&a->key, a->now, &a->found) != NULL)
STEP(transition, moved(cfg, a))

char LICENSE[] SEC("license") = "Dual BSD/GPL";
