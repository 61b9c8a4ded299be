"""SCTP as IPVS sees it (facts 3.3)."""

STATES = (
    "NONE", "INIT1", "INIT", "C-SENT", "C-REPLIED", "C-WAIT", "COOKIE", "C-ECHOED", "ESTABLISHED",
    "S-SENT", "S-RECEIVED", "S-ACK-SENT", "REJECTED", "CLOSED",
)  # fmt: skip

# Seconds without a packet after which a connection is forgotten; 61 for those that are not named.
TIMEOUTS = {"NONE": 2, "INIT1": 4, "ESTABLISHED": 900, "REJECTED": 4}


def timeouts_ms() -> tuple[int, ...]:
    """The default timeouts by state number, in milliseconds."""
    return tuple(TIMEOUTS.get(state, 61) * 1000 for state in STATES)
