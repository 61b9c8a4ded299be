"""The connection table: how connections end, what it means that they do, and what happens when it is full."""

import pytest

from pylvs.protocols import tcp as tcp_states
from support.harness import Harness, frame
from support.packets import TCP, UDP
from support.talk import IPV4, IPV6, Family, Talk


def test_each_packet_gives_a_connection_its_whole_time_again(lvs: Harness, family: Family, protocol: int) -> None:
    talk = Talk(lvs, family, protocol).serve().opens()
    whole = 900_000 if protocol == TCP else 300_000
    for speak in (lambda: talk.asks("A"), lambda: talk.answers("A")):
        lvs.shift(100)
        assert talk.entry.shown.expires <= whole - 100_000
        assert speak().forwarded
        entry = talk.entry
        assert entry.timeout == whole
        assert whole - 100_000 < entry.shown.expires <= whole


@pytest.mark.parametrize("state, events", [
    ("SYN_RECV", "cS"), ("ESTABLISHED", "cS cA"), ("FIN_WAIT", "cS cA sF"), ("TIME_WAIT", "cS cA sF cF"),
    ("CLOSE", "cS cA cR"), ("CLOSE_WAIT", "cS cA cF"),
])  # fmt: skip
def test_every_state_ends_in_its_time(lvs: Harness, state: str, events: str) -> None:
    talk = Talk(lvs, IPV4).serve()
    for event in events.split():
        (talk.asks if event[0] == "c" else talk.answers)(event[1:])
    assert talk.entry.shown.state == state
    lvs.advance(tcp_states.TIMEOUTS[state] - 1)
    assert talk.entry is not None
    lvs.advance(1.1)
    assert talk.entry is None
    assert lvs.instance.runtime.get(0, "conns") == 0
    assert set(lvs.loads().values()) == {(0, 0)}


def test_what_is_past_is_gone_before_the_sweep(lvs: Harness, family: Family) -> None:
    """A lookup does not wait for the sweep: the packet finds no connection, and the next SYN opens a new one."""
    talk = Talk(lvs, family).serve(2).opens()
    lvs.shift(901)
    assert talk.asks("A").reason == "up_no_connection"
    assert lvs.instance.runtime.get(0, "conns") == 0
    assert set(lvs.loads().values()) == {(0, 0)}
    result = talk.asks("S")
    assert result.forwarded
    assert result.packet.dst != talk.rs, "scheduled anew, and it is the other's turn"


def test_a_reply_does_not_revive_what_is_past(lvs: Harness, family: Family, protocol: int) -> None:
    talk = Talk(lvs, family, protocol).serve().opens()
    lvs.shift(901)
    assert talk.answers("A").handed_up
    assert lvs.instance.runtime.get(0, "conns") == 0


def test_listings_do_not_show_what_is_past(lvs: Harness, family: Family) -> None:
    talk = Talk(lvs, family).serve().opens()
    lvs.shift(901)
    assert list(lvs.director.connections()) == []
    assert talk.entry is None


def test_active_and_inactive_after_the_sweep(lvs: Harness, family: Family) -> None:
    """Exact for every way in which connections end."""
    talk = Talk(lvs, family).serve(1)
    for sport in range(2000, 2030):
        one = talk.from_port(sport)
        one.asks("S")
        if sport >= 2010:
            one.asks("A")
        if sport >= 2020:
            one.asks("F")
    assert lvs.loads() == {_server(family): (20, 10)}
    lvs.advance(61)  # SYN_RECV and CLOSE_WAIT are over
    assert lvs.loads() == {_server(family): (10, 0)}
    assert len(lvs.entries()) == 10
    lvs.advance(900)
    assert lvs.loads() == {_server(family): (0, 0)}


def _server(family: Family) -> str:
    return f"{family.server}:8080" if family is IPV4 else f"[{family.server}]:8080"


def test_a_syn_opens_anew_what_was_closed(lvs: Harness, family: Family) -> None:
    """conn_reuse_mode is 1 unless told otherwise: a client's old port may go to another real server."""
    talk = Talk(lvs, family).serve(2).opens()
    talk.asks("F")
    talk.answers("F")
    assert talk.entry.shown.state == "TIME_WAIT"
    result = talk.asks("S")
    assert result.packet.dst != talk.rs
    assert talk.entry.shown.state == "SYN_RECV"
    assert len(lvs.entries()) == 1
    assert sorted(lvs.loads().values()) == [(0, 0), (1, 0)]
    assert talk.answers("A").handed_up, "the old real server's packets belong to nothing"


