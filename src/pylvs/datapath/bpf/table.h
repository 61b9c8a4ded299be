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
 *  - Nothing ever moves. A number is a connection's for its life.
 */
#pragma once

#define CROWDED 56		/* of 64 slots: from here on a group's newcomers look at the other one, too */
#define REST_TICKS 16		/* a packet that found a connection just before its end is done with it by then */

#define KINDS(kind) (1u << (kind))
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

/* Where a key may be. */
struct spot {
	__u32 group;
	__u32 other;
	__u32 word;		/* of the tags: where looking begins */
	__u32 tag;
};

/* Pair-multiply-shift (Thorup): for two different keys every difference of the sums' upper halves is as likely as any
 * other, as long as the seeds are unknown. What follows loses nothing of it: it scatters what neighbours make of it. */
static __always_inline void table_hash(const __u32 *src, const __u32 *dst, __u32 ports, __u8 protocol, __u8 family,
				       struct spot *spot)
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
	hash = (hash ^ hash >> 15) * 0x9e3779b97f4a7c15ull;
	spot->group = (hash ^ hash >> 32) & (table_groups - 1);
	spot->other = (spot->group ^ (hash >> 20 | 1)) & (table_groups - 1);
	spot->tag = TAG_FIRST + ((hash >> 44 & 0xff) * (256 - TAG_FIRST) >> 8);
	spot->word = hash >> 52 & (TAG_WORDS - 1);
}

static __always_inline void table_spot(const struct tuple *key, struct spot *spot)
{
	table_hash(key->src.word, key->dst.word, *(__u32 *)&key->sport, key->protocol, key->family, spot);
}

/* The spot of what is in a slot. */
static __always_inline void slot_spot(const struct conn *c, struct spot *spot)
{
	if (c->family == AF_INET)
		table_hash(&c->at.ipv4.caddr, &c->at.ipv4.vaddr, *(__u32 *)&c->cport, c->protocol, AF_INET, spot);
	else
		table_hash(c->at.ipv6.caddr.word, c->at.ipv6.vaddr.word, *(__u32 *)&c->cport, c->protocol, AF_INET6,
			   spot);
}

static __always_inline struct conn *conn_at(__u32 number)
{
	struct slots *group = at(&slots, number / GROUP_SLOTS);

	return group ? &group->slot[number % GROUP_SLOTS] : NULL;
}

/* ---- tags, eight at a time ---------------------------------------------------------------------------------- */

/* The top bit of every byte of `word` that is zero. */
static __always_inline __u64 zero_bytes(__u64 word)
{
	return ~(((word & BYTES(0x7f)) + BYTES(0x7f)) | word | BYTES(0x7f));
}

/* The number of the lowest byte whose top bit is set. */
static __always_inline __u32 lowest_byte(__u64 tops)
{
	return ((tops & -tops) >> 7) * 0x0001020304050607ull >> 56;
}

static __always_inline __u32 place_of(__u32 word, __u64 tops)
{
	return word * 8 + lowest_byte(tops);
}

/* ---- searching ---------------------------------------------------------------------------------------------- */

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

/* The slot that has this key, is of one of `kinds` (KINDS of slot_kind) and is not `except` (1 + a number): 1 + its
 * number, and << 32 the life in which it had the key; 0: there is none.
 * A function of its own, so that the verifier walks its loops once. */
__noinline __u64 table_find(const struct tuple *key, const volatile struct spot *spot, __u32 kinds, __u32 except)
{
	struct tags *tags_of;
	struct group *g;
	struct conn *c;
	__u32 number;
	__u64 tops;

	if (!key || !spot)
		return 0;
	number = spot->group;
	for (int turn = 0; turn < 2; turn++) {
		tags_of = at(&tags, number);
		if (!tags_of)
			return 0;
		for (__u32 i = 0; i < TAG_WORDS; i++) {
			__u32 w = (spot->word + i) & (TAG_WORDS - 1);

			tops = zero_bytes(tags_of->word[w] ^ BYTES(spot->tag));
			for (__u32 j = 0; j < 8 && tops; j++) {
				__u32 taken = 1 + number * GROUP_SLOTS + place_of(w, tops), life;

				tops &= tops - 1;
				c = conn_at(taken - 1);
				if (!c || taken == except)
					continue;
				life = *(volatile __u32 *)&c->life;
				if ((KINDS(life & 0xf) & kinds) && slot_has(c, key))
					return (__u64)life << 32 | taken;
			}
		}
		g = at(&groups, number);
		if (!g || !g->spilled)
			return 0;
		number = spot->other;
	}
	return 0;
}

