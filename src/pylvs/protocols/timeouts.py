"""Every state's timeout by its name, as people write it: tcp.ESTABLISHED=600.

`ipvsadm --set` reaches three of them (facts 3.5); all others are ours.
"""

from collections.abc import Iterable

from pylvs.errors import InvalidValue
from pylvs.protocols import sctp, tcp, udp

Place = tuple[str, str]
"""A protocol and one of its states."""

LEAST, MOST = 1, 2_250_000
"""Seconds. A connection's clock tells what is less than 26 days away."""

PLACES: tuple[Place, ...] = (
    *(("tcp", state) for state in tcp.STATES),
    *(("udp", state) for state in udp.STATES),
    *(("sctp", state) for state in sctp.STATES),
)
"""In the packet path's order."""

DEFAULTS_MS = (*tcp.timeouts_ms(), udp.TIMEOUT * 1000, *sctp.timeouts_ms())
"""Milliseconds, in the same order."""

_SPECIMEN = "write tcp.ESTABLISHED=600"


def place(protocol: str, state: str) -> Place:
    """What two names mean, in whichever case.

    Raises:
        InvalidValue: there is no such protocol or state.
    """
    found = (protocol.lower(), state.upper())
    if found not in PLACES:
        states = [name for known, name in PLACES if known == found[0]]
        if not states:
            raise InvalidValue(f"protocol '{protocol}' has no timeouts; use tcp, udp or sctp")
        raise InvalidValue(f"{found[0]} has no state '{state}'; it has {', '.join(states)}")
    return found


def checked(where: Place, seconds: int) -> int:
    """A timeout that a state may have.

    Raises:
        InvalidValue: it is out of range.
    """
    if not LEAST <= seconds <= MOST:
        raise InvalidValue(f"the timeout {seconds} s of {'.'.join(where)} is out of range; it may be {LEAST} to {MOST}")
    return seconds


def parse(words: Iterable[str]) -> dict[Place, int]:
    """Assignments as they stand on a command line: tcp.ESTABLISHED=600, udp=60, sctp.INIT=default.

    Returns:
        Seconds by place.

    Raises:
        InvalidValue: one makes no sense, or two are about the same state.
    """
    found: dict[Place, int] = {}
    for word in words:
        name, equals, value = word.partition("=")
        protocol, dot, state = name.partition(".")
        if not equals or not (dot or protocol.lower() == "udp"):
            raise InvalidValue(f"'{word}' sets no timeout; {_SPECIMEN}")
        where = place(protocol, state if dot else "UDP")
        if where in found:
            raise InvalidValue(f"{'.'.join(where)} is set twice; once is enough")
        if value == "default":
            seconds = DEFAULTS_MS[PLACES.index(where)] // 1000
        elif value.isascii() and value.isdigit():
            seconds = int(value[:20])
        else:
            raise InvalidValue(f"'{value}' is no number of seconds; {_SPECIMEN}, or tcp.ESTABLISHED=default")
        found[where] = checked(where, seconds)
    return found
