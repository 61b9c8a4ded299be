"""SCTP's states for the model: what the next state is, and how long it lasts without a packet.

The tables stand as people read them: a row is the present state, the columns say what follows a packet whose first
chunk is of that kind. COMPLETE is SHUTDOWN_COMPLETE, DOWN_ACK is SHUTDOWN_ACK.
"""
# ruff: noqa: E501

_INPUT = """
           DATA        INIT        INIT_ACK    COOKIE_ECHO COOKIE_ACK  SHUTDOWN    DOWN_ACK    COMPLETE    ERROR       ABORT
NONE       ESTABLISHED INIT1       C-WAIT      C-REPLIED   ESTABLISHED S-RECEIVED  CLOSED      CLOSED      CLOSED      CLOSED
INIT1      INIT1       INIT        C-WAIT      INIT        INIT1       INIT1       INIT        CLOSED      INIT1       CLOSED
INIT       INIT        INIT        C-WAIT      INIT        INIT        INIT        INIT        CLOSED      INIT        CLOSED
C-SENT     C-SENT      C-SENT      C-SENT      C-REPLIED   C-SENT      C-SENT      C-SENT      C-SENT      C-SENT      CLOSED
C-REPLIED  C-REPLIED   C-REPLIED   C-REPLIED   C-REPLIED   C-REPLIED   C-REPLIED   C-REPLIED   C-REPLIED   C-REPLIED   CLOSED
C-WAIT     C-WAIT      C-WAIT      COOKIE      C-WAIT      C-WAIT      C-WAIT      C-WAIT      C-WAIT      C-WAIT      REJECTED
COOKIE     COOKIE      COOKIE      COOKIE      COOKIE      COOKIE      COOKIE      COOKIE      COOKIE      COOKIE      CLOSED
C-ECHOED   C-ECHOED    C-ECHOED    C-ECHOED    C-ECHOED    ESTABLISHED C-ECHOED    C-ECHOED    C-ECHOED    CLOSED      CLOSED
ESTABLISHED ESTABLISHED ESTABLISHED ESTABLISHED ESTABLISHED ESTABLISHED S-RECEIVED  ESTABLISHED ESTABLISHED ESTABLISHED CLOSED
S-SENT     S-SENT      S-SENT      S-SENT      S-SENT      S-SENT      S-SENT      CLOSED      S-SENT      S-SENT      CLOSED
S-RECEIVED S-RECEIVED  S-RECEIVED  S-RECEIVED  S-RECEIVED  S-RECEIVED  S-RECEIVED  S-RECEIVED  S-RECEIVED  S-RECEIVED  CLOSED
S-ACK-SENT S-ACK-SENT  S-ACK-SENT  S-ACK-SENT  S-ACK-SENT  S-ACK-SENT  S-ACK-SENT  CLOSED      CLOSED      S-ACK-SENT  CLOSED
REJECTED   REJECTED    INIT        REJECTED    REJECTED    REJECTED    REJECTED    REJECTED    REJECTED    REJECTED    CLOSED
CLOSED     CLOSED      INIT        CLOSED      CLOSED      CLOSED      CLOSED      CLOSED      CLOSED      CLOSED      CLOSED
"""

_OUTPUT = """
           DATA        INIT        INIT_ACK    COOKIE_ECHO COOKIE_ACK  SHUTDOWN    DOWN_ACK    COMPLETE    ERROR       ABORT
NONE       ESTABLISHED C-WAIT      C-SENT      C-ECHOED    ESTABLISHED S-SENT      S-ACK-SENT  CLOSED      CLOSED      CLOSED
INIT1      INIT1       C-WAIT      C-SENT      C-ECHOED    ESTABLISHED S-SENT      S-ACK-SENT  INIT1       CLOSED      REJECTED
INIT       INIT        C-WAIT      C-SENT      C-ECHOED    ESTABLISHED S-SENT      S-ACK-SENT  INIT        CLOSED      CLOSED
C-SENT     C-SENT      C-WAIT      C-SENT      C-ECHOED    ESTABLISHED S-SENT      S-ACK-SENT  C-SENT      CLOSED      CLOSED
C-REPLIED  C-REPLIED   C-WAIT      C-REPLIED   C-ECHOED    ESTABLISHED S-SENT      S-ACK-SENT  C-REPLIED   CLOSED      CLOSED
C-WAIT     C-WAIT      C-WAIT      C-WAIT      C-ECHOED    ESTABLISHED S-SENT      C-WAIT      C-WAIT      C-WAIT      CLOSED
COOKIE     COOKIE      C-WAIT      COOKIE      C-ECHOED    ESTABLISHED S-SENT      COOKIE      COOKIE      COOKIE      CLOSED
C-ECHOED   C-ECHOED    C-WAIT      C-ECHOED    C-ECHOED    ESTABLISHED S-SENT      C-ECHOED    C-ECHOED    C-ECHOED    CLOSED
ESTABLISHED ESTABLISHED ESTABLISHED ESTABLISHED ESTABLISHED ESTABLISHED S-SENT      ESTABLISHED ESTABLISHED ESTABLISHED CLOSED
S-SENT     S-SENT      C-WAIT      S-SENT      S-SENT      S-SENT      S-SENT      S-ACK-SENT  S-SENT      S-SENT      CLOSED
S-RECEIVED S-RECEIVED  C-WAIT      S-RECEIVED  S-RECEIVED  S-RECEIVED  S-RECEIVED  S-ACK-SENT  S-RECEIVED  S-RECEIVED  CLOSED
S-ACK-SENT S-ACK-SENT  C-WAIT      S-ACK-SENT  S-ACK-SENT  S-ACK-SENT  S-ACK-SENT  S-ACK-SENT  S-ACK-SENT  S-ACK-SENT  CLOSED
REJECTED   REJECTED    C-WAIT      REJECTED    REJECTED    REJECTED    REJECTED    REJECTED    REJECTED    REJECTED    CLOSED
CLOSED     CLOSED      C-WAIT      CLOSED      CLOSED      CLOSED      CLOSED      CLOSED      CLOSED      CLOSED      CLOSED
"""

