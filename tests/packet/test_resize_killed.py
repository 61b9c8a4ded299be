"""A resizing that is killed, at any step of it: packets go on, and the next command brings it to an end.

The process dies just before its n-th step, for every n: a store to the configuration, a pin, a link that gets another
program, a slice of the table that is moved. Programs are loaded once for all of that: what is not pinned or attached
is gone with the process, and loading changes nothing.
"""

import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout

import pytest

from pylvs.cli import attach, conns
from pylvs.cli import instance as command
from pylvs.datapath import _layout, programs, resize, syscall
from pylvs.datapath import instance as datapath
from pylvs.datapath.connections import Reader, entries
from pylvs.datapath.maps import SharedArray
from pylvs.model import Timeouts
from support.books import PROGRAMS, Ledger, audit
from support.books import programs as pinned
from support.dying import dying_at, in_child
from support.harness import CLIENT, SERVER, Harness, frame
from support.mapstate import MapState
from support.packets import UDP
from support.talk import FAMILIES, IPV4, Family, Talk

STEPS = ((SharedArray, "put"), (syscall, "pin"), (syscall, "link_update"), (syscall, "run"), (os, "rename"),
         (os, "unlink"))  # fmt: skip
REPAIRS: dict[str, Callable[[Harness], object]] = {
    "change": lambda lvs: lvs.director.set_timeouts(Timeouts(0, 0, 0)),
    "load": lambda _: _quietly(lambda: command.main(["load"])),
    "attach": lambda _: _quietly(lambda: attach.main([CLIENT])),
    "conns": lambda _: _quietly(lambda: conns.main(["--count"])),
    "listing": lambda lvs: lvs.ipvsadm("-Lnc"),
    "resize": lambda _: _quietly(lambda: command.main(["load", "--conn-tab-bits", "12"])),
}
Kept = dict[tuple, tuple]
Loaded = tuple[dict[str, int], dict[str, int]]


def _quietly(work: Callable[[], int]) -> None:
    with redirect_stdout(io.StringIO()):
        assert work() == 0


