"""The whole table changed at once: what stays, what packets see, what a killed command leaves.

The process dies just before its n-th store, for every n; whoever looks next sees the old table or the new one, whole,
and so do packets from then on. Before anybody looks, each service by itself is old or new to packets.
"""

import io
import os
import random
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pylvs.datapath import _layout, bpffs, instance, journal, loading, syscall
from pylvs.datapath.maps import SharedArray
from pylvs.datapath.services import ServiceTable
from pylvs.director import Director
from pylvs.errors import InvalidValue, NoSuchService, TableFull
from pylvs.ipvsadm.commands import Shell
from pylvs.model import UDP, Timeouts, VirtualService, real_server, virtual_service
from pylvs.plan import Plan
from support.dying import by_director, dying_at, in_child
from support.harness import Harness
from support.tables import MAIL, WEB, behaviour, behaviour_of, configured, server
from support.talk import IPV4, Talk

SAFE = virtual_service(IPV4.vip, 443, scheduler="wlc", persistent=60)
NEWS = virtual_service(IPV4.vip, 119, scheduler="sh")
ALL = (WEB, MAIL, SAFE, NEWS)
STORES = (
    (SharedArray, "write"), (SharedArray, "put"), (syscall, "map_update"), (syscall, "map_delete"),
    (syscall, "pin"), (journal, "_unlink"),
)  # fmt: skip


@pytest.fixture
def lvs(alone: Harness) -> Harness:
    return alone


def _fill(lvs: Harness) -> Talk:
    """Web, mail and a persistent service, one real server in the trash, and a connection of web's first."""
    lvs.reset()
    director = lvs.director
    for service in (WEB, MAIL, SAFE):
        director.add_service(service)
        for number in (1, 2, 3):
            director.add_destination(service, server(number, number))
    director.delete_destination(WEB, server(3))
    lvs.reopen()
    talk = Talk(lvs, IPV4)
    while (first := talk.asks("S").packet.dst) != "10.2.0.1":
        talk = talk.from_port(talk.sport + 1)
    return Talk(lvs, IPV4, sport=talk.sport, server=first)


def _change(table: Plan) -> None:
    """Web gets other real servers, one of them from the trash; mail goes, news comes; the persistent one stays."""
    table.flush()
    table.add_service(NEWS)
    table.add_destination(NEWS, server(5))
    table.add_service(SAFE)
    for number in (1, 2, 3):
        table.add_destination(SAFE, server(number, number))
    table.add_service(WEB)
    for number in (4, 3, 1):
        table.add_destination(WEB, server(number, 2))
    table.set_timeouts(Timeouts(500, 60, 70))


def _transact(director: Director, change: Callable[[Plan], object] = _change) -> None:
    with director.transaction() as table:
        change(table)


def _dying_at(number: int, work: Callable[[Director], object]) -> Callable[[], object]:
    return dying_at(number, STORES, by_director(work))


def _is_tidy(lvs: Harness) -> None:
    """Nothing half done is left: who is available is in a pool and counted with its service, and the other way."""
    config, dests = lvs.instance.config, lvs.instance.dests
    assert config.get(0, "changing") == 0
    table = ServiceTable(lvs.instance)
    members = {member.dest: number for number in table.numbers() for member in table.members(number)}
    there = {
        number: dests.get(number, "service")
        for number in range(config.get(0, "dests_high"))
        if dests.get(number, "flags") & _layout.DEST_AVAILABLE
    }
    assert there == members
    assert all(table.find_key(lvs.instance.services.get(n, "key")) == n for n in table.numbers())


# ---- what it does ---------------------------------------------------------------------------------------------------


