/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *
 * What the two sides of an FTP control connection say about their connections for data (facts section 10):
 *
 *   the client:       PASV   EPSV   EPSV 1   PORT 10,1,0,1,200,10   EPRT |1|10.1.0.1|51210|
 *   the real server:  227 ... (10,2,0,1,200,10)   229 ... (|||51210|)
 *
 * pylvs.helpers.ftp says the same in Python. A sentence that is split over segments is not understood, and nothing
 * happens; so it is with an address of IPv6 that is written with a piece of IPv4.
 */
#pragma once

/* How much of a segment is read; no sentence that is meant is longer. */
enum {
	FTP_READ = 2048,
	FTP_MARGIN = 16,
	FTP_WIDEST = 64,	/* an address and a port, in an answer */
};

/* Twice as long: what is behind a place in it may be copied as a whole. */
struct ftp_text {
	__u8 byte[2 * FTP_READ];
};

MAP(ftp_text, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct ftp_text, 1, 0);

enum ftp_state {
	FTP_SKIPPING,		/* towards the character before an address */
	FTP_SKIPPED,		/* behind it */
	FTP_NUMBERS,		/* h1,h2,h3,h4,p1,p2 */
	FTP_DELIMITER,		/* behind the first delimiter of |1|address|port| */
	FTP_NO_ADDRESS,		/* behind the second one of |||port| */
	FTP_FAMILY,		/* behind the family */
	FTP_DOTTED,		/* in an address */
	FTP_COLONS,
	FTP_PORT,
	FTP_DONE,
	FTP_WRONG,
};

enum { FTP_NO_GAP = 8 };

/* Where reading has come to, and what it has found. In a map, so that the verifier takes nothing in it for known. */
struct ftp_reading {
	__u32 size;
	__u32 first;		/* where reading begins */
	__u32 state;		/* enum ftp_state */
	__u32 six;		/* the connection is of IPv6 */
	__u32 wide;		/* the form with delimiters is expected */
	__u32 reply;		/* a real server's */
	__u32 opening;		/* the character before the address */
	__u32 delimiter;
	__u32 number;
	__u32 digits;
	__u32 count;		/* numbers that are read */
	__u32 gap;		/* of IPv6: where :: stands */
	__u32 colons;		/* just read */
	__u32 begin;		/* of what is to be replaced */
	__u32 end;
	__u32 asked;		/* 1 + enum ftp_mode */
	__u8 part[8];		/* h1 to p2 */
	__u16 group[8];
	union address address;
	__u16 port;
	__u16 unused;
};

MAP(ftp_readings, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct ftp_reading, 1, 0);

static __always_inline int is_digit(__u8 c)
{
	return c >= '0' && c <= '9';
}

/* The four letters at a place, small. */
static __always_inline __u32 four_letters(const __u8 *text)
{
	return (text[0] | 0x20u) << 24 | (text[1] | 0x20u) << 16 | (text[2] | 0x20u) << 8 | text[3] | 0x20u;
}

#define LETTERS(a, b, c, d) ((__u32)(a) << 24 | (__u32)(b) << 16 | (__u32)(c) << 8 | (__u32)(d))

/* ---- does the client ask for PASV or EPSV? ------------------------------------------------------------------------ */

/* It may stand anywhere in what it says. */
static long ftp_ask_step(__u64 i, void *nothing)
{
	struct ftp_reading *r = at(&ftp_readings, 0);
	struct ftp_text *text = at(&ftp_text, 0);
	const __u8 *c;
	__u32 word;

	if (!r || !text || i >= FTP_READ || i + 6 > r->size)
		return 1;
	c = &text->byte[i];
	word = four_letters(c);
	if (word == LETTERS('p', 'a', 's', 'v') && !r->six && c[4] == '\r' && c[5] == '\n') {
		r->asked = 1 + FTP_PASV;
		return 1;
	}
	if (word != LETTERS('e', 'p', 's', 'v') || (c[4] != '\r' && c[4] != ' '))
		return 0;
	if (c[4] == '\r' || (i + 7 <= r->size && c[5] == (r->six ? '2' : '1') && c[6] == '\r'))
		r->asked = 1 + FTP_EPSV;
	else
		r->asked = 1 + FTP_NOT_ASKED;	/* EPSV ALL, or another family: nothing more is looked for */
	return 1;
}

/* ---- an address and a port ---------------------------------------------------------------------------------------- */