class Stage:
    """A director with connections, put back as it was before each resizing.

    Attributes:
        bits: the size of its table.
        full: it has more in it than fits into a smaller one.
    """

    def __init__(self, lvs: Harness, bits: int, full: bool):
        self.lvs, self.bits, self.full = lvs, bits, full
        lvs.reload(bits)
        self._loaded: dict[tuple, Loaded] = {}
        self._load = programs.load
        self._empty = MapState(f"{lvs.instance.path}/maps")
        self.talks = self._crowd()
        self.kept, self.ledger = self.connections(), audit(lvs.instance)
        self._maps = MapState(f"{lvs.instance.path}/maps")
        self._clock = lvs.instance.config.get(0, "clock_offset")
        self._tables = {name: syscall.get(lvs.instance.table_pin(name)) for name in datapath.TABLE}
        self._new: dict[str, int] = {}
        programs.load = self._load_once  # type: ignore[assignment]
        # no packet comes but those that the test sends and waits for
        self._wait, syscall.wait_for_packets = syscall.wait_for_packets, lambda: None
        with lvs.instance.locked():
            lvs.instance.replace_programs()

    def close(self) -> None:
        programs.load, syscall.wait_for_packets = self._load, self._wait
        for maps, loaded in self._loaded.values():
            for fd in (*maps.values(), *loaded.values()):
                os.close(fd)
        for fd in (*self._tables.values(), *self._new.values()):
            os.close(fd)
        self._maps.close()
        self._empty.close()

    def _crowd(self) -> list[Talk]:
        talks = []
        for family in FAMILIES:
            web, dns = Talk(self.lvs, family).serve(2), Talk(self.lvs, family, UDP, port=53, rport=53).serve(1)
            talks += [talk.from_port(sport).opens() for sport in range(2000, 2004) for talk in (web, dns)]
            for sport in range(3000, 3010):
                for flags in "SA":  # none that would give way in a full table
                    self.lvs.from_client(web.from_port(sport).question(flags), mark=sport)
        for family in FAMILIES:  # persistent ones, and those of calls: with templates that control them
            talks += self._persistent(family)
        if self.full:
            many = Talk(self.lvs, IPV4, UDP, port=54, rport=54).serve(2, "-g")
            self.lvs.pour(frame(many.from_port(sport).question()) for sport in range(10_000, 14_200))
        return talks

    def _persistent(self, family: Family) -> list[Talk]:
        sticky = Talk(self.lvs, family, port=443, rport=443)
        phone = Talk(self.lvs, family, UDP, port=5060, rport=5060)
        for talk, options in ((sticky, ""), (phone, "--pe sip")):
            self.lvs.ipvsadm(f"-A {talk.key} -s rr -p 300 {options}")
            for server in family.servers[:2]:
                talk.add(server)
        for call in range(3):
            self.lvs.from_client(phone.from_port(2000 + call).question(payload=b"\ni:%d\n" % call))
        return [sticky.from_port(sport).opens() for sport in range(2000, 2003)]

    def persistent(self, sport: int) -> bool:
        """A new connection of a client that has a template: it goes where the others are.

        Returns:
            Whether there was room for it, as above.
        """
        old = [talk for talk in self.talks if talk.port == 443][3 * (sport % 2)]
        new = old.from_port(sport)
        opened = self.lvs.wire([frame(new.question("S"))])
        if self.full and opened == {"dropped_table_full": 1}:
            return False
        assert opened == {"forwarded_nat_request": 1}
        assert self.lvs.wire([frame(new.answer("SA"), SERVER)], SERVER) == {"forwarded_nat_reply": 1}
        return True

    def _load_once(
        self, sizes: dict[str, int], existing: dict[str, int], constants: dict[str, bytes], kind: str, linkless: bool
    ) -> Loaded:
        """What the kernel would load, from what it has loaded already; over the same maps, so it is the same."""
        what = (kind, constants["table_parity"], constants["table_groups"])
        if what not in self._loaded:
            if sizes and "slots" not in existing and self._new:
                existing, sizes = {**existing, **self._new}, {}
            self._loaded[what] = self._load(sizes, existing, constants, kind, linkless)
            if sizes and not self._new:
                self._new = {name: os.dup(self._loaded[what][0][name]) for name in datapath.TABLE}
        maps, loaded = self._loaded[what]
        return {name: os.dup(fd) for name, fd in maps.items()}, {name: os.dup(fd) for name, fd in loaded.items()}

    def put_back(self) -> None:
        """As it was before the resizing."""
        lvs = self.lvs
        path = lvs.instance.path
        # or the timer would end what is put back, by a clock that is not put back yet
        lvs.configure(clock_offset=self._clock)
        lvs.sweep()
        for name in os.listdir(f"{path}/maps"):
            if name.rpartition("_")[0] in datapath.TABLE:
                os.unlink(f"{path}/maps/{name}")
        for name in os.listdir(f"{path}/programs"):
            if name.startswith("move"):
                os.unlink(f"{path}/programs/{name}")
        for name, fd in self._tables.items():
            syscall.pin(fd, f"{path}/maps/{name}_0")
        self._maps.put_back()
        for name, fd in self._new.items():
            array = SharedArray(fd, datapath.TABLE[name])
            array.memory[:] = bytes(len(array.memory))
            array.close()
        lvs.reopen()
        with lvs.instance.locked():
            lvs.instance.replace_programs()
        lvs.reopen()

    def connections(self) -> Kept:
        """All that a connection has, but for its number."""
        reader, slots = Reader(self.lvs.instance), self.lvs.instance.slots
        return {
            (c.caddr, c.cport, c.vaddr, c.vport, e.cport): (
                c.state, e.flags, e.timeout, slots.get(e.number, "expires"), c.packets, c.daddr, c.dport, c.fwmark
            )
            for e, c in ((e, reader.read(e)) for e in entries(self.lvs.instance))
        }  # fmt: skip

    def traffic(self, sport: int) -> bool:
        """Packets over the cables, through whatever is attached: of old connections, and of a new one.

        Returns:
            Whether there was room for the new one, which there must be but in a table that is too small.
        """
        old, new = self.talks[sport % len(self.talks)], Talk(self.lvs, FAMILIES[sport % 2], sport=sport)
        ask, answer = frame(old.question("A"), CLIENT), frame(old.answer("A"), SERVER)
        assert self.lvs.wire([ask]) == {"forwarded_nat_request": 1}
        assert self.lvs.wire([answer], SERVER) == {"forwarded_nat_reply": 1}
        opened = self.lvs.wire([frame(new.question("S"))])
        if self.full and opened == {"dropped_table_full": 1}:
            return False
        assert opened == {"forwarded_nat_request": 1}
        servers = [new.family.servers[number] for number in (0, 1)]
        chosen = self.lvs.wire([frame(Talk(self.lvs, new.family, sport=sport, server=s).answer("SA"), SERVER)
                                for s in servers], SERVER)  # fmt: skip
        assert chosen == {"forwarded_nat_reply": 1, "up_no_service": 1}, "one of the two is its real server"
        assert self.lvs.wire([frame(new.question("A"))]) == {"forwarded_nat_request": 1}
        return True


