"""Another size for the connection table: nothing is lost, whoever looks and whatever does not fit."""

import errno
import os
from itertools import pairwise
from typing import Any

import pytest

from pylvs.cli import conns, status
from pylvs.cli import instance as command
from pylvs.datapath import _layout, bpffs, programs, resize
from pylvs.datapath import instance as datapath
from pylvs.datapath.connections import Reader, entries
from pylvs.datapath.table import usage
from pylvs.director import Director
from pylvs.errors import DatapathError, InvalidValue, TableFull
from pylvs.selections import Selection, selection
from support.books import PROGRAMS, Ledger, audit
from support.books import programs as pinned
from support.harness import Harness, frame
from support.packets import UDP
from support.talk import FAMILIES, IPV4, Talk

Kept = dict[tuple, tuple]


@pytest.fixture
def lvs(movable: Harness) -> Harness:
    return movable


def _crowd(lvs: Harness) -> list[Talk]:
    """Connections of every kind. Those returned are open, and answer."""
    opened = []
    for family in FAMILIES:
        web, dns = Talk(lvs, family).serve(3), Talk(lvs, family, UDP, port=53, rport=53).serve(2)
        direct = Talk(lvs, family, port=443, rport=443).serve(2, "-g")
        opened += [talk.from_port(sport).opens() for sport in range(2000, 2006) for talk in (web, dns)]
        for sport in range(3000, 3004):
            lvs.from_client(web.from_port(sport).question("S"), mark=sport)  # under IPv6 it has a slot more
            lvs.from_client(direct.from_port(sport).question("S"), mark=sport + 1)
        for flags, sport in (("S", 3100), ("SA", 3101), ("SF", 3102), ("SR", 3103), ("SAF", 3104)):
            for one in flags:
                direct.from_port(sport).asks(one)
        # two services and one real server: the replies of both look alike, and are the newer one's
        older, newer = Talk(lvs, family, sport=4000, port=81).serve(), Talk(lvs, family, sport=4000, port=82).serve()
        older.opens()
        opened.append(newer.opens())
    return opened


def _kept(lvs: Harness) -> Kept:
    """All that a connection has, but for its number."""
    reader, slots, kept = Reader(lvs.instance), lvs.instance.slots, {}
    for entry in entries(lvs.instance):
        shown = reader.read(entry)
        key = (shown.caddr, shown.cport, shown.vaddr, shown.vport, shown.protocol)
        assert key not in kept, "twice"
        kept[key] = (
            shown.state, entry.flags, entry.timeout, slots.get(entry.number, "expires"), shown.packets, shown.daddr,
            shown.dport, shown.fwmark,
        )  # fmt: skip
    return kept


def _resize(lvs: Harness, bits: int) -> None:
    with lvs.instance.locked():
        resize.resize(lvs.instance, bits)
    # the harness holds on to the program that it opened
    lvs.reopen()


def _tables(lvs: Harness) -> set[str]:
    """The tables that are pinned."""
    return {name for name in os.listdir(f"{lvs.instance.path}/maps") if name.rpartition("_")[0] in datapath.TABLE}


def _is_settled(lvs: Harness, number: int) -> None:
    """One table, the usual programs, and nothing else that is left of anything."""
    assert lvs.instance.config.get(0, "resizing") == _layout.RESIZING_NOT
    assert lvs.instance.config.get(0, "table") == number
    assert lvs.instance.config.get(0, "conn_slots") == lvs.instance.slots.entries
    assert _tables(lvs) == {f"{name}_{number}" for name in datapath.TABLE}
    assert pinned(lvs.instance) == PROGRAMS
    assert not lvs.instance.outdated()


def _both_sides_work(talks: list[Talk]) -> None:
    for talk in talks:
        asked = talk.asks("A")
        assert (asked.reason, asked.packet.dst) == ("forwarded_nat_request", talk.rs)
        answered = talk.answers("A")
        assert answered.reason == "forwarded_nat_reply"
        assert answered.packet.source == (talk.family.vip, talk.port)


def _ends_empty(lvs: Harness) -> None:
    lvs.advance(1000)
    assert audit(lvs.instance) == Ledger(0, 0, 0)


def test_everything_is_kept(lvs: Harness) -> None:
    """Up and down and up again: each table tells its numbers from those of the one before and the one after."""
    talks = _crowd(lvs)
    ledger = audit(lvs.instance)
    assert ledger.mores == 8 and ledger.conns == 54
    sizes = [12, 14, 13, 12]
    for number, (before, bits) in enumerate(pairwise(sizes), 1):
        kept, totals = _kept(lvs), lvs.director.totals()[:5]
        assert len(kept) == 54 and lvs.instance.slots.entries == 1 << before
        _resize(lvs, bits)
        assert lvs.instance.slots.entries == 1 << bits
        assert _kept(lvs) == kept
        assert lvs.director.totals()[:5] == totals
        assert audit(lvs.instance) == ledger
        _is_settled(lvs, number)
        _both_sides_work(talks)
        assert {lvs.wire([frame(t.question("A"))]).get("forwarded_nat_request") for t in talks[:2]} == {1}
    assert audit(lvs.instance) == ledger, "and nobody became another one by that"
    # an older connection gets its replies again when the newer one ends: both knew each other's new number
    assert lvs.director.flush_connections(selection(service=f"{IPV4.vip}:82")) == 1
    older = Talk(lvs, IPV4, sport=4000, port=81)
    assert older.answers("A").packet.source == (IPV4.vip, 81)
    _ends_empty(lvs)


