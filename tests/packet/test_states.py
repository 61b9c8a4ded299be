"""Every cell of every protocol's table: a connection in each state meets each kind of packet, in each direction.

What follows is looked up in the model's own tables (tests/model), which share nothing with those of the packet path.
"""

from collections.abc import Iterator

import pytest

from model import sctp, tcp
from pylvs.datapath import _layout
from pylvs.datapath._layout import TIMEOUT_SCTP, TIMEOUT_UDP
from pylvs.protocols import sctp as sctp_tables
from pylvs.protocols import tcp as tcp_tables
from pylvs.protocols.timeouts import DEFAULTS_MS, PLACES
from support.books import books
from support.harness import Harness
from support.packets import CHUNKS, SCTP, TCP, UDP, chunk
from support.talk import IPV4, Talk

DIRECTIONS = ("INPUT", "OUTPUT", "INPUT_ONLY")
CHUNK = {
    **{event: event for event in sctp.EVENTS}, "DOWN_ACK": "SHUTDOWN_ACK", "COMPLETE": "SHUTDOWN_COMPLETE",
}  # fmt: skip
FLAGS = {"SYN": "S", "FIN": "F", "ACK": "A", "RST": "R", "none": "U"}
"""One packet for each event; F has an ACK, too, and U is URG alone, which is no event."""
FIRST = 2000


class Cells:
    """A connection for each cell of a table, put into the state that the cell begins with."""

    def __init__(self, lvs: Harness, direction: str, protocol: int, opening: str, cells: list[tuple[str, str]]):
        self.lvs, self.direction, self.cells = lvs, direction, cells
        self.talk = Talk(lvs, IPV4, protocol, rport=80).serve(method="-g" if direction == "INPUT_ONLY" else "-m")
        for number, _ in enumerate(cells):
            assert self.talk.from_port(FIRST + number).asks(opening).forwarded

    def put(self, states: tuple[str, ...], active: set[str]) -> None:
        """Give every connection its state, and its real server the load that goes with it."""
        slots = self.lvs.instance.slots
        inactive = _layout.CONN_INACTIVE << 8
        for number in range(slots.entries):
            if slots.get(number, "life") & 0xFF != _layout.SLOT_CONN:
                continue
            port = slots.get(number, "cport")
            state, _ = self.cells[(port >> 8 | (port & 0xFF) << 8) - FIRST]
            status = slots.get(number, "status") & ~0xFF & ~inactive
            slots.put(number, "status", status | states.index(state) | (0 if state in active else inactive))
        self.lvs.instance.dest_loads.put(0, "active", sum(state in active for state, _ in self.cells))
        books(self.lvs.instance)

    def play(self, packet: dict[str, str]) -> Iterator[tuple[str, str, str, int, bool]]:
        """Let every connection meet its packet: (state, event, next state, seconds, active)."""
        for number, (_, event) in enumerate(self.cells):
            talk = self.talk.from_port(FIRST + number)
            result = talk.answers(packet[event]) if self.direction == "OUTPUT" else talk.asks(packet[event])
            assert result.forwarded, result
        entries = self.lvs.entries()
        for number, (state, event) in enumerate(self.cells):
            entry = entries[IPV4.client, FIRST + number]
            yield state, event, entry.shown.state, entry.timeout // 1000, not entry.inactive
        books(self.lvs.instance)


