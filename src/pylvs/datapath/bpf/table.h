/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * The slots of the connection table: hashing, searching, taking and giving back. What is in a slot is conn.h's.
 *
 * A key's hash names two groups of 64 slots. A connection goes into the first one, unless that is crowded and the
 * other one is less so. A group's 64 tags are one cache line, dense enough to stay in the CPU's caches, so that an
 * established packet pays for one cold line, its slot, and one without a connection for none.
 *
 * Rules of this file:
 *  - A slot belongs to whoever moved its tag from TAG_FREE to TAG_HELD by compare-and-swap, until it is published.
 *  - A tag is published after its slot is filled, and freed after everything else: what a tag leads to is whole.
 *  - A number is a connection's for its life; only while the table is being resized does it get another one (move.h).
 */
#pragma once

#define CROWDED 56		/* of 64 slots: from here on a group's newcomers look at the other one, too */
#define REST_TICKS 16		/* a packet that found a connection just before its end is done with it by then */
/* Looks at what another CPU is about to finish. A virtual CPU may be taken away while it moves a connection, and a packet
 * that gave up waiting would be taken for one without a connection. */
#define WAIT_MAX (TWO_TABLES ? 1u << 21 : 1u << 14)

#define KINDS(kind) (1u << (kind))
#define EXCEPT(number) ((__u64)(1 + (number)) << 32)
#define BYTES(b) (0x0101010101010101ull * (b))

/* Secret, so that nobody can choose addresses and ports that meet in one group. */
const volatile __u64 table_seeds[TABLE_SEEDS];
const volatile __u32 table_groups = 1;

_Static_assert(sizeof(struct conn) == 64 && sizeof(struct back) == 64 && sizeof(struct more) == 64, "a cache line");
_Static_assert(__builtin_offsetof(struct conn, packets) == __builtin_offsetof(struct back, freed) &&
	       __builtin_offsetof(struct conn, packets) == __builtin_offsetof(struct more, freed) &&
	       __builtin_offsetof(struct conn, cport) == __builtin_offsetof(struct back, sport) &&
	       __builtin_offsetof(struct conn, protocol) == __builtin_offsetof(struct back, protocol) &&
	       __builtin_offsetof(struct conn, at) == __builtin_offsetof(struct back, at),
	       "what is compared, and when a slot was freed, stand in the same place whatever a slot holds");

/* ---- one table, or two while it is being resized --------------------------------------------------------------- */

/* A bit in a group's number, and so in its slots', tells a table from the one that takes over from it: numbers that
 * stand in the slots of either stay right while connections are moved. */
#define PARITY (1u << 25)

const volatile __u32 table_parity;	/* 0 or PARITY */

#ifdef RESIZING

/* A key is looked for in the new table, in the old one, and again in the new one, in case it was moved in between. */
#define TWO_TABLES 1

SHARED_ARRAY(old_slots, struct slots);
SHARED_ARRAY(old_tags, struct tags);
SHARED_ARRAY(old_groups, struct group);
const volatile __u32 old_table_groups = 1;

#define IS_OLD(group) (((group) & PARITY) != table_parity)
#define CHOOSE(name, group) (IS_OLD(group) ? at(&old_##name, (group) & ~PARITY) : at(&name, (group) & ~PARITY))
#define GROUPS(old) ((old) ? old_table_groups : table_groups)
#define ALL_GROUPS (table_groups + old_table_groups)

#else

#define TWO_TABLES 0
#define IS_OLD(group) 0
#define CHOOSE(name, group) at(&name, (group) & ~PARITY)
#define GROUPS(old) table_groups
#define ALL_GROUPS table_groups

#endif

static __always_inline struct tags *tags_of(__u32 group)
{
	return CHOOSE(tags, group);
}

static __always_inline struct slots *slots_of(__u32 group)
{
	return CHOOSE(slots, group);
}

static __always_inline struct group *group_at(__u32 group)
{
	return CHOOSE(groups, group);
}

static __always_inline struct conn *conn_at(__u32 number)
{
	struct slots *group = slots_of(number / GROUP_SLOTS);

	if (!group)
		return NULL;
	barrier_var(group);	/* else a compiler may do the sum before it looks */
	return &group->slot[number % GROUP_SLOTS];
}

/* The number of one of ALL_GROUPS. */
static __always_inline __u32 any_group(__u32 number)
{
	return number < table_groups ? number | table_parity : (number - table_groups) | (table_parity ^ PARITY);
}

/* Do newcomers go to the old table? */
static __always_inline __u32 table_target(void)
{
	const struct config *cfg = TWO_TABLES ? at(&config, 0) : NULL;

	return cfg && cfg->resizing == RESIZING_TO_OLD;
}

