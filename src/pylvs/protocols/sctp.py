"""SCTP as IPVS sees it (facts 3.3).

Rules of this file: the tables are the specification, in the specification's own form; nothing is computed but their
transfer into the packet path.

A row is one kind of packet, its columns the states it may meet, each cell the state that follows.
"""

import struct

STATES = (
    "NONE", "INIT1", "INIT", "C-SENT", "C-REPLIED", "C-WAIT", "COOKIE", "C-ECHOED", "ESTABLISHED",
    "S-SENT", "S-RECEIVED", "S-ACK-SENT", "REJECTED", "CLOSED",
)  # fmt: skip

# Seconds without a packet after which a connection is forgotten; 61 for those that are not named.
TIMEOUTS = {"NONE": 2, "INIT1": 4, "ESTABLISHED": 900, "REJECTED": 4}

# The state that `ActiveConn` counts (facts 2.8).
ACTIVE = ("ESTABLISHED",)
# All that come before it, whoever began: as with TCP, a flood of openings takes no place for long, and costs at most
# associations whose handshake is not over, which their client begins anew.
HALF_OPEN = ("INIT1", "INIT", "C-SENT", "C-REPLIED", "C-WAIT", "COOKIE", "C-ECHOED")

# What drop_entry does (facts 9.4): 1 drops an association in this state, 2 some of those that have been idle.
THINNED = {"INIT1": 1, "INIT": 1, "ESTABLISHED": 2}

DIRECTIONS = ("INPUT", "OUTPUT", "INPUT_ONLY")
EVENTS = (
    "DATA", "INIT", "INIT_ACK", "COOKIE_ECHO", "COOKIE_ACK", "SHUTDOWN", "SHUTDOWN_ACK", "SHUTDOWN_COMPLETE",
    "ERROR", "ABORT",
)  # fmt: skip

# What a first chunk's type means, by its number; higher ones mean DATA.
CHUNKS = (
    "DATA", "INIT", "INIT_ACK", "DATA", "DATA", "DATA", "ABORT", "SHUTDOWN", "SHUTDOWN_ACK", "ERROR", "COOKIE_ECHO",
    "COOKIE_ACK", "DATA", "DATA", "SHUTDOWN_COMPLETE",
)  # fmt: skip

