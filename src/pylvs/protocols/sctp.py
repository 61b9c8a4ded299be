"""SCTP as IPVS sees it (facts 3.3)."""

STATES = (
    "NONE", "INIT1", "INIT", "C-SENT", "C-REPLIED", "C-WAIT", "COOKIE", "C-ECHOED", "ESTABLISHED",
    "S-SENT", "S-RECEIVED", "S-ACK-SENT", "REJECTED", "CLOSED",
)  # fmt: skip

# Seconds without a packet after which a connection is forgotten; 61 for those that are not named.
TIMEOUTS = {"NONE": 2, "INIT1": 4, "ESTABLISHED": 900, "REJECTED": 4}

# What drop_entry does (facts 9.4): 1 drops an association in this state, 2 some of those that have been idle.
THINNED = {"INIT1": 1, "INIT": 1, "ESTABLISHED": 2}


def thinned_bytes() -> bytes:
    """One byte for each state: what drop_entry does to an association in it."""
    return bytes(THINNED.get(state, 0) for state in STATES)


def timeouts_ms() -> tuple[int, ...]:
    """The default timeouts by state number, in milliseconds."""
    return tuple(TIMEOUTS.get(state, 61) * 1000 for state in STATES)