static __always_inline __u32 read_number(struct ftp_reading *r, __u8 c, __u32 most)
{
	if (is_digit(c)) {
		r->number = r->number * 10 + c - '0';
		return r->number <= most;
	}
	return 0;
}

/* One of h1,h2,h3,h4,p1,p2 */
static __always_inline __u32 read_plain(struct ftp_reading *r, __u8 c, __u32 i)
{
	if (is_digit(c))
		return read_number(r, c, 255) ? FTP_NUMBERS : FTP_WRONG;
	r->part[r->count & 7] = r->number;
	r->number = 0;
	r->end = i;
	if (c == ',' && r->count < 5) {
		r->count++;
		return FTP_NUMBERS;
	}
	return r->count == 5 ? FTP_DONE : FTP_WRONG;
}

/* A dotted quad. */
static __always_inline __u32 read_dotted(struct ftp_reading *r, __u8 c)
{
	if (is_digit(c)) {
		r->digits = 1;
		return read_number(r, c, 255) ? FTP_DOTTED : FTP_WRONG;
	}
	if (!r->digits || r->count > 3)
		return FTP_WRONG;
	r->part[r->count & 7] = r->number;
	r->number = r->digits = 0;
	r->count++;
	if (c == '.' && r->count < 4)
		return FTP_DOTTED;
	return c == r->delimiter && r->count == 4 ? FTP_PORT : FTP_WRONG;
}