def _resize(bits: int) -> int:
    """Where the process may die: in small steps; 7 if the connections do not fit."""
    resize._SLICE, resize._FULLEST = 16, 9
    found = datapath.find()
    assert found is not None
    with found.locked():
        try:
            resize.resize(found, bits)
        except resize.TableFull:
            return 7
    return 0


@pytest.fixture
def lvs(own_network: Harness) -> Iterator[Harness]:
    own_network.enter()
    try:
        yield own_network
    finally:
        own_network.enter()
        own_network.reload()
        own_network.leave()


@pytest.mark.parametrize(
    ("before", "after", "full", "stride"),
    [(12, 13, False, 2), (13, 12, False, 5), (13, 12, True, 4)],
    ids=["up", "down", "does-not-fit"],
)
def test_killed_at_every_step(lvs: Harness, before: int, after: int, full: bool, stride: int) -> None:
    """Of the later cases, whose steps are mostly those of the first, only some: each is a third of a second."""
    stage = Stage(lvs, before, full)
    died, seen = 0, set()
    try:
        while True:
            stage.put_back()
            assert stage.connections() == stage.kept
            ended = in_child(dying_at(died + stride, STEPS, lambda: _resize(after)))
            if ended != -signal.SIGKILL:
                break
            died += stride
            seen.add(lvs.instance.config.get(0, "resizing"))
            more = stage.traffic(20_000 + died)
            controlled = stage.persistent(20_000 + died)
            more += controlled
            how, repair = list(REPAIRS.items())[died // stride % len(REPAIRS)]
            if how == "resize" and full:
                how, repair = "change", REPAIRS["change"]
            repair(lvs)
            lvs.reopen()
            now = stage.connections()
            what = f"killed at step {died}, repaired by {how}"
            new = (FAMILIES[(20_000 + died) % 2].client, 20_000 + died)
            assert {key for key in now if key[:2] == new} == now.keys() - stage.kept.keys(), what
            assert len(now) == len(stage.kept) + more, what
            for key, was in stage.kept.items():  # of the one whose packets came, the last packet and their number
                assert now[key] == was or (now[key][:3], now[key][5:]) == (was[:3], was[5:]), what
                asked = stage.talks[(20_000 + died) % len(stage.talks)].sport
                assert now[key] == was or key[1] == asked or (key[1], key[3]) == (0, 443), what
            ledger = audit(lvs.instance)
            wanted = stage.ledger._replace(conns=len(now), backs=stage.ledger.backs + more)
            if died % 2:  # an IPv6 connection takes a slot more to say what controls it
                wanted = wanted._replace(mores=wanted.mores + controlled)
            assert ledger == wanted, what
            _nothing_is_left(lvs, what)
            assert stage.traffic(40_000 + died), what
            if died % 4 == 0:
                lvs.advance(1000)
                lvs.advance(1000)  # templates end after what they control
                assert audit(lvs.instance) == Ledger(0, 0, 0), what
        assert ended == (7 if full else 0)
        assert seen == set(range(3)) or (stride > 1 and seen == {1, 2}), "it was killed in every state"
        assert died > 30
        lvs.reopen()
        assert stage.connections() == stage.kept
        assert lvs.instance.config.get(0, "conn_slots") == 1 << (before if full else after)
        _nothing_is_left(lvs, "not killed")
    finally:
        stage.close()


def _nothing_is_left(lvs: Harness, what: str) -> None:
    config = lvs.instance.config
    assert config.get(0, "resizing") == _layout.RESIZING_NOT, what
    assert config.get(0, "conn_slots") == lvs.instance.slots.entries, what
    tables = {name for name in os.listdir(f"{lvs.instance.path}/maps") if name.rpartition("_")[0] in datapath.TABLE}
    assert tables == {f"{name}_{config.get(0, 'table')}" for name in datapath.TABLE}, what
    assert pinned(lvs.instance) == PROGRAMS, what
