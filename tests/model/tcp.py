"""TCP's states for the model: what the next state is, and how long it lasts, with secure_tcp and without.

The tables stand as people read them: a row is the present state, the columns say what follows a packet with
SYN, FIN, ACK and RST.
"""

from collections.abc import Set

_STATES = """
NONE ESTABLISHED SYN_SENT SYN_RECV FIN_WAIT TIME_WAIT CLOSE CLOSE_WAIT LAST_ACK LISTEN SYNACK
"""

_INPUT = """
                SYN          FIN         ACK          RST
NONE            SYN_RECV     CLOSE       ESTABLISHED  CLOSE
ESTABLISHED     ESTABLISHED  CLOSE_WAIT  ESTABLISHED  CLOSE
SYN_SENT        ESTABLISHED  SYN_SENT    SYN_SENT     CLOSE
SYN_RECV        SYN_RECV     TIME_WAIT   ESTABLISHED  SYN_RECV
FIN_WAIT        SYN_RECV     TIME_WAIT   FIN_WAIT     CLOSE
TIME_WAIT       SYN_RECV     TIME_WAIT   TIME_WAIT    CLOSE
CLOSE           SYN_RECV     CLOSE       CLOSE        CLOSE
CLOSE_WAIT      SYN_RECV     CLOSE_WAIT  CLOSE_WAIT   CLOSE
LAST_ACK        SYN_RECV     LAST_ACK    CLOSE        LAST_ACK
LISTEN          SYN_RECV     LISTEN      LISTEN       LISTEN
SYNACK          SYN_RECV     TIME_WAIT   ESTABLISHED  SYN_RECV
"""

_OUTPUT = """
                SYN          FIN         ACK          RST
NONE            SYN_SENT     TIME_WAIT   ESTABLISHED  CLOSE
ESTABLISHED     ESTABLISHED  FIN_WAIT    ESTABLISHED  CLOSE
SYN_SENT        SYN_SENT     SYN_SENT    SYN_SENT     SYN_SENT
SYN_RECV        SYN_RECV     TIME_WAIT   ESTABLISHED  CLOSE
FIN_WAIT        SYN_SENT     FIN_WAIT    FIN_WAIT     CLOSE
TIME_WAIT       SYN_SENT     TIME_WAIT   TIME_WAIT    TIME_WAIT
CLOSE           SYN_SENT     CLOSE       CLOSE        CLOSE
CLOSE_WAIT      SYN_SENT     TIME_WAIT   CLOSE_WAIT   CLOSE
LAST_ACK        SYN_SENT     LAST_ACK    LAST_ACK     CLOSE
LISTEN          LISTEN       LISTEN      ESTABLISHED  CLOSE
SYNACK          SYN_RECV     TIME_WAIT   ESTABLISHED  CLOSE
"""

# A director that sees only one side.
_INPUT_ONLY = """
                SYN          FIN         ACK          RST
NONE            SYN_RECV     CLOSE       ESTABLISHED  CLOSE
ESTABLISHED     ESTABLISHED  FIN_WAIT    ESTABLISHED  CLOSE
SYN_SENT        ESTABLISHED  SYN_SENT    SYN_SENT     CLOSE
SYN_RECV        SYN_RECV     TIME_WAIT   ESTABLISHED  SYN_RECV
FIN_WAIT        SYN_RECV     FIN_WAIT    FIN_WAIT     CLOSE
TIME_WAIT       SYN_RECV     TIME_WAIT   TIME_WAIT    CLOSE
CLOSE           SYN_RECV     CLOSE       CLOSE        CLOSE
CLOSE_WAIT      SYN_RECV     CLOSE_WAIT  CLOSE_WAIT   CLOSE
LAST_ACK        SYN_RECV     LAST_ACK    CLOSE        LAST_ACK
LISTEN          SYN_RECV     LISTEN      LISTEN       LISTEN
SYNACK          SYN_RECV     TIME_WAIT   ESTABLISHED  CLOSE
"""

# What secure_tcp makes different.
_SECURE = """
INPUT       SYNACK      SYN  SYNACK
INPUT       SYNACK      FIN  SYNACK
INPUT       SYN_RECV    ACK  SYN_RECV
INPUT       SYNACK      ACK  SYNACK
INPUT       SYNACK      RST  CLOSE
OUTPUT      SYN_RECV    SYN  SYNACK
OUTPUT      SYNACK      SYN  SYNACK
INPUT_ONLY  NONE        SYN  SYNACK
INPUT_ONLY  FIN_WAIT    SYN  SYNACK
INPUT_ONLY  TIME_WAIT   SYN  SYNACK
INPUT_ONLY  CLOSE       SYN  SYNACK
INPUT_ONLY  CLOSE_WAIT  SYN  SYNACK
INPUT_ONLY  LAST_ACK    SYN  SYNACK
INPUT_ONLY  LISTEN      SYN  SYNACK
INPUT_ONLY  SYNACK      SYN  SYNACK
"""


def _read(table: str) -> dict[tuple[str, str], str]:
    """(state, event) -> next state."""
    (*events,), *rows = (line.split() for line in table.strip().splitlines())
    return {(row[0], event): following for row in rows for event, following in zip(events, row[1:], strict=True)}


STATES = tuple(_STATES.split())
NEXT = {"INPUT": _read(_INPUT), "OUTPUT": _read(_OUTPUT), "INPUT_ONLY": _read(_INPUT_ONLY)}
SECURE = {
    (direction, state, event): following
    for direction, state, event, following in (line.split() for line in _SECURE.strip().splitlines())
}
SECONDS = {
    "NONE": 2, "ESTABLISHED": 900, "SYN_SENT": 120, "SYN_RECV": 60, "FIN_WAIT": 120, "TIME_WAIT": 120, "CLOSE": 10,
    "CLOSE_WAIT": 60, "LAST_ACK": 30, "LISTEN": 120, "SYNACK": 120,
}  # fmt: skip
ACTIVE = {"ESTABLISHED", "SYN_SENT", "SYN_RECV", "SYNACK"}


def next_state(direction: str, state: str, flags: Set[str], secure: bool = False) -> str:
    """The state after a packet; RST counts before SYN before FIN before ACK, and none of them closes."""
    for event in ("RST", "SYN", "FIN", "ACK"):
        if event in flags:
            if secure and (direction, state, event) in SECURE:
                return SECURE[direction, state, event]
            return NEXT[direction][state, event]
    return "CLOSE"
