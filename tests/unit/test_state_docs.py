"""docs/states.md shows the tables that the packet path has: it is made from them.

PYLVS_WRITE_DOCS=1 pytest tests/unit/test_state_docs.py      writes it anew after a change
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pylvs.protocols import sctp, tcp, timeouts, udp

PAGE = Path(__file__).parents[2] / "docs" / "states.md"
VARIABLE = "PYLVS_WRITE_DOCS"
HEAD = """\
# States and timeouts

What a connection's state becomes when a packet passes, as in kernel IPVS, and how long it then lives without another.
Made from `pylvs.protocols`; `tests/unit/test_state_docs.py` sees to it that it stays true.

A packet has one of three directions: INPUT from the client, OUTPUT from the real server, and INPUT_ONLY from the client
where no reply has been seen: LVS-DR, until one passes the director after all.

`pylvs timeouts` shows the timeouts in force and sets them; `ipvsadm --set` reaches the three marked with *.
"""
TCP_TEXT = """\
The first of RST, SYN, FIN, ACK that a packet has counts; one with none of them closes. A SYN opens a connection
(by `sloppy_tcp` any packet without RST does), and opens a new one in the place of one in TIME_WAIT or CLOSE.
"""
SECURE_TEXT = """\
While `secure_tcp` defends, these cells are others: a handshake is not over before the real server has had its say.
"""
UDP_TEXT = """\
One state. AH and ESP belong to the connection from UDP port 500 to 500 between the same addresses: they keep it alive,
never open one, and change nothing.
"""
SCTP_TEXT = """\
The first chunk counts; an ABORT also behind a COOKIE_ECHO or COOKIE_ACK. SACK, HEARTBEAT and all others that are not
named count as DATA. A packet without a chunk changes nothing. An INIT opens an association (by `sloppy_sctp` any packet
that does not begin with ABORT does), and opens a new one in the place of one that is CLOSED.
"""
SETTABLE = (("tcp", "ESTABLISHED"), ("tcp", "FIN_WAIT"), ("udp", "UDP"))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def states(protocol: str, active: Sequence[str], half_open: Sequence[str]) -> Iterator[str]:
    rows = []
    for (of, state), milliseconds in zip(timeouts.PLACES, timeouts.DEFAULTS_MS, strict=True):
        if of == protocol:
            mark = "*" if (of, state) in SETTABLE else ""
            rows.append(
                (state, f"{milliseconds // 1000}{mark}", "yes" if state in active else "",
                 "yes" if state in half_open else "")
            )  # fmt: skip
    yield from table(("state", "seconds", "ActiveConn", "gives way in a full table"), rows)


def transitions(names: Sequence[str], of: Mapping[str, Mapping[str, Sequence[int]]]) -> Iterator[str]:
    """A dot where nothing changes, so that one sees what does."""
    for direction, events in of.items():
        rows = [
            [name, *(names[after[number]] if after[number] != number else "." for after in events.values())]
            for number, name in enumerate(names)
        ]
        yield from table((direction, *events), rows)


def page() -> str:
    secure = [
        (direction, name, event, tcp.STATES[normal], tcp.STATES[other])
        for direction in tcp.DIRECTIONS
        for event in tcp.EVENTS
        for name, normal, other in zip(
            tcp.STATES, tcp.NORMAL[direction][event], tcp.SECURE[direction][event], strict=True
        )
        if normal != other
    ]
    lines = [HEAD, "## TCP\n", TCP_TEXT, *states("tcp", tcp.ACTIVE, tcp.HALF_OPEN)]
    lines += [*transitions(tcp.STATES, tcp.NORMAL), SECURE_TEXT]
    lines += table(("direction", "state", "event", "normal", "secure_tcp"), secure)
    lines += ["## UDP\n", UDP_TEXT, *states("udp", (), ()), "## SCTP\n", SCTP_TEXT]
    lines += [*states("sctp", sctp.ACTIVE, sctp.HALF_OPEN), *transitions(sctp.STATES, sctp.NEXT)]
    assert udp.STATES == ("UDP",)
    return "\n".join(lines).rstrip() + "\n"


def test_the_page_shows_the_tables() -> None:
    if os.environ.get(VARIABLE):
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page(), f"{VARIABLE}=1 pytest {Path(__file__).name} writes it anew"


def test_a_change_of_a_table_would_show() -> None:
    text = page()
    assert "| SYN_RECV | . | TIME_WAIT | ESTABLISHED | . |" in text
    assert "| INPUT | SYN_RECV | ACK | ESTABLISHED | SYN_RECV |" in text
    assert "| FIN_WAIT | 120* |  |  |" in text
    assert "| C-SENT | 61 |  | yes |" in text
