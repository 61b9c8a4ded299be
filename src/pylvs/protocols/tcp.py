"""TCP as IPVS sees it (facts 3.1).

Rules of this file: the tables are the specification, in the specification's own form; nothing is computed but their
transfer into the packet path.

A row is one kind of packet, its columns the states it may meet, each cell the state that follows.
"""

STATES = (
    "NONE", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT", "TIME_WAIT",
    "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "SYNACK",
)  # fmt: skip

# Seconds without a packet after which a connection is forgotten.
TIMEOUTS = {
    "NONE": 2, "ESTABLISHED": 900, "SYN_SENT": 120, "SYN_RECV": 60, "FIN_WAIT": 120, "TIME_WAIT": 120,
    "CLOSE": 10, "CLOSE_WAIT": 60, "LAST_ACK": 30, "LISTEN": 120, "SYNACK": 120,
}  # fmt: skip

# The states that `ActiveConn` counts (facts 2.8).
ACTIVE = ("ESTABLISHED", "SYN_SENT", "SYN_RECV", "SYNACK")
HALF_OPEN = ("SYN_SENT", "SYN_RECV", "SYNACK")
# What drop_entry does (facts 9.4): 1 drops a connection in this state, 2 some of those that have been idle.
THINNED = {"SYN_RECV": 1, "SYNACK": 1, "ESTABLISHED": 2}

DIRECTIONS = ("INPUT", "OUTPUT", "INPUT_ONLY")
EVENTS = ("SYN", "FIN", "ACK", "RST")

# direction -> event -> the next state's number, for the current states 0..10 in order
NORMAL = {
    "INPUT": {
        "SYN": (3, 1, 1, 3, 3, 3, 3, 3, 3, 3, 3),
        "FIN": (6, 7, 2, 5, 5, 5, 6, 7, 8, 9, 5),
        "ACK": (1, 1, 2, 1, 4, 5, 6, 7, 6, 9, 1),
        "RST": (6, 6, 6, 3, 6, 6, 6, 6, 8, 9, 3),
    },
    "OUTPUT": {
        "SYN": (2, 1, 2, 3, 2, 2, 2, 2, 2, 9, 3),
        "FIN": (5, 4, 2, 5, 4, 5, 6, 5, 8, 9, 5),
        "ACK": (1, 1, 2, 1, 4, 5, 6, 7, 8, 1, 1),
        "RST": (6, 6, 2, 6, 6, 5, 6, 6, 6, 6, 6),
    },
    "INPUT_ONLY": {
        "SYN": (3, 1, 1, 3, 3, 3, 3, 3, 3, 3, 3),
        "FIN": (6, 4, 2, 5, 4, 5, 6, 7, 8, 9, 5),
        "ACK": (1, 1, 2, 1, 4, 5, 6, 7, 6, 9, 1),
        "RST": (6, 6, 6, 3, 6, 6, 6, 6, 8, 9, 6),
    },
}

# The table in force while secure_tcp defends (facts 9.4): no handshake is over before the real server has had its say.
SECURE = {
    "INPUT": {
        "SYN": (3, 1, 1, 3, 3, 3, 3, 3, 3, 3, 10),
        "FIN": (6, 7, 2, 5, 5, 5, 6, 7, 8, 9, 10),
        "ACK": (1, 1, 2, 3, 4, 5, 6, 7, 6, 9, 10),
        "RST": (6, 6, 6, 3, 6, 6, 6, 6, 8, 9, 6),
    },
    "OUTPUT": {
        "SYN": (2, 1, 2, 10, 2, 2, 2, 2, 2, 9, 10),
        "FIN": (5, 4, 2, 5, 4, 5, 6, 5, 8, 9, 5),
        "ACK": (1, 1, 2, 1, 4, 5, 6, 7, 8, 1, 1),
        "RST": (6, 6, 2, 6, 6, 5, 6, 6, 6, 6, 6),
    },
    "INPUT_ONLY": {
        "SYN": (10, 1, 1, 3, 10, 10, 10, 10, 10, 10, 10),
        "FIN": (6, 4, 2, 5, 4, 5, 6, 7, 8, 9, 5),
        "ACK": (1, 1, 2, 1, 4, 5, 6, 7, 6, 9, 1),
        "RST": (6, 6, 6, 3, 6, 6, 6, 6, 8, 9, 6),
    },
}


def table_bytes() -> bytes:
    """The transitions in the packet path's order: table (normal, secure), direction, event, current state."""
    return b"".join(
        bytes(table[direction][event]) for table in (NORMAL, SECURE) for direction in DIRECTIONS for event in EVENTS
    )


def active_bytes() -> bytes:
    """One byte for each state: does it count as active?"""
    return bytes(state in ACTIVE for state in STATES)


def half_open_bytes() -> bytes:
    """One byte for each state: does a connection in it give way when there is no room for a new one?"""
    return bytes(state in HALF_OPEN for state in STATES)


def thinned_bytes() -> bytes:
    """One byte for each state: what drop_entry does to a connection in it."""
    return bytes(THINNED.get(state, 0) for state in STATES)


def timeouts_ms() -> tuple[int, ...]:
    """The default timeouts by state number, in milliseconds."""
    return tuple(TIMEOUTS[state] * 1000 for state in STATES)