def test_what_is_in_both_tables_stays(lvs: Harness) -> None:
    talk = _fill(lvs)
    sticky = Talk(lvs, IPV4, port=443)
    first = sticky.asks("S").packet.dst
    numbers = {n: lvs.number_of(SAFE, f"10.2.0.{n}", 8080) for n in (1, 2, 3)}
    was = lvs.director.service(WEB)
    _transact(lvs.director)
    lvs.reopen()
    web = lvs.director.service(WEB)
    assert [(d.server.address, d.server.weight) for d in web.destinations] == [
        ("10.2.0.1", 2), ("10.2.0.3", 2), ("10.2.0.4", 2)
    ]  # fmt: skip
    assert web.stats[:5] == was.stats[:5] and web.stats.conns > 0
    assert web.destinations[0].stats[:5] == was.destinations[-1].stats[:5]
    assert talk.asks("A").reason == "forwarded_nat_request" and talk.answers("A").reason == "forwarded_nat_reply"
    assert {n: lvs.number_of(SAFE, f"10.2.0.{n}", 8080) for n in (1, 2, 3)} == numbers
    assert {sticky.from_port(sport).asks("S").packet.dst for sport in range(2000, 2006)} == {first}
    assert behaviour(lvs, NEWS, 3000) == {"10.2.0.5"}
    assert behaviour(lvs, WEB, 3000) == {"10.2.0.1", "10.2.0.3", "10.2.0.4"}
    assert behaviour(lvs, MAIL, 3000) == {"up_no_service"}
    assert lvs.director.timeouts() == Timeouts(500, 60, 70)
    _is_tidy(lvs)


def test_the_same_table_is_no_change(lvs: Harness) -> None:
    _fill(lvs)
    rules = lvs.ipvsadm("-Sn")
    for order in (1, -1):  # the other way round real servers stand in another order
        lines = rules.splitlines()
        generation = lvs.instance.config.get(0, "generation")
        with lvs.director.transaction() as table:
            table.flush()
            for service in (WEB, MAIL, SAFE):
                table.add_service(service)
                numbers = (1, 2) if service is WEB else (1, 2, 3)
                for number in numbers[::order]:
                    table.add_destination(service, server(number, number))
        assert (lvs.instance.config.get(0, "generation") == generation) == (order == 1)
        assert lvs.ipvsadm("-Sn").splitlines() == lines
        _is_tidy(lvs)


def test_round_robin_goes_on_where_it_was(lvs: Harness) -> None:
    lvs.director.add_service(WEB)
    for number in (1, 2, 3):
        lvs.director.add_destination(WEB, server(number))
    asked = [Talk(lvs, IPV4, sport=sport).asks("S").packet.dst for sport in (2000, 2001)]
    assert asked == ["10.2.0.3", "10.2.0.2"]
    _transact(lvs.director, lambda table: table.delete_destination(WEB, server(3)))
    assert Talk(lvs, IPV4, sport=2002).asks("S").packet.dst == "10.2.0.1"
    _transact(lvs.director, lambda table: table.add_destination(WEB, server(4)))
    assert [Talk(lvs, IPV4, sport=sport).asks("S").packet.dst for sport in (2003, 2004)] == ["10.2.0.4", "10.2.0.2"]


def test_counters_begin_anew_where_it_is_asked(lvs: Harness) -> None:
    _fill(lvs)
    Talk(lvs, IPV4, port=25).asks("S")
    _transact(lvs.director, lambda table: table.zero(WEB))
    assert lvs.director.service(WEB).stats.conns == 0 < lvs.director.service(MAIL).stats.conns
    _transact(lvs.director, lambda table: table.zero())
    assert lvs.director.totals().conns == lvs.director.service(MAIL).stats.conns == 0


def test_an_empty_table(lvs: Harness) -> None:
    talk = _fill(lvs)
    _transact(lvs.director, lambda table: table.flush())
    assert list(lvs.director.services()) == []
    assert talk.asks("A").reason == "up_no_service"
    _is_tidy(lvs)


def test_a_deleted_real_servers_connections_end_if_so_set(lvs: Harness) -> None:
    talk = _fill(lvs)
    lvs.set(expire_nodest_conn=1)
    _transact(lvs.director, lambda table: table.delete_destination(WEB, server(1)))
    assert talk.asks("A").reason not in ("dropped_destination_gone", "forwarded_nat_request")