/* ---- hashing ---------------------------------------------------------------------------------------------------- */

/* Pair-multiply-shift (Thorup): for two different keys every difference of the sums' upper halves is as likely as any
 * other, as long as the seeds are unknown. What follows loses nothing of it: it scatters what neighbours make of it. */
static __always_inline __u64 hash_words(const __u32 *src, const __u32 *dst, __u32 ports, __u8 protocol, __u8 family)
{
	const volatile __u64 *seed = table_seeds;
	__u64 hash = seed[0];

	hash += (seed[1] + src[0]) * (seed[2] + dst[0]);
	hash += (seed[3] + ports) * (seed[4] + ((__u32)family << 8 | protocol));
	if (family == AF_INET6) {
		hash += (seed[5] + src[1]) * (seed[6] + dst[1]);
		hash += (seed[7] + src[2]) * (seed[8] + dst[2]);
		hash += (seed[9] + src[3]) * (seed[10] + dst[3]);
	}
	hash >>= 32;
	return (hash ^ hash >> 15) * 0x9e3779b97f4a7c15ull;
}

static __always_inline __u64 table_hash(const struct tuple *key)
{
	return hash_words(key->src.word, key->dst.word, *(__u32 *)&key->sport, key->protocol, key->family);
}

/* The hash of the key of what is in a slot. */
static __always_inline __u64 slot_hash(const struct conn *c)
{
	if (c->family == AF_INET)
		return hash_words(&c->at.ipv4.caddr, &c->at.ipv4.vaddr, *(__u32 *)&c->cport, c->protocol, AF_INET);
	return hash_words(c->at.ipv6.caddr.word, c->at.ipv6.vaddr.word, *(__u32 *)&c->cport, c->protocol, AF_INET6);
}

/* The first of a key's two groups, and the second. */
static __always_inline __u32 home_group(__u64 hash, __u32 old)
{
	return ((hash ^ hash >> 32) & (GROUPS(old) - 1)) | (old ? table_parity ^ PARITY : table_parity);
}

static __always_inline __u32 other_group(__u64 hash, __u32 old)
{
	return ((hash ^ hash >> 32 ^ (hash >> 20 | 1)) & (GROUPS(old) - 1)) | (old ? table_parity ^ PARITY : table_parity);
}

/* The place in a group where looking begins. */
static __always_inline __u32 hash_place(__u64 hash)
{
	return hash >> 52 & (GROUP_SLOTS - 1);
}

/* The word of tags where looking begins. */
static __always_inline __u32 hash_word(__u64 hash)
{
	return hash_place(hash) / 8;
}

static __always_inline __u32 hash_tag(__u64 hash)
{
	return TAG_FIRST + ((hash >> 44 & 0xff) * (256 - TAG_FIRST) >> 8);
}

/* ---- tags, eight at a time -------------------------------------------------------------------------------------- */

/* The top bit of every byte of `word` that is zero. */
static __always_inline __u64 zero_bytes(__u64 word)
{
	return ~(((word & BYTES(0x7f)) + BYTES(0x7f)) | word | BYTES(0x7f));
}

/* The place of the lowest byte whose top bit is set. */
static __always_inline __u32 place_of(__u32 word, __u64 tops)
{
	return word * 8 + (((tops & -tops) >> 7) * 0x0001020304050607ull >> 56);
}

/* ---- searching -------------------------------------------------------------------------------------------------- */

struct wait {
	__u32 number;
	__u32 life;
};

static long wait_step(__u64 i, struct wait *w)
{
	struct conn *c = conn_at(w->number);

	return !c || *(volatile __u32 *)&c->life != w->life;
}

/* Wait until another CPU has done what it is at with a slot. */
__noinline int wait_for(__u64 slot)
{
	struct wait w = { .number = (__u32)slot - 1, .life = slot >> 32 };

	return bpf_loop(WAIT_MAX, wait_step, &w, 0);
}

static __always_inline int slot_has(const struct conn *c, const struct tuple *key)
{
	if (*(__u32 *)&c->cport != *(__u32 *)&key->sport || c->protocol != key->protocol || c->family != key->family)
		return 0;
	if (key->family == AF_INET)
		return c->at.ipv4.caddr == key->src.word[0] && c->at.ipv4.vaddr == key->dst.word[0];
	return *(__u64 *)&c->at.ipv6.caddr.word[0] == *(__u64 *)&key->src.word[0] &&
	       *(__u64 *)&c->at.ipv6.caddr.word[2] == *(__u64 *)&key->src.word[2] &&
	       *(__u64 *)&c->at.ipv6.vaddr.word[0] == *(__u64 *)&key->dst.word[0] &&
	       *(__u64 *)&c->at.ipv6.vaddr.word[2] == *(__u64 *)&key->dst.word[2];
}