static __always_inline int hex_digit(__u8 c)
{
	if (is_digit(c))
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Put the groups behind the :: where they belong. */
static __always_inline void read_gap(struct ftp_reading *r)
{
	__u32 gap = r->gap, left = 8 - r->count;

#pragma unroll
	for (int i = 7; i >= 0; i--) {
		__u16 group = r->group[i];

		if (gap == FTP_NO_GAP || (__u32)i < gap)
			continue;
		if ((__u32)i >= gap + left)
			group = r->group[(i - left) & 7];
		else
			group = 0;
		r->group[i] = group;
	}
}

/* Groups of four hexadecimal digits. */
static __always_inline __u32 read_colons(struct ftp_reading *r, __u8 c)
{
	int digit = hex_digit(c);

	if (digit >= 0) {
		/* one colon alone at the beginning belongs to nothing */
		if (++r->digits > 4 || r->count > 7 || (r->colons == 1 && !r->count))
			return FTP_WRONG;
		r->number = r->number << 4 | digit;
		r->colons = 0;
		return FTP_COLONS;
	}
	if (c == r->delimiter && r->colons == 1)
		return FTP_WRONG;
	if (r->digits) {
		r->group[r->count & 7] = bpf_htons(r->number);
		r->count++;
		r->number = r->digits = 0;
	}
	/* a delimiter may be a colon, but then no address would ever end */
	if (c == ':') {
		if (++r->colons == 2 && r->gap == FTP_NO_GAP)
			r->gap = r->count;
		else if (r->colons > 1)
			return FTP_WRONG;
		return FTP_COLONS;
	}
	if (c != r->delimiter || (r->gap == FTP_NO_GAP ? r->count != 8 : r->count > 7))
		return FTP_WRONG;
	return FTP_PORT;
}

/* What follows the character c at place i. */
static __always_inline __u32 read_on(struct ftp_reading *r, __u8 c, __u32 i)
{
	switch (r->state) {
	case FTP_SKIPPING:
		if (c == r->opening)
			return FTP_SKIPPED;
		if (r->wide || !is_digit(c))
			return FTP_SKIPPING;
		r->begin = i;	/* without a parenthesis */
		return read_plain(r, c, i);
	case FTP_SKIPPED:
		if (c == r->opening)
			return FTP_SKIPPED;
		r->begin = i;
		if (!r->wide)
			return read_plain(r, c, i);
		r->delimiter = c;
		return c > 32 && c < 127 ? FTP_DELIMITER : FTP_WRONG;
	case FTP_NUMBERS:
		return read_plain(r, c, i);
	case FTP_DELIMITER:
		if (c == r->delimiter)
			return r->reply ? FTP_NO_ADDRESS : FTP_WRONG;
		return c == (r->six ? '2' : '1') ? FTP_FAMILY : FTP_WRONG;
	case FTP_NO_ADDRESS:
		return c == r->delimiter ? FTP_PORT : FTP_WRONG;
	case FTP_FAMILY:
		return c != r->delimiter ? FTP_WRONG : r->six ? FTP_COLONS : FTP_DOTTED;
	case FTP_DOTTED:
		return read_dotted(r, c);
	case FTP_COLONS:
		return read_colons(r, c);
	case FTP_PORT:
		if (is_digit(c))
			return read_number(r, c, 65535) ? FTP_PORT : FTP_WRONG;
		r->end = i + 1;
		return c == r->delimiter && r->number ? FTP_DONE : FTP_WRONG;
	}
	return FTP_WRONG;
}

static long ftp_read_step(__u64 i, void *nothing)
{
	struct ftp_reading *r = at(&ftp_readings, 0);
	struct ftp_text *text = at(&ftp_text, 0);
	__u32 place;

	if (!r || !text)
		return 1;
	place = r->first + i;
	if (place >= FTP_READ || place >= r->size)
		return 1;
	r->state = read_on(r, text->byte[place], place);
	return r->state >= FTP_DONE;
}

/* Read an address and a port: of the form with delimiters, or of the old one; a real server's, or a client's. 1: there
 * is one, in `ftp_readings`; of |||port| the address is nobody's. */
__noinline int ftp_read(__u32 first, __u32 wide, __u32 reply)
{
	struct ftp_reading *r = at(&ftp_readings, 0);

	if (!r)
		return 0;
	r->first = first;
	r->wide = wide;
	r->reply = reply;
	r->opening = reply ? '(' : ' ';
	r->state = reply ? FTP_SKIPPING : FTP_SKIPPED;
	r->number = r->digits = r->count = r->colons = 0;
	r->gap = FTP_NO_GAP;
	__builtin_memset(&r->address, 0, sizeof(r->address));
	bpf_loop(FTP_READ, ftp_read_step, NULL, 0);
	if (r->state != FTP_DONE)
		return 0;
	if (!wide) {
		__builtin_memcpy(&r->address, r->part, 4);
		r->port = *(__u16 *)(r->part + 4);
		return r->port != 0;
	}
	r->port = bpf_htons(r->number);
	if (r->six) {
		read_gap(r);
		__builtin_memcpy(&r->address, r->group, 16);
	} else {
		__builtin_memcpy(&r->address, r->part, 4);
	}
	return 1;
}

/* What the client says. 1: it asks for something; r->asked says for what, or it is 0 and there are an address and a port
 * to which it wants the connection to come. */
__noinline int ftp_read_client(void)
{
	struct ftp_reading *r = at(&ftp_readings, 0);
	struct ftp_text *text = at(&ftp_text, 0);
	__u32 word;

	if (!r || !text)
		return 0;
	r->asked = 0;
	bpf_loop(FTP_READ, ftp_ask_step, NULL, 0);
	if (r->asked)
		return r->asked != 1 + FTP_NOT_ASKED;
	if (r->size < 6 || text->byte[4] != ' ')
		return 0;
	word = four_letters(text->byte);
	if (word == LETTERS('p', 'o', 'r', 't') && !r->six)
		return ftp_read(4, 0, 0);
	return word == LETTERS('e', 'p', 'r', 't') && ftp_read(4, 1, 0);
}

/* What the real server says at a place, as an answer to what was asked. */
__noinline int ftp_read_server(__u32 first, __u32 mode)
{
	struct ftp_reading *r = at(&ftp_readings, 0);
	struct ftp_text *text = at(&ftp_text, 0);
	const __u8 *c;

	if (!r || !text || first >= FTP_READ - 4)
		return 0;
	c = &text->byte[first];
	if (c[0] != '2' || c[1] != '2' || c[2] != (mode == FTP_PASV ? '7' : '9') || c[3] != ' ')
		return 0;
	return ftp_read(first + 4, mode == FTP_EPSV, 1) && r->end - r->begin <= FTP_WIDEST;
}

/* Take a segment's payload into `ftp_text`. 0: there is none, or it is too long. */
__noinline int ftp_load(struct __sk_buff *skb, __u32 from, __u32 size, __u32 six)
{
	struct ftp_reading *r = at(&ftp_readings, 0);
	struct ftp_text *text = at(&ftp_text, 0);

	if (!r || !text || !size || size > FTP_READ - FTP_MARGIN)
		return 0;
	r->size = size;
	r->six = six;
	__builtin_memset(text->byte, 0, 4);	/* of a short one's letters */
	return !bpf_skb_load_bytes(skb, from, text, within(size, FTP_READ));
}
