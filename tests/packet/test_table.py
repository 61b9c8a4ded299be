"""The connection table: how connections end, what it means that they do, and what happens when it is full."""

import struct
import sys
from socket import AF_INET

import pytest

from pylvs.datapath.connections import entries
from pylvs.datapath.table import Hash, usage
from pylvs.protocols import tcp as tcp_states
from pylvs.protocols.tcp import STATES
from support.books import books, places
from support.harness import Harness, frame
from support.packets import TCP, UDP, address
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
    slot = places(lvs.instance)[_client(talk)]
    assert talk.entry.shown.fwmark == 7
    lvs.advance(61)
    lvs.shift(0.2)
    talk.asks("S")
    assert places(lvs.instance)[_client(talk)] == slot, "the same slot"
    assert (talk.entry.shown.packets, talk.entry.shown.fwmark, talk.entry.shown.state) == (1, 0, "SYN_RECV")
    assert books(lvs.instance) == (1, 1)
    assert usage(lvs.instance).used == 2


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


def test_a_slot_rests_before_it_is_used_again(lvs: Harness) -> None:
    """A packet may still be looking at the connection that has just ended."""
    talk = Talk(lvs, IPV4, rport=80).serve(1, "-g")
    used = set()
    for _ in range(5):
        talk.asks("S")
        used.add(places(lvs.instance)[_client(talk)])
        lvs.advance(61)
        lvs.shift(-61)  # as if no time had passed, however long this takes
    assert len(used) == 5
    lvs.shift(61.2)
    talk.asks("S")
    assert places(lvs.instance)[_client(talk)] in used


# ---- a full table: both groups of nearly every key are full ----------------------------------------------------------


def _client(talk: Talk) -> tuple[bytes, int]:
    return address(talk.family.client), talk.sport


def _fill(talk: Talk, count: int, flags: str = "S", first: int = 10_000) -> None:
    talk.lvs.pour(
        frame(talk.from_port(sport).question(flag)) for sport in range(first, first + count) for flag in flags
    )


def _clients(lvs: Harness) -> set[int]:
    return {entry.cport for entry in entries(lvs.instance)}


def test_full(lvs: Harness, family: Family, protocol: int) -> None:
    """Who is in stays in; who comes is dropped by name until there is room."""
    talk = Talk(lvs, family, protocol).serve().opens()
    _fill(talk, 4000, "SA" if protocol == TCP else "S")
    inside, refused = _clients(lvs), lvs.reasons()["dropped_table_full"]
    assert len(inside) + refused == 4001
    assert inside >= {talk.sport, *range(10_000, 11_000)}, "the first ones found room, and kept it"
    table = usage(lvs.instance)
    assert 0.97 * 4096 < table.used == 2 * len(inside), "a LVS-NAT connection takes two slots"
    counted = len(inside) if protocol == TCP else 0
    assert books(lvs.instance) == (len(inside), counted)
    assert lvs.director.totals().conns == len(inside), "a refused connection is not counted"
    assert lvs.instance.runtime.get(0, "gave_way") == 0

    late = talk.from_port(next(sport for sport in range(13_999, 10_000, -1) if sport not in inside))
    result = late.asks("S")
    assert result.reason == "dropped_table_full"
    assert not result.answers
    assert books(lvs.instance) == (len(inside), counted)
    for one in (talk, talk.from_port(10_000), talk.from_port(10_999)):
        assert one.asks("A").forwarded
        assert one.answers("A").forwarded

    lvs.advance(901)
    assert books(lvs.instance) == (0, 0)
    assert usage(lvs.instance).used == 0
    assert late.asks("S").forwarded