def test_what_is_past_does_not_come_back(lvs: Harness) -> None:
    talk = Talk(lvs, IPV4).serve()
    for sport in range(2000, 2040):
        talk.from_port(sport).asks("S")
    alive = talk.from_port(3000).opens()
    lvs.shift(61)
    _resize(lvs, 13)
    assert set(lvs.entries()) == {(IPV4.client, 3000)}
    assert audit(lvs.instance) == Ledger(1, 1, 0), "nor does it take room"
    _both_sides_work([alive])
    assert talk.from_port(2000).asks("A").reason == "up_no_connection"


def test_new_connections_find_room_in_the_new_table(lvs: Harness) -> None:
    talk = Talk(lvs, IPV4, UDP, port=53, rport=53).serve(2, "-g")
    lvs.pour(frame(talk.from_port(sport).question()) for sport in range(10_000, 14_500))
    full = lvs.reasons()["dropped_table_full"]
    assert full > 300
    before = lvs.instance.runtime.get(0, "conns")
    _resize(lvs, 13)
    assert lvs.instance.runtime.get(0, "conns") == before
    lvs.pour(frame(talk.from_port(sport).question()) for sport in range(10_000, 14_500))
    assert lvs.reasons()["dropped_table_full"] == full
    assert audit(lvs.instance) == Ledger(4500, 0, 0)


