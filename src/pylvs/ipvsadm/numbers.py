"""Numbers as ipvsadm reads them: C's `strtol`, decimal only, and `atoi`."""

LONG_MIN, LONG_MAX = -(1 << 63), (1 << 63) - 1
INT_MAX = (1 << 31) - 1
UINT_MAX = (1 << 32) - 1

_SPACE = " \t\n\v\f\r"
_DIGITS = frozenset("0123456789")  # str.isdigit() knows more digits than C does


def strtol(text: str) -> tuple[int, str, bool]:
    """The number a text begins with, what follows it, and whether there was one.

    Too large a number is given as it is: the caller has a limit anyway.
    """
    rest = text.lstrip(_SPACE)
    sign = -1 if rest.startswith("-") else 1
    if rest[:1] in ("+", "-"):
        rest = rest[1:]
    end = 0
    while end < len(rest) and rest[end] in _DIGITS:
        end += 1
    if not end:
        return 0, text, False
    # Python refuses to convert thousands of digits; all that many are out of any range.
    digits = rest[:end].lstrip("0")[:40] or "0"
    return sign * int(digits), rest[end:], True


def number(text: str, low: int, high: int) -> int | None:
    """The whole text as a number in a range, or None."""
    value, rest, found = strtol(text)
    return value if found and not rest and low <= value <= high else None


def atoi(text: str) -> int:
    """C's atoi, which finds no fault with anything."""
    value = max(LONG_MIN, min(LONG_MAX, strtol(text)[0]))
    return signed32(value)


def signed32(value: int) -> int:
    """The value as a C `int` holds it."""
    return ((value + (1 << 31)) & UINT_MAX) - (1 << 31)