/* What table_find would answer if the first tag that fits is the right one; else 0. */
static __always_inline __u64 table_peek(const struct tuple *key, const struct spot *spot)
{
	struct tags *tags_of = at(&tags, spot->group);
	__u32 number, life;
	struct conn *c;
	__u64 tops;

	if (!tags_of)
		return 0;
	tops = zero_bytes(tags_of->word[spot->word] ^ BYTES(spot->tag));
	if (!tops)
		return 0;
	number = spot->group * GROUP_SLOTS + place_of(spot->word, tops);
	c = conn_at(number);
	if (!c)
		return 0;
	life = *(volatile __u32 *)&c->life;
	if (!(KINDS(life & 0xf) & (KINDS(SLOT_CONN) | KINDS(SLOT_BACK))) || !slot_has(c, key))
		return 0;
	return (__u64)life << 32 | (1 + number);
}

/* ---- taking and giving back --------------------------------------------------------------------------------- */

/* A free slot of the group, now held: 1 + its number, or 0. One that was freed just now only if `hurry`. */
__noinline __u32 group_take(__u32 number, __u32 first, int hurry, __u64 now)
{
	struct tags *tags_of = at(&tags, number);
	struct slots *group = at(&slots, number);
	struct group *g = at(&groups, number);

	if (!tags_of || !group || !g)
		return 0;
	for (__u32 i = 0; i < TAG_WORDS; i++) {
		__u32 w = (first + i) & (TAG_WORDS - 1);
		__u64 word = tags_of->word[w], seen, tops = zero_bytes(word);

		for (__u32 j = 0; j < 16 && tops; j++) {
			__u32 place = place_of(w, tops) & (GROUP_SLOTS - 1);
			struct conn *c = &group->slot[place];

			if (hurry || !c->life || past(c->packets + REST_TICKS, now)) {
				seen = __sync_val_compare_and_swap(&tags_of->word[w], word,
								   word | (__u64)TAG_HELD << 8 * (place & 7));
				if (seen == word) {
					__sync_fetch_and_add(&g->used, 1);
					c->life = (c->life & ~0xffffu) + (1u << LIFE_TURN_SHIFT) + SLOT_FILLING;
					return 1 + number * GROUP_SLOTS + place;
				}
				word = seen;	/* others are at it: look again */
				tops = zero_bytes(word);
				continue;
			}
			tops &= tops - 1;
		}
	}
	return 0;
}

/* A free slot for a key, now held: 1 + its number, or 0 when both its groups are full. */
static __always_inline __u32 table_take(const struct spot *spot, int hurry, __u64 now)
{
	struct group *first = at(&groups, spot->group), *other = at(&groups, spot->other);
	__u32 use = spot->group, number;

	if (!first || !other)
		return 0;
	if (first->used >= CROWDED && other->used < first->used)
		use = spot->other;
	number = group_take(use, spot->word, hurry, now);
	if (!number) {
		use ^= spot->group ^ spot->other;
		number = group_take(use, spot->word, hurry, now);
	}
	if (number && use != spot->group)
		__sync_fetch_and_add(&first->spilled, 1);
	return number;
}

/* Let lookups find a held slot. */
static __always_inline void table_publish(__u32 number, __u32 tag)
{
	struct tags *tags_of = at(&tags, number / GROUP_SLOTS);

	if (tags_of)
		__sync_fetch_and_xor(&tags_of->word[number / 8 % TAG_WORDS],
				     (__u64)(tag ^ TAG_HELD) << 8 * (number % 8));
}

/* Give a slot back; the caller alone has it. `keyed`: it could be found, or was to be. */
__noinline int table_give_back(__u32 number, int keyed, __u64 now)
{
	struct tags *tags_of = at(&tags, number / GROUP_SLOTS);
	struct group *g = at(&groups, number / GROUP_SLOTS), *home;
	struct conn *c = conn_at(number);
	struct spot spot;

	if (!tags_of || !g || !c)
		return 0;
	if (keyed) {
		slot_spot(c, &spot);
		home = at(&groups, spot.group);
		if (home && spot.group != number / GROUP_SLOTS)
			__sync_fetch_and_add(&home->spilled, -1);
	}
	c->packets = ticks(now);
	c->life = (c->life & ~0xffffu) | SLOT_FREE;
	__sync_fetch_and_add(&g->used, -1);
	__sync_fetch_and_and(&tags_of->word[number / 8 % TAG_WORDS], ~(0xffull << 8 * (number % 8)));
	return 1;
}