/* The other way round: give a slot its key. */
static __always_inline void slot_put(struct conn *c, const struct tuple *key)
{
	c->cport = key->sport;
	c->vport = key->dport;
	c->protocol = key->protocol;
	c->family = key->family;
	if (key->family == AF_INET) {
		c->at.ipv4.caddr = key->src.word[0];
		c->at.ipv4.vaddr = key->dst.word[0];
	} else {
		c->at.ipv6.caddr = key->src;
		c->at.ipv6.vaddr = key->dst;
	}
}

/* The slot of the group that has this key and is of one of the kinds in `which` (KINDS of slot_kind), but not the one
 * whose number is in `which` too (EXCEPT): 1 + its number, and << 32 the life in which it had the key; 0: there is none.
 * Only so many words of tags are looked at, from the one where looking begins.
 * A function of its own, so that the verifier walks its loops once. */
__noinline __u64 group_find(const struct tuple *key, __u64 hash, __u32 number, __u64 which,
			    __u32 words)
{
	struct tags *tags = tags_of(number);
	struct conn *c;
	__u64 tops;

	if (!key || !tags)
		return 0;
	for (__u32 i = 0; i < TAG_WORDS && i < words; i++) {
		__u32 w = (hash_word(hash) + i) & (TAG_WORDS - 1);

		tops = zero_bytes(tags->word[w] ^ BYTES(hash_tag(hash)));
		for (__u32 j = 0; j < 8 && tops; j++) {
			__u32 taken = 1 + number * GROUP_SLOTS + place_of(w, tops), life;

			tops &= tops - 1;
			c = conn_at(taken - 1);
			if (!c || taken == which >> 32)
				continue;
			life = *(volatile __u32 *)&c->life;
			if ((KINDS(life & 0xf) & which) && slot_has(c, key))
				return (__u64)life << 32 | taken;
		}
	}
	return 0;
}

/* The same in one table: where looking begins, and only if a key that belongs there went astray, elsewhere. */
static __always_inline __u64 table_search(const struct tuple *key, __u64 hash, __u64 which, int old)
{
	__u32 home = home_group(hash, old);
	__u64 found = group_find(key, hash, home, which, 1);
	struct group *g;

	if (found)
		return found;
	g = group_at(home);
	if (!g || !(g->astray >> 8 * hash_word(hash) & 0xff))
		return 0;
	found = group_find(key, hash, home, which, TAG_WORDS);
	if (found || !g->spilled)
		return found;
	return group_find(key, hash, other_group(hash, old), which, TAG_WORDS);
}

/* A slot that was about to be moved, if it stayed where it was; else 0. */
static __always_inline __u64 slot_put_off(__u64 slot, __u64 which)
{
	struct conn *c = conn_at((__u32)slot - 1);
	__u32 life = c ? *(volatile __u32 *)&c->life : 0;

	if ((life ^ slot >> 32) >> LIFE_TURN_SHIFT || !(KINDS(life & 0xf) & which))
		return 0;
	return (__u64)life << 32 | (__u32)slot;
}

/* The same wherever the key may be. */
__noinline __u64 table_find(const struct tuple *key, __u64 hash, __u64 which)
{
	__u64 found;

	if (!key)
		return 0;
	if (!TWO_TABLES)
		return table_search(key, hash, which, 0);
#pragma unroll
	for (int turn = 0; turn < 3; turn++) {
		found = table_search(key, hash, which | KINDS(SLOT_MOVING), turn == 1);
		if (!found)
			continue;
		if ((found >> 32 & LIFE_KIND) != SLOT_MOVING)
			return found;
		wait_for(found);
		found = slot_put_off(found, which);
		if (found)
			return found;
	}
	return 0;
}

/* The slot where looking begins, if it has this key; else NULL. Most have theirs just there. It is fetched together with
 * its tag, not after it; a newcomer is put there, too. */
static __always_inline struct conn *table_peek(const struct tuple *key, __u64 hash, __u32 *number, __u32 *life)
{
	__u32 group = home_group(hash, 0), place = hash_place(hash);
	struct slots *slots = slots_of(group);
	struct tags *tags = tags_of(group);
	struct conn *c;

	if (!tags || !slots)
		return NULL;
	barrier_var(place);	/* a compiler may keep it where the verifier forgets how small it is */
	place &= GROUP_SLOTS - 1;
	c = &slots->slot[place];
	*life = *(volatile __u32 *)&c->life;
	if (((__u8 *)tags)[place] != hash_tag(hash))
		return NULL;
	if (!(KINDS(*life & 0xf) & (KINDS(SLOT_CONN) | KINDS(SLOT_BACK))) || !slot_has(c, key))
		return NULL;
	*number = group * GROUP_SLOTS + place;
	return c;
}