def test_calls_from_real_servers_of_a_new_sip_service(lvs: Harness) -> None:
    phone = virtual_service(IPV4.vip, 5060, protocol=UDP, persistent=60, persistence_engine="sip", scheduler="rr")

    def change(table: Plan) -> None:
        table.add_service(phone)
        table.add_destination(phone, server(1))

    _transact(lvs.director, change)
    assert len(lvs.instance.speakers.keys()) == 1
    _transact(lvs.director, lambda table: table.delete_service(phone))
    assert len(lvs.instance.speakers.keys()) == 0


@pytest.mark.parametrize("seed", range(8))
def test_any_table_follows_any_other(lvs: Harness, seed: int) -> None:
    """Tables drawn by lot, one after the other."""
    lot = random.Random(seed)
    schedulers = ("rr", "wrr", "wlc", "sh", "dh", "mh", "lblc", "sed")
    for _ in range(5):
        wanted: dict[VirtualService, list] = {}
        for service in lot.sample(ALL, lot.randint(0, 4)):
            service = service._replace(scheduler=lot.choice(schedulers), persistent=lot.choice((0, 300)))
            numbers = lot.sample(range(1, 9), lot.randint(0, 5))
            wanted[service] = [server(n, lot.randint(0, 3))._replace(upper=lot.choice((0, 99))) for n in numbers]

        def change(table: Plan, wanted: dict[VirtualService, list] = wanted) -> None:
            table.flush()
            for service, servers in wanted.items():
                table.add_service(service)
                for one in servers:
                    table.add_destination(service, one)

        _transact(lvs.director, change)
        assert {entry.service: [dest.server for dest in entry.destinations] for entry in lvs.director.services()} == {
            service: servers[::-1] for service, servers in wanted.items()
        }
        _is_tidy(lvs)
        listing = configured(lvs.director)
        plain = {s.key for s, servers in wanted.items() if not s.persistent and all(rs.weight for rs in servers)}
        for service in ALL:
            if service.key in plain or service.key not in listing:
                seen = behaviour(lvs, service, lot.randrange(2000, 60000))
                assert seen <= behaviour_of(listing, service)
        if lot.random() < 0.5:
            lvs.reopen()
        if lot.random() < 0.3 and WEB.key in listing:
            lvs.director.delete_service(WEB)  # what a process remembers still holds
            lvs.director.add_service(WEB)
            lvs.director.add_destination(WEB, server(1))


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_a_refusal_changes_nothing(lvs: Harness) -> None:
    _fill(lvs)
    before, generation = configured(lvs.director), lvs.instance.config.get(0, "generation")

    def refused(table: Plan) -> None:
        _change(table)
        table.delete_service(MAIL)

    with pytest.raises(NoSuchService):
        _transact(lvs.director, refused)
    with pytest.raises(ZeroDivisionError):
        _transact(lvs.director, lambda table: table.flush() or 1 / 0)
    with pytest.raises(InvalidValue):
        _transact(lvs.director, lambda table: table.add_destination(WEB, real_server("224.0.0.1", 80)))
    assert (configured(lvs.director), lvs.instance.config.get(0, "generation")) == (before, generation)
    _is_tidy(lvs)


def test_what_is_refused_in_the_end_changes_nothing(lvs: Harness) -> None:
    """Old and new side by side must fit; and what was reserved before that was seen is free again."""
    _fill(lvs)
    before = configured(lvs.director)

    def many(mark: int, count: int) -> Callable[[Plan], None]:
        def change(table: Plan) -> None:
            table.flush()
            for number in range(count):
                table.add_service(virtual_service(fwmark=mark + number))

        return change

    room = lvs.instance.services.entries
    for _ in range(3):
        with pytest.raises(TableFull, match="for both the old and the new"):
            _transact(lvs.director, many(1, room - 2))
        assert configured(lvs.director) == before
        _is_tidy(lvs)
    _transact(lvs.director, many(1, room - 3))
    assert len(list(lvs.director.services())) == room - 3
    _transact(lvs.director, lambda table: table.flush())