# direction -> event -> the next state's number, for the current states 0..13 in order
NEXT = {
    "INPUT": {
        "DATA": (8, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13),
        "INIT": (1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 2, 2),
        "INIT_ACK": (5, 5, 5, 3, 4, 6, 6, 7, 8, 9, 10, 11, 12, 13),
        "COOKIE_ECHO": (4, 2, 2, 4, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13),
        "COOKIE_ACK": (8, 1, 2, 3, 4, 5, 6, 8, 8, 9, 10, 11, 12, 13),
        "SHUTDOWN": (10, 1, 2, 3, 4, 5, 6, 7, 10, 9, 10, 11, 12, 13),
        "SHUTDOWN_ACK": (13, 2, 2, 3, 4, 5, 6, 7, 8, 13, 10, 13, 12, 13),
        "SHUTDOWN_COMPLETE": (13, 13, 13, 3, 4, 5, 6, 7, 8, 9, 10, 13, 12, 13),
        "ERROR": (13, 1, 2, 3, 4, 5, 6, 13, 8, 9, 10, 11, 12, 13),
        "ABORT": (13, 13, 13, 13, 13, 12, 13, 13, 13, 13, 13, 13, 13, 13),
    },
    "OUTPUT": {
        "DATA": (8, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13),
        "INIT": (5, 5, 5, 5, 5, 5, 5, 5, 8, 5, 5, 5, 5, 5),
        "INIT_ACK": (3, 3, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13),
        "COOKIE_ECHO": (7, 7, 7, 7, 7, 7, 7, 7, 8, 9, 10, 11, 12, 13),
        "COOKIE_ACK": (8, 8, 8, 8, 8, 8, 8, 8, 8, 9, 10, 11, 12, 13),
        "SHUTDOWN": (9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 10, 11, 12, 13),
        "SHUTDOWN_ACK": (11, 11, 11, 11, 11, 5, 6, 7, 8, 11, 11, 11, 12, 13),
        "SHUTDOWN_COMPLETE": (13, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13),
        "ERROR": (13, 13, 13, 13, 13, 5, 6, 7, 8, 9, 10, 11, 12, 13),
        "ABORT": (13, 12, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13),
    },
    "INPUT_ONLY": {
        "DATA": (8, 1, 2, 3, 4, 8, 6, 7, 8, 9, 10, 11, 12, 13),
        "INIT": (1, 2, 2, 2, 2, 2, 6, 7, 8, 9, 10, 11, 2, 2),
        "INIT_ACK": (7, 7, 7, 7, 7, 7, 6, 7, 8, 9, 10, 11, 12, 13),
        "COOKIE_ECHO": (8, 8, 8, 8, 8, 8, 6, 7, 8, 9, 10, 11, 12, 13),
        "COOKIE_ACK": (8, 1, 2, 8, 8, 5, 8, 8, 8, 9, 10, 11, 12, 13),
        "SHUTDOWN": (10, 1, 2, 3, 4, 5, 6, 7, 10, 9, 10, 11, 12, 13),
        "SHUTDOWN_ACK": (13, 2, 2, 3, 4, 5, 6, 7, 13, 13, 10, 13, 12, 13),
        "SHUTDOWN_COMPLETE": (13, 13, 13, 13, 13, 5, 6, 7, 8, 9, 13, 13, 12, 13),
        "ERROR": (13, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13),
        "ABORT": (13, 13, 13, 13, 13, 12, 13, 13, 13, 13, 13, 13, 13, 13),
    },
}


def table_bytes() -> bytes:
    """The transitions in the packet path's order: direction, event, current state."""
    return b"".join(bytes(NEXT[direction][event]) for direction in DIRECTIONS for event in EVENTS)


def chunk_bytes() -> bytes:
    """The event of each type of chunk."""
    return bytes(EVENTS.index(event) for event in CHUNKS)


def active_bytes() -> bytes:
    """One byte for each state: does it count as active?"""
    return bytes(state in ACTIVE for state in STATES)


def half_open_bytes() -> bytes:
    """One byte for each state: does a connection in it give way when there is no room for a new one?"""
    return bytes(state in HALF_OPEN for state in STATES)


def thinned_bytes() -> bytes:
    """One byte for each state: what drop_entry does to an association in it."""
    return bytes(THINNED.get(state, 0) for state in STATES)


def timeouts_ms() -> tuple[int, ...]:
    """The default timeouts by state number, in milliseconds."""
    return tuple(TIMEOUTS.get(state, 61) * 1000 for state in STATES)


def shift_bytes() -> bytes:
    """What becomes of a CRC32c register that runs over 2^n zero bytes, n from 0 to 15: of each of its eight nibbles
    the sixteen values. They are to be added up (exclusive or), since CRCs are linear."""

    def table(columns: list[int]) -> list[int]:
        values = []
        for nibble in range(8):
            for value in range(16):
                bits = [columns[4 * nibble + bit] for bit in range(4) if value >> bit & 1]
                values.append(0)
                for column in bits:
                    values[-1] ^= column
        return values

    def apply(values: list[int], register: int) -> int:
        result = 0
        for nibble in range(8):
            result ^= values[16 * nibble + (register >> 4 * nibble & 15)]
        return result

    columns = [1 << bit for bit in range(32)]
    for _ in range(8):  # one zero byte
        columns = [column >> 1 ^ (0x82F63B78 if column & 1 else 0) for column in columns]
    tables = []
    for _ in range(16):
        values = table(columns)
        tables += values
        columns = [apply(values, column) for column in columns]  # twice as many bytes
    return struct.pack(f"={len(tables)}I", *tables)