/* ---- taking and giving back ------------------------------------------------------------------------------------- */

/* The life word of a slot's next life, still without a kind. No turn is 0: that is a slot that was never used. */
static __always_inline __u32 next_turn(__u32 life)
{
	__u32 next = (life & ~0xffffu) + (1u << LIFE_TURN_SHIFT);

	return next ? next : 1u << LIFE_TURN_SHIFT;
}

/* A free slot of the group, now held: 1 + its number, or 0. The one at `first` if it can be had. One that was freed
 * just now only if `hurry`. */
__noinline __u32 group_take(__u32 number, __u32 first, int hurry, __u64 now)
{
	struct slots *slots = slots_of(number);
	struct tags *tags = tags_of(number);
	struct group *g = group_at(number);
	__u64 wish = 0x80ull << 8 * (first % 8);

	if (!tags || !slots || !g)
		return 0;
	for (__u32 i = 0; i < TAG_WORDS; i++) {
		__u32 w = (first / 8 + i) & (TAG_WORDS - 1);
		__u64 word = tags->word[w], seen, tops = zero_bytes(word);

		for (__u32 j = 0; j < 16 && tops; j++) {
			__u64 top = tops & wish ? wish : tops & -tops;
			__u32 place = place_of(w, top) & (GROUP_SLOTS - 1);
			struct conn *c = &slots->slot[place];

			if (hurry || !c->life || past(c->packets + REST_TICKS, now)) {
				seen = __sync_val_compare_and_swap(&tags->word[w], word,
								   word | (__u64)TAG_HELD << 8 * (place & 7));
				if (seen == word) {
					__sync_fetch_and_add(&g->used, 1);
					c->life = next_turn(c->life) | SLOT_FILLING;
					return 1 + number * GROUP_SLOTS + place;
				}
				word = seen;	/* others are at it: look again */
				tops = zero_bytes(word);
				continue;
			}
			tops &= ~top;
		}
	}
	return 0;
}

/* Count a key that is not where looking for it begins, so that it is looked for elsewhere, too; or forget it. */
static __always_inline void table_astray(__u64 hash, __u32 number, int count)
{
	__u32 group = number / GROUP_SLOTS, home = home_group(hash, IS_OLD(group)), word = hash_word(hash);
	struct group *g = group_at(home);

	if (!g || (group == home && number / 8 % TAG_WORDS == word))
		return;
	if (group != home)
		__sync_fetch_and_add(&g->spilled, count);
	__sync_fetch_and_add(&g->astray, (__u64)(__s64)count << 8 * word);
}

/* A free slot for a key, now held: 1 + its number, or 0 when both its groups are full. */
static __always_inline __u32 table_take(__u64 hash, int hurry, __u64 now)
{
	__u32 old = table_target(), home = home_group(hash, old), other = other_group(hash, old), use = home, number;
	struct group *first = group_at(home), *second = group_at(other);

	if (!first || !second)
		return 0;
	if (first->used >= CROWDED && second->used < first->used)
		use = other;
	number = group_take(use, hash_place(hash), hurry, now);
	if (!number) {
		use ^= home ^ other;
		number = group_take(use, hash_place(hash), hurry, now);
	}
	if (number)
		table_astray(hash, number - 1, 1);
	return number;
}

/* Let lookups find a held slot. */
static __always_inline void table_publish(__u32 number, __u32 tag)
{
	struct tags *tags = tags_of(number / GROUP_SLOTS);

	if (tags)
		__sync_fetch_and_xor(&tags->word[number / 8 % TAG_WORDS], (__u64)(tag ^ TAG_HELD) << 8 * (number % 8));
}

/* Give a slot back; the caller alone has it. `keyed`: it has a key, under which it was found or was to be. */
__noinline int table_give_back(__u32 number, int keyed, __u64 now)
{
	struct group *g = group_at(number / GROUP_SLOTS);
	struct tags *tags = tags_of(number / GROUP_SLOTS);
	struct conn *c = conn_at(number);

	if (!tags || !g || !c)
		return 0;
	if (keyed)
		table_astray(slot_hash(c), number, -1);
	c->packets = ticks(now);
	c->life = (c->life & ~0xffffu) | SLOT_FREE;
	__sync_fetch_and_add(&g->used, -1);
	__sync_fetch_and_and(&tags->word[number / 8 % TAG_WORDS], ~(0xffull << 8 * (number % 8)));
	return 1;
}