@pytest.mark.parametrize("method", ["-m", "-g"])
def test_half_open_connections_give_way(lvs: Harness, family: Family, method: str) -> None:
    """Nobody is refused as long as there is one in the newcomer's groups, and who is established stays."""
    talk = Talk(lvs, family, rport=8080 if method == "-m" else 80).serve(1, method)
    _fill(talk, 500, "SA", 5000)
    _fill(talk, 6000)
    gave_way = lvs.instance.runtime.get(0, "gave_way")
    assert lvs.reasons()["dropped_table_full"] == 0
    inside = _clients(lvs)
    assert gave_way == 6500 - len(inside) > 1500
    assert inside >= set(range(5000, 5500))
    assert talk.from_port(15_999).asks("A").forwarded, "the newest is there"
    assert usage(lvs.instance).used > 0.97 * 4096
    assert books(lvs.instance) == (len(inside), len(inside))


def test_the_oldest_of_a_few_gives_way(lvs: Harness) -> None:
    """Of four half-open ones, neighbours in the newcomer's groups; others are not asked, whatever their time."""
    talk = Talk(lvs, IPV4, rport=80).serve(1, "-g")
    for sport in range(10_000, 15_000):
        lvs.pour([frame(talk.from_port(sport).question("S"))])
        if sport % 3:
            lvs.pour([frame(talk.from_port(sport).question("A"))])
        lvs.shift(0.003)
    before = {entry.number: entry for entry in entries(lvs.instance)}
    own, judged = Hash(lvs.instance), 0
    for sport in range(20_000, 20_060):
        client, vip = (int.from_bytes(address(a), sys.byteorder) for a in (IPV4.client, IPV4.vip))
        ports = int.from_bytes(struct.pack("!HH", sport, 80), sys.byteorder)
        spot = own.spot((client, vip), ports, TCP, AF_INET)
        if any(lvs.instance.groups.get(group, "used") < 64 for group in (spot.group, spot.other)):
            continue
        oldest = set()
        for start in range(64):
            numbers = [group * 64 + (start + n) % 64 for group in (spot.group, spot.other) for n in range(64)]
            half_open = [before[n].cport for n in numbers if before[n].state == STATES.index("SYN_RECV")][:4]
            oldest.add(min(half_open))
        assert talk.from_port(sport).asks("S").forwarded
        after = {entry.number: entry for entry in entries(lvs.instance)}
        [victim] = [before[n] for n in before if after[n].cport != before[n].cport]
        assert victim.cport in oldest
        before, judged = after, judged + 1
    assert judged > 20


def test_what_is_past_makes_room_at_once(lvs: Harness) -> None:
    """Whether or not the sweep has been there, and nobody who lives gives way."""
    talk = Talk(lvs, IPV4, UDP, rport=80).serve(1, "-g")
    _fill(talk, 5000)
    lvs.shift(301)
    _fill(talk, 2000, first=20_000)
    assert _clients(lvs) == set(range(20_000, 22_000))
    assert lvs.instance.runtime.get(0, "gave_way") == 0
    lvs.sweep()
    assert books(lvs.instance) == (2000, 0)


def test_a_table_that_was_full_can_be_filled_again(lvs: Harness) -> None:
    """Every slot comes back, again and again, at once if there is no other."""
    talk = Talk(lvs, IPV4, UDP).serve()
    for turn in range(3):
        _fill(talk, 4000, first=10_000 + 5000 * turn)
        assert usage(lvs.instance).used > 0.97 * 4096
        assert books(lvs.instance)[0] == len(_clients(lvs))
        lvs.advance(301)
        assert books(lvs.instance) == (0, 0)
        assert usage(lvs.instance).used == 0


def test_each_family_and_protocol_shares_the_table(lvs: Harness) -> None:
    for family in (IPV4, IPV6):
        for protocol in (TCP, UDP):
            _fill(Talk(lvs, family, protocol).serve(), 1000, "SA" if protocol == TCP else "S")
    assert usage(lvs.instance).used > 0.97 * 4096
    before, tried = lvs.reasons()["dropped_table_full"], 0
    for family in (IPV4, IPV6):
        for protocol in (TCP, UDP):
            _fill(Talk(lvs, family, protocol), 100, first=30_000)
            refused = lvs.reasons()["dropped_table_full"]
            assert refused > before, "each meets full groups"
            before, tried = refused, tried + 1
    assert tried == 4