def test_flushing_afterwards(lvs: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    """A connection is ended by its number, and the numbers of every other table are higher."""
    _crowd(lvs)
    for bits in (13, 12):
        _resize(lvs, bits)
        some = lvs.director.count_connections(selection(states="SYN_RECV"))
        assert some
        assert conns.main(["flush", "--state", "SYN_RECV"]) == 0
        assert capsys.readouterr().out == f"{some} ended\n"
        audit(lvs.instance)
        Talk(lvs, IPV4).from_port(5000 + bits).asks("S")
    left = lvs.director.count_connections()
    assert left > 20 and lvs.director.flush_connections(Selection()) == left
    assert audit(lvs.instance) == Ledger(0, 0, 0)


# ---- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [-1, 0, 11, 27, 64])
def test_sizes_that_cannot_be(lvs: Harness, bits: int) -> None:
    with pytest.raises(InvalidValue, match="it may be 2\\^12 to 2\\^26"), lvs.instance.locked():
        resize.resize(lvs.instance, bits)
    _is_settled(lvs, 0)


def test_the_same_size(lvs: Harness, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(programs, "load", lambda *_: pytest.fail("something was loaded"))
    assert command.main(["load", "--conn-tab-bits", "12"]) == 0
    assert capsys.readouterr().out == "the connection table has 4096 slots already\n"
    _is_settled(lvs, 0)


def _fill(lvs: Harness, count: int) -> None:
    """So many slots: of both families; datagrams, of which none gives way."""
    for family in FAMILIES:
        talk = Talk(lvs, family, UDP, port=5353).serve(3)
        lvs.pour(frame(talk.from_port(sport).question()) for sport in range(10_000, 10_000 + count // 4))


def test_too_small_for_what_is_in_use(lvs: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    lvs.reload(13)
    _fill(lvs, 3280)
    with monkeypatch.context() as patch:
        patch.setattr(programs, "load", lambda *_: pytest.fail("something was loaded"))
        with pytest.raises(TableFull, match="3280 slots are in use"), lvs.instance.locked():
            resize.resize(lvs.instance, 12)
    _is_settled(lvs, 0)
    assert lvs.director.flush_connections(selection(client=f"{IPV4.client}:10000")) == 1
    assert lvs.director.flush_connections(selection(client=f"{IPV4.client}:10001")) == 1
    _resize(lvs, 12)
    assert audit(lvs.instance) == Ledger(1638, 1638, 0)


def test_what_does_not_fit_after_all(lvs: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some groups of the smaller table are too full: everything goes back."""
    lvs.reload(13)
    _fill(lvs, 4400)
    talks = _crowd(lvs)
    kept, ledger = _kept(lvs), audit(lvs.instance)
    monkeypatch.setattr(resize, "_FULLEST", 9)
    with pytest.raises(TableFull, match="found no room in a table of 2\\^12 slots"), lvs.instance.locked():
        resize.resize(lvs.instance, 12)
    lvs.reopen()
    _is_settled(lvs, 0)
    assert lvs.instance.slots.entries == 8192
    assert _kept(lvs) == kept and audit(lvs.instance) == ledger
    _both_sides_work(talks)
    _resize(lvs, 14)
    assert audit(lvs.instance) == ledger
    _both_sides_work(talks)
    _ends_empty(lvs)


def test_programs_that_the_kernel_refuses(lvs: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    talks = _crowd(lvs)
    load = programs.load

    def refuse(*arguments: Any) -> Any:
        if arguments[3] == programs.RESIZING:
            raise DatapathError("refused")
        return load(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(programs, "load", refuse)
        with pytest.raises(DatapathError, match="refused"), lvs.instance.locked():
            resize.resize(lvs.instance, 13)
    _is_settled(lvs, 0)
    _both_sides_work(talks)


# ---- readers --------------------------------------------------------------------------------------------------------


def test_who_looked_before_sees_the_table_that_is_in_force(lvs: Harness) -> None:
    """A process that lives long, and opened everything before."""
    _crowd(lvs)
    with Director() as director:
        assert director.instance is not None
        before = len(list(director.connections()))
        for bits in (13, 12, 14):
            _resize(lvs, bits)
            assert len(list(director.connections())) == before == director.count_connections()
            assert director.table_size == 1 << bits == director.instance.slots.entries
            assert audit(director.instance).conns == before


def test_a_listing_that_stands_still_refuses_a_resizing(lvs: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pylvs conns | less`: it must not hold up every command that changes something."""
    _crowd(lvs)
    monkeypatch.setattr(resize, "_PATIENCE", 0)
    listing = lvs.director.connections()
    next(listing)
    with pytest.raises(DatapathError, match="listing connections") as refused, lvs.instance.locked():
        resize.resize(lvs.instance, 13)
    assert refused.value.errno == errno.EBUSY
    _is_settled(lvs, 0)
    assert len(list(listing)) == 53
    _resize(lvs, 13)


def test_looking_meanwhile(lvs: Harness, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Between any two slices that are moved, `pylvs status` answers, and a listing waits."""
    talks = _crowd(lvs)
    move, seen = resize._move_slice, []
    path = f"{lvs.instance.path}/maps"

    def look(program: int, first: int) -> int:
        left = move(program, first)
        assert status.main([]) == 0
        seen.append(capsys.readouterr().out)
        with pytest.raises(BlockingIOError), bpffs.alone(path, wait=False):
            pass
        program, lvs._program = lvs._program, lvs.instance.program("ingress")
        os.close(program)
        _both_sides_work(talks)
        return left

    monkeypatch.setattr(resize, "_move_slice", look)
    monkeypatch.setattr(resize, "_SLICE", 16)
    _resize(lvs, 13)
    assert len(seen) == 4 and all(" slots (2^" in text for text in seen)
    _both_sides_work(talks)


def test_new_ones_meanwhile(lvs: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that come, change and end while others are moved."""
    old = _crowd(lvs)
    web = {family: Talk(lvs, family) for family in FAMILIES}
    new: list[Talk] = []
    move = resize._move_slice

    def meanwhile(program: int, first: int) -> int:
        program_before, lvs._program = lvs._program, lvs.instance.program("ingress")
        os.close(program_before)
        for family in FAMILIES:
            new.append(web[family].from_port(6000 + len(new)).opens())
            ending = web[family].from_port(7000 + first).opens()
            ending.asks("R")
            # the answer of one that ends; then the sweep finds it in whichever table it is
            assert ending.answers("A").reason == "forwarded_nat_reply"
        _both_sides_work(new)
        lvs.advance(11)
        return move(program, first)

    monkeypatch.setattr(resize, "_move_slice", meanwhile)
    monkeypatch.setattr(resize, "_SLICE", 16)
    for bits in (13, 12):
        _resize(lvs, bits)
        audit(lvs.instance)
        _both_sides_work(new)
        _both_sides_work([talk for talk in old if talk.protocol != UDP])
    assert len(new) == 2 * (4 + 8)
    _ends_empty(lvs)


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_command(lvs: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    _crowd(lvs)
    assert command.main(["load", "--conn-tab-bits", "13"]) == 0
    assert capsys.readouterr().out == "the connection table has 8192 slots; it had 4096\n"
    lvs.reopen()
    assert lvs.ipvsadm("-Ln").startswith("IP Virtual Server version 1.2.1 (size=8192)\n")
    assert len(lvs.ipvsadm("-Lnc").splitlines()) == 2 + 54
    assert usage(lvs.instance).slots == 8192
    with pytest.raises(SystemExit, match="2"):
        command.main(["load", "--conn-tab-bits", "40"])
    assert command.main(["load"]) == 0
    assert capsys.readouterr().out == "loaded already, by this version\n"
