"""Where a SIP message's Call-ID stands (facts 5.5), as a table of states: the packet path reads a message through it,
one byte at a time, and so does `call_id` here.

What counts as a header line, and how its value ends, is as generous and as strict as in kernel IPVS: the first line of
a message is none; a line ends with CR, LF or both; a header may stand under its short name `i`; its value may begin in
a line that continues it; it is one word, or two with an @ between them.
"""

import string

MOST = 255  # bytes of a Call-ID
READ = 4096  # bytes of a message in which it is looked for: SIP_READ of the packet path

_NAME = "call-id"
STATES = (
    "TEXT",  # somewhere in a line
    "CR", "LINE",  # behind a CR; at the first character of a line
    *(f"NAME{length}" for length in range(1, len(_NAME))),  # within what may be the header's name
    "COMPACT",  # behind what may be its short name
    "COLON", "COLON_CR", "COLON_LF", "COLON_FOLDED",  # before the colon, there at a line's end, in the next line
    "VALUE", "VALUE_CR", "VALUE_LF", "VALUE_FOLDED",  # the same before the value
    "WORD", "AT", "DOMAIN",  # in the value, behind its @, further on
    "NOTHING",  # a value that is none: the search goes on
    "FOUND", "FAILED",
)  # fmt: skip
CLASSES = ("cr", "lf", "blank", ":", "@", "-", "c", "a", "l", "i", "d", "letter", "word", "other")

_WORD = frozenset(string.ascii_letters + string.digits + "!\"%()*+:<>?[\\]_`{}~-./'")


def _class_of(code: int) -> str:
    character = chr(code).lower() if code < 128 else ""
    named = {"\r": "cr", "\n": "lf", " ": "blank", "\t": "blank"}.get(character, character)
    if named and named in CLASSES:
        return named
    if character and character in string.ascii_lowercase:
        return "letter"
    return "word" if character and character in _WORD else "other"


def _in_text(kind: str) -> str:
    return {"cr": "CR", "lf": "LINE"}.get(kind, "TEXT")


def _at_line(kind: str) -> str:
    """The first character of a line; it never ends one."""
    return {"c": "NAME1", "i": "COMPACT"}.get(kind, "TEXT")


def _before(what: str, kind: str, other: str) -> str:
    """Blanks before the colon or the value, which may go on in the next line."""
    return {"blank": what, "cr": f"{what}_CR", "lf": f"{what}_LF"}.get(kind, other)


def _next(state: str, kind: str) -> str:
    is_word = kind not in ("cr", "lf", "blank", "@", "other")
    colon = "VALUE" if kind == ":" else "FAILED"
    value = "WORD" if is_word else "NOTHING"
    if state == "CR":
        return "LINE" if kind == "lf" else _at_line(kind)
    if state == "LINE":
        return _at_line(kind)
    if state.startswith("NAME"):
        matched = int(state.removeprefix("NAME"))
        if kind != _NAME[matched]:
            return _in_text(kind)
        return "COLON" if matched + 1 == len(_NAME) else f"NAME{matched + 1}"
    if state == "COMPACT" and (kind == "letter" or kind in "calid"):
        return "TEXT"
    if state in ("COMPACT", "COLON"):
        return _before("COLON", kind, colon)
    if state == "VALUE":
        return _before("VALUE", kind, value)
    if state in ("COLON_CR", "VALUE_CR") and kind == "lf":
        return state.replace("CR", "LF")
    if state.endswith(("_CR", "_LF")):
        return f"{state[:-3]}_FOLDED" if kind == "blank" else "FAILED"
    if state.endswith("_FOLDED"):
        return state if kind == "blank" else value if state.startswith("VALUE") else colon
    if state in ("WORD", "AT", "DOMAIN"):
        if is_word:
            return "WORD" if state == "WORD" else "DOMAIN"
        if state == "AT":
            return "NOTHING"
        return "AT" if state == "WORD" and kind == "@" else "FOUND" if kind in ("cr", "lf") else "FAILED"
    return _in_text(kind)


def classes_bytes() -> bytes:
    """The class of every character."""
    return bytes(CLASSES.index(_class_of(code)) for code in range(256))


def table_bytes() -> bytes:
    """The next state for every state and class of a character; 16 classes in a row."""
    rows = ([STATES.index(_next(state, kind)) for kind in CLASSES] for state in STATES)
    return b"".join(bytes(row).ljust(16, b"\0") for row in rows)


def call_id(message: bytes) -> bytes | None:
    """The Call-ID of a SIP message.

    Args:
        message: the datagram's payload.

    Returns:
        Its bytes as they stand there, 1 to 255; None: there is none by which the kernel would know a call.
    """
    classes, table = classes_bytes(), table_bytes()
    nothing, word, found, failed = map(STATES.index, ("NOTHING", "WORD", "FOUND", "FAILED"))
    before = range(STATES.index("VALUE"), word)
    state = start = skip = 0
    for place, code in enumerate(message[:READ]):
        if place < skip:
            continue
        if state in before:
            start = place
        state = table[state * 16 + classes[code]]
        if state == nothing:
            skip += start  # the kernel adds up where it stood, and leaves out what is before that
            state = table[classes[code]] if place >= skip else 0
        if state == found:
            return message[start:place] if place - start <= MOST else None
        if state == failed:
            return None
    return None