# A director that sees only one side.
_INPUT_ONLY = """
           DATA        INIT        INIT_ACK    COOKIE_ECHO COOKIE_ACK  SHUTDOWN    DOWN_ACK    COMPLETE    ERROR       ABORT
NONE       ESTABLISHED INIT1       C-ECHOED    ESTABLISHED ESTABLISHED S-RECEIVED  CLOSED      CLOSED      CLOSED      CLOSED
INIT1      INIT1       INIT        C-ECHOED    ESTABLISHED INIT1       INIT1       INIT        CLOSED      INIT1       CLOSED
INIT       INIT        INIT        C-ECHOED    ESTABLISHED INIT        INIT        INIT        CLOSED      INIT        CLOSED
C-SENT     C-SENT      INIT        C-ECHOED    ESTABLISHED ESTABLISHED C-SENT      C-SENT      CLOSED      C-SENT      CLOSED
C-REPLIED  C-REPLIED   INIT        C-ECHOED    ESTABLISHED ESTABLISHED C-REPLIED   C-REPLIED   CLOSED      C-REPLIED   CLOSED
C-WAIT     ESTABLISHED INIT        C-ECHOED    ESTABLISHED C-WAIT      C-WAIT      C-WAIT      C-WAIT      C-WAIT      REJECTED
COOKIE     COOKIE      COOKIE      COOKIE      COOKIE      ESTABLISHED COOKIE      COOKIE      COOKIE      COOKIE      CLOSED
C-ECHOED   C-ECHOED    C-ECHOED    C-ECHOED    C-ECHOED    ESTABLISHED C-ECHOED    C-ECHOED    C-ECHOED    C-ECHOED    CLOSED
ESTABLISHED ESTABLISHED ESTABLISHED ESTABLISHED ESTABLISHED ESTABLISHED S-RECEIVED  CLOSED      ESTABLISHED ESTABLISHED CLOSED
S-SENT     S-SENT      S-SENT      S-SENT      S-SENT      S-SENT      S-SENT      CLOSED      S-SENT      S-SENT      CLOSED
S-RECEIVED S-RECEIVED  S-RECEIVED  S-RECEIVED  S-RECEIVED  S-RECEIVED  S-RECEIVED  S-RECEIVED  CLOSED      S-RECEIVED  CLOSED
S-ACK-SENT S-ACK-SENT  S-ACK-SENT  S-ACK-SENT  S-ACK-SENT  S-ACK-SENT  S-ACK-SENT  CLOSED      CLOSED      S-ACK-SENT  CLOSED
REJECTED   REJECTED    INIT        REJECTED    REJECTED    REJECTED    REJECTED    REJECTED    REJECTED    REJECTED    CLOSED
CLOSED     CLOSED      INIT        CLOSED      CLOSED      CLOSED      CLOSED      CLOSED      CLOSED      CLOSED      CLOSED
"""


def _read(table: str) -> dict[tuple[str, str], str]:
    """(state, event) -> next state."""
    (*events,), *rows = (line.split() for line in table.strip().splitlines())
    return {(row[0], event): following for row in rows for event, following in zip(events, row[1:], strict=True)}


NEXT = {"INPUT": _read(_INPUT), "OUTPUT": _read(_OUTPUT), "INPUT_ONLY": _read(_INPUT_ONLY)}
STATES = tuple(dict.fromkeys(state for state, _ in NEXT["INPUT"]))
EVENTS = tuple(dict.fromkeys(event for _, event in NEXT["INPUT"]))
SECONDS = {state: {"NONE": 2, "INIT1": 4, "ESTABLISHED": 900, "REJECTED": 4}.get(state, 61) for state in STATES}
ACTIVE = {"ESTABLISHED"}
_KINDS = {
    1: "INIT", 2: "INIT_ACK", 6: "ABORT", 7: "SHUTDOWN", 8: "DOWN_ACK", 9: "ERROR", 10: "COOKIE_ECHO", 11: "COOKIE_ACK",
    14: "COMPLETE",
}  # fmt: skip


def event_of(chunks: bytes) -> str:
    """What a packet's chunks mean; "" is nothing at all. Of all of them the first one counts, but for an ABORT behind
    a cookie."""
    if len(chunks) < 4:
        return ""
    event = _KINDS.get(chunks[0], "DATA")
    if event.startswith("COOKIE"):
        length = int.from_bytes(chunks[2:4], "big")
        behind = chunks[-(-length // 4) * 4 :]
        if length >= 4 and len(behind) >= 4 and behind[0] == 6:
            return "ABORT"
    return event


def next_state(direction: str, state: str, event: str) -> str:
    """The state after a packet of some event."""
    return NEXT[direction][state, event] if event else state