@pytest.mark.parametrize("secure", [False, True], ids=["normal", "secure"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_cell_of_tcp(lvs: Harness, direction: str, secure: bool) -> None:
    lvs.set(conn_reuse_mode=0)
    lvs.set(secure_tcp=3 * secure)  # 3: always
    cells = [(state, event) for state in tcp.STATES for event in FLAGS]
    table = Cells(lvs, direction, TCP, "S", cells)
    table.put(tcp.STATES, tcp.ACTIVE)
    wrong = []
    for state, event, *found in table.play(FLAGS):
        flags = {"FIN", "ACK"} if event == "FIN" else {event}
        follows = tcp.next_state(direction, state, flags, secure)
        if found != [follows, tcp.SECONDS[follows], follows in tcp.ACTIVE]:
            wrong.append((state, event, follows, found))
    assert not wrong


def test_secure_tcp_differs_in_fifteen_cells() -> None:
    """The tables of the packet path, against what the specification says of the difference."""
    differ = {
        (direction, tcp_tables.STATES[number], event): tcp_tables.STATES[secure]
        for direction in DIRECTIONS
        for event in tcp_tables.EVENTS
        for number, (normal, secure) in enumerate(
            zip(tcp_tables.NORMAL[direction][event], tcp_tables.SECURE[direction][event], strict=True)
        )
        if normal != secure
    }
    assert differ == tcp.SECURE
    assert len(differ) == 15


def test_an_acknowledged_connection_stays_established() -> None:
    """The packet path does not look this cell up: it must be the same in every table."""
    established = tcp_tables.STATES.index("ESTABLISHED")
    for table in (tcp_tables.NORMAL, tcp_tables.SECURE):
        assert {table[direction]["ACK"][established] for direction in DIRECTIONS} == {established}
        for direction in DIRECTIONS:  # nor does secure_tcp change any cell of that state
            for event in tcp_tables.EVENTS:
                same = tcp_tables.NORMAL[direction][event][established]
                assert table[direction][event][established] == same
    assert "ESTABLISHED" in tcp_tables.ACTIVE


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_cell_of_sctp(lvs: Harness, direction: str) -> None:
    lvs.set(conn_reuse_mode=0)
    cells = [(state, event) for state in sctp.STATES for event in sctp.EVENTS]
    table = Cells(lvs, direction, SCTP, "INIT", cells)
    table.put(sctp.STATES, sctp.ACTIVE)
    wrong = []
    for state, event, *found in table.play(CHUNK):
        follows = sctp.next_state(direction, state, event)
        if found != [follows, sctp.SECONDS[follows], follows in sctp.ACTIVE]:
            wrong.append((state, event, follows, found))
    assert not wrong


def test_every_type_of_chunk(lvs: Harness) -> None:
    """By sloppy_sctp each but ABORT opens an association, and what the first state is tells what it meant."""
    lvs.set(sloppy_sctp=1)
    talk = Talk(lvs, IPV4, SCTP).serve()
    for kind in range(256):
        lvs.from_client(talk.from_port(FIRST + kind).question("DATA").replace(b"\0\0\0\4", bytes((kind, 0, 0, 4))))
    entries = lvs.entries()
    for kind in range(256):
        entry = entries.get((IPV4.client, FIRST + kind))
        follows = sctp.next_state("INPUT", "NONE", sctp.event_of(chunk(kind)))
        assert entry is None if kind == CHUNKS["ABORT"] else entry and entry.shown.state == follows, kind


def test_the_first_reply_of_a_direct_association_changes_the_table(lvs: Harness) -> None:
    """Where replies pass, after all, a handshake takes its four steps."""
    talk = Talk(lvs, IPV4, SCTP, rport=80).serve(method="-g")
    plain = Talk(lvs, IPV4, SCTP, rport=80, server=IPV4.vip)
    talk.asks("INIT")
    assert plain.answers("INIT_ACK").reason == "up_reply_unchanged"
    assert talk.entry.shown.state == "C-SENT"
    talk.asks("COOKIE_ECHO")
    assert talk.entry.shown.state == "C-REPLIED"  # INPUT_ONLY would have said ESTABLISHED
    plain.answers("COOKIE_ACK")
    assert talk.entry.shown.state == "ESTABLISHED"
    assert lvs.loads() == {f"{IPV4.server}:80": (1, 0)}


@pytest.mark.parametrize("sloppy", [0, 1])
@pytest.mark.parametrize("flags", ["S", "SA", "SF", "A", "F", "N", "P", "R", "RA"])
def test_which_tcp_packets_open(lvs: Harness, flags: str, sloppy: int) -> None:
    lvs.set(sloppy_tcp=sloppy)
    talk = Talk(lvs, IPV4).serve()
    opens = "R" not in flags and (sloppy == 1 or "S" in flags)
    assert talk.asks(flags).reason == ("forwarded_nat_request" if opens else "up_no_connection")
    assert (talk.entry is not None) == opens


@pytest.mark.parametrize("sloppy", [0, 1])
@pytest.mark.parametrize("kind", CHUNKS)
def test_which_sctp_packets_open(lvs: Harness, kind: str, sloppy: int) -> None:
    lvs.set(sloppy_sctp=sloppy)
    talk = Talk(lvs, IPV4, SCTP).serve()
    opens = kind != "ABORT" and (sloppy == 1 or kind == "INIT")
    assert talk.asks(kind).reason == ("forwarded_nat_request" if opens else "up_no_connection")
    assert (talk.entry is not None) == opens


@pytest.mark.parametrize("state", sctp.STATES)
@pytest.mark.parametrize("mode", [0, 1, 2])
def test_an_init_opens_anew_where_all_is_closed(lvs: Harness, state: str, mode: int) -> None:
    """Of an association that is over its client's next one gets a real server of its own; any other goes on."""
    lvs.set(conn_reuse_mode=mode)
    table = Cells(lvs, "INPUT", SCTP, "INIT", [(state, "INIT")])
    table.talk.add(IPV4.servers[1])
    table.put(sctp.STATES, sctp.ACTIVE)
    again = table.talk.from_port(FIRST).asks("INIT")
    anew = mode != 0 and state == "CLOSED"
    assert again.packet.dst == IPV4.servers[int(anew)]
    follows = sctp.next_state("INPUT", "NONE" if anew else state, "INIT")
    assert lvs.entries()[IPV4.client, FIRST].shown.state == follows
    books(lvs.instance)


@pytest.mark.parametrize("kind", [kind for kind in CHUNKS if kind != "INIT"])
def test_nothing_else_opens_anew(lvs: Harness, kind: str) -> None:
    lvs.set(sloppy_sctp=1)
    table = Cells(lvs, "INPUT", SCTP, "INIT", [("CLOSED", "INIT")])
    table.talk.add(IPV4.servers[1])
    table.put(sctp.STATES, sctp.ACTIVE)
    assert table.talk.from_port(FIRST).asks(kind).packet.dst == IPV4.server


def test_udp_has_one_state(lvs: Harness) -> None:
    """Its timeout begins anew with each datagram, from either side."""
    talk = Talk(lvs, IPV4, UDP).serve()
    for send in (talk.asks, talk.answers, talk.asks):
        assert send().forwarded
        assert (talk.entry.shown.state, talk.entry.inactive) == ("UDP", True)
        assert 299_000 < talk.entry.shown.expires <= 300_000
        lvs.advance(200)


def test_timeouts_stand_where_the_packet_path_looks(lvs: Harness) -> None:
    assert PLACES.index(("udp", "UDP")) == TIMEOUT_UDP
    assert PLACES.index(("sctp", "NONE")) == TIMEOUT_SCTP
    assert tuple(lvs.instance.timeouts()) == DEFAULTS_MS
    assert len(sctp_tables.STATES) == _layout.SCTP_STATES and len(sctp_tables.EVENTS) == _layout.SCTP_EVENTS