def test_a_refused_restore_loads_nothing(lvs: Harness) -> None:
    lvs.unload()
    try:
        for options in ("-R --atomic", "-R --dry-run", "-R --dry-run --atomic"):
            err = io.StringIO()
            shell = Shell(io.StringIO("-A -f 1\n-A -f 1\n"), io.StringIO(), err)
            assert shell.run(options.split()) == 255
            assert "line 2: -A -f 1\n" in err.getvalue()
            assert instance.find() is None
        with Director() as director:
            _transact(director, lambda table: table.add_service(WEB))
            assert [entry.service for entry in director.services()] == [WEB]
    finally:
        loading.unload()
        lvs.load()


def test_restores_by_the_command(lvs: Harness) -> None:
    _fill(lvs)
    rules = lvs.ipvsadm("-Sn")
    err = io.StringIO()
    changed = rules.replace("-w 3", "-w 4") + "-A -f 9 -s rr\n"
    assert Shell(io.StringIO(changed), io.StringIO(), err).run(["-R", "--atomic"], replacing=True) == 0
    assert err.getvalue() == ""
    assert sorted(lvs.ipvsadm("-Sn").splitlines()) == sorted(changed.splitlines())
    bad = io.StringIO(rules + "-a -f 7 -r 10.2.0.1\n")
    assert Shell(bad, io.StringIO(), err).run(["-R", "--atomic"], replacing=True) == 255
    assert sorted(lvs.ipvsadm("-Sn").splitlines()) == sorted(changed.splitlines())


# ---- looked at, and killed ------------------------------------------------------------------------------------------


def test_nobody_sees_a_part_of_it(lvs: Harness) -> None:
    """One process changes from one table to the other and back while another reads."""

    def table_of(weight: int) -> Callable[[Plan], None]:
        def change(table: Plan) -> None:
            table.flush()
            for mark in range(1, 13):
                service = virtual_service(fwmark=mark + 6 * weight)
                table.add_service(service)
                table.add_destination(service, server(weight, weight))

        return change

    _transact(lvs.director, table_of(1))
    one = configured(lvs.director)
    _transact(lvs.director, table_of(2))
    two = configured(lvs.director)

    def swing() -> None:
        with Director() as director:
            for turn in range(30):
                _transact(director, table_of(1 + turn % 2))

    child = os.fork()
    if child == 0:
        os._exit(in_child(swing) & 0x7F)
    seen = set()
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        with Director() as director:
            now = configured(director)
        assert now in (one, two)
        seen.add(now == one)
    assert seen == {False, True}


def test_killed_at_every_store(lvs: Harness) -> None:
    _fill(lvs)
    old = configured(lvs.director)
    _transact(lvs.director)
    new = configured(lvs.director)
    died = decided = again = 0
    while True:
        talk = _fill(lvs)
        if in_child(_dying_at(died + 1, _transact)) == 0:
            break
        died += 1
        for service in ALL:  # to packets each is old or new, and the one that does not change stays
            now = behaviour(lvs, service, 3000 + 10 * died)
            if service is SAFE:  # who is persistent comes to one of them
                assert now < behaviour_of(old, service), died
            else:
                assert now in (behaviour_of(old, service), behaviour_of(new, service)), died
        assert talk.asks("A").reason == "forwarded_nat_request" and talk.answers("A").reason == "forwarded_nat_reply"
        # who repairs it is killed, too, each time at another store
        again += in_child(_dying_at(1 + died * 7 % 40, lambda director: list(director.services()))) == -signal.SIGKILL
        lvs.reopen()
        after = configured(lvs.director)
        assert after in (old, new), died
        assert decided <= (after == new), f"killed at store {died}: once it is decided it stays so"
        decided = after == new
        wanted = Timeouts(500, 60, 70) if decided else Timeouts(900, 120, 300)
        assert lvs.director.timeouts() == wanted
        _is_tidy(lvs)
        for service in ALL:
            now = behaviour(lvs, service, 3000 + 10 * died + 5000)
            assert now == behaviour_of(after, service) or service is SAFE, died
        assert talk.asks("A").reason == "forwarded_nat_request"
        # and everything can still be done
        lvs.director.add_destination(WEB, server(7))
        lvs.director.delete_destination(WEB, server(7))
        _transact(lvs.director)
        assert configured(lvs.director) == new
        _is_tidy(lvs)
    assert decided and died > 60 and again > 20
    assert not os.path.exists(f"{lvs.instance.path}/journal")