def test_a_slot_used_again_remembers_nothing(lvs: Harness, family: Family) -> None:
    talk = Talk(lvs, family).serve()
    for _ in range(5):
        lvs.from_client(talk.question("S"), mark=7)
    lvs.advance(61)
    lvs.shift(0.2)
    other = talk.from_port(1026)
    other.asks("S")
    assert lvs.instance.runtime.get(0, "fresh") == 1, "the same slot"
    assert (other.entry.shown.packets, other.entry.shown.fwmark, other.entry.shown.state) == (1, 0, "SYN_RECV")


def test_the_newer_of_two_connections_to_one_server_keeps_its_replies(lvs: Harness, family: Family) -> None:
    """One client port, two VIP ports, the same real server: replies look alike and are the newer's, also when the
    older one ends."""
    older = Talk(lvs, family).serve()
    newer = Talk(lvs, family, port=443).serve()
    older.asks("S")
    newer.asks("S")
    newer.asks("A")
    assert newer.answers("A").packet.source == (family.vip, 443)
    lvs.advance(61)
    assert lvs.instance.runtime.get(0, "conns") == 1
    assert newer.answers("A").packet.source == (family.vip, 443)


# A full table: 4096 connections.


def _fill(talk: Talk, count: int = 4096, first: int = 10_000) -> None:
    talk.lvs.pour(frame(talk.from_port(sport).question("S")) for sport in range(first, first + count))


def test_full(lvs: Harness, family: Family, protocol: int) -> None:
    """Who is in stays in; who comes is dropped by name until there is room."""
    talk = Talk(lvs, family, protocol).serve().opens()
    _fill(talk, 4095)
    runtime = lvs.instance.runtime
    assert runtime.get(0, "conns") == 4096
    late = talk.from_port(9)
    result = late.asks("S")
    assert result.reason == "dropped_table_full"
    assert not result.answers
    assert runtime.get(0, "conns") == 4096
    assert sum(map(sum, lvs.loads().values())) == 4096, "a refused connection is no real server's load"
    assert lvs.director.totals().conns == 4096, "and is not counted"
    assert talk.asks("A").forwarded
    assert talk.answers("A").forwarded
    assert talk.from_port(10_000).asks("S").forwarded
    if protocol == TCP:
        lvs.advance(61)
        assert runtime.get(0, "conns") == 1 and talk.asks("A").forwarded
    else:
        lvs.advance(301)
        assert runtime.get(0, "conns") == 0
    lvs.shift(0.2)  # slots rest a little
    assert late.asks("S").forwarded


def test_a_table_that_was_full_can_be_filled_again(lvs: Harness) -> None:
    """Every slot comes back, again and again."""
    talk = Talk(lvs, IPV4).serve()
    for turn in range(3):
        _fill(talk, first=10_000 + 5000 * turn)
        assert lvs.instance.runtime.get(0, "conns") == 4096
        lvs.advance(61)
        assert lvs.instance.runtime.get(0, "conns") == 0
        lvs.shift(0.2)
    assert lvs.loads() == {_server(IPV4): (0, 0)}


def test_each_family_and_protocol_shares_the_table(lvs: Harness) -> None:
    for family in (IPV4, IPV6):
        for protocol in (TCP, UDP):
            _fill(Talk(lvs, family, protocol).serve(), 1024)
    assert Talk(lvs, IPV4, sport=9).asks("S").reason == "dropped_table_full"
    assert Talk(lvs, IPV6, UDP, sport=9).asks().reason == "dropped_table_full"


def test_a_slot_rests_before_it_is_used_again(lvs: Harness) -> None:
    """A packet may still be looking at the connection that has just ended."""
    talk = Talk(lvs, IPV4).serve()
    _fill(talk)
    lvs.advance(61)
    assert lvs.instance.runtime.get(0, "conns") == 0
    lvs.shift(-30)  # as if no time had passed, however long this takes
    assert talk.from_port(9).asks("S").reason == "dropped_table_full"
    lvs.shift(30.2)
    assert talk.from_port(9).asks("S").forwarded