def test_the_next_change_finishes_it_too(lvs: Harness) -> None:
    _fill(lvs)
    _transact(lvs.director)
    new = configured(lvs.director)
    for change in (
        lambda director: director.add_service(MAIL),
        lambda director: director.delete_service(NEWS),
        lambda director: director.set_timeouts(Timeouts(0, 0, 0)),
        lambda director: _transact(director, lambda table: table.delete_destination(WEB, server(4))),
    ):
        _fill(lvs)

        def stops(director: Director) -> None:
            store = journal.JournaledTable._put_in_force

            def once(table: journal.JournaledTable, step: dict[str, Any]) -> None:
                store(table, step)
                os.kill(os.getpid(), signal.SIGKILL)

            journal.JournaledTable._put_in_force = once  # type: ignore[method-assign]
            _transact(director)

        assert in_child(_dying_at(1 << 30, stops)) == -signal.SIGKILL
        assert os.path.exists(f"{lvs.instance.path}/journal")
        with Director() as director:
            change(director)
        expected = dict(new)
        lvs.reopen()
        now = configured(lvs.director)
        assert {key for key in now if now[key] != expected.get(key)} <= {MAIL.key, WEB.key}
        assert NEWS.key in now or len(now) == len(expected) - 1
        assert MAIL.key not in now or len(now) == len(expected) + 1
        _is_tidy(lvs)


def test_who_waits_for_input_holds_no_lock(lvs: Harness) -> None:
    def stream() -> Iterator[str]:
        with bpffs.locked(lvs.instance.directory, create=False, wait=False):
            yield "-A -f 1\n"

    assert Shell(stream(), io.StringIO(), io.StringIO()).run(["-R", "--atomic"]) == 0
    assert [entry.service.fwmark for entry in lvs.director.services()] == [1]


def test_a_journal_that_cannot_be_read_is_said_in_a_line(lvs: Harness) -> None:
    _fill(lvs)
    lvs.configure(changing=0xFFFFFFFE)
    try:
        for words in (["-Ln"], ["-A", "-f", "1"], ["-R", "--atomic"], ["-R", "--dry-run"]):
            err = io.StringIO()
            assert Shell(io.StringIO("-A -f 1\n"), io.StringIO(), err).run(words) == 255
            assert err.getvalue().startswith("ipvsadm: a command was killed while it replaced the table")
            assert "pylvs unload" in err.getvalue() and err.getvalue().count("\n") == 1
    finally:
        lvs.configure(changing=0)


def test_a_journal_of_one_who_was_killed_before_it_was_decided_counts_for_nothing(lvs: Harness) -> None:
    """Not even when the next command is killed in the middle of something else."""
    _fill(lvs)
    old = configured(lvs.director)

    def stops(director: Director) -> None:
        def store(table: journal.JournaledTable, text: dict[str, Any]) -> None:
            write(table, text)
            os.kill(os.getpid(), signal.SIGKILL)

        write = journal.JournaledTable._write_down
        journal.JournaledTable._write_down = store  # type: ignore[method-assign]
        _transact(director)

    assert in_child(_dying_at(1 << 30, stops)) == -signal.SIGKILL
    assert os.path.exists(f"{lvs.instance.path}/journal")
    for store in range(1, 12):
        in_child(_dying_at(store, lambda director: director.edit_destination(WEB, server(1, 5))))
        lvs.reopen()
        lvs.director.edit_destination(WEB, server(1, 1))
        assert configured(lvs.director) == old
        _is_tidy(lvs)
