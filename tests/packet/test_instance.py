"""The director's life: loaded, found, looked at by many, renewed, removed."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

import pytest

from pylvs.datapath import instance as datapath
from pylvs.datapath import interfaces, loading, programs, syscall
from pylvs.datapath import object as loader
from pylvs.director import Director
from pylvs.errors import DatapathError, InvalidValue, NotSupported
from pylvs.lab.waiting import wait_for
from pylvs.model import Timeouts
from support.dying import in_child
from support.harness import INDEX, Harness, frame, ip, pins
from support.kernel import needs_tcx
from support.tables import MAIL, WEB, server
from support.talk import IPV4, IPV6, Talk


@pytest.fixture
def lvs(alone: Harness) -> Harness:
    return alone


# Loading and finding.


def test_nothing_is_loaded_by_looking(lvs: Harness) -> None:
    lvs.unload()
    with Director() as director:
        assert director.instance is None
        assert list(director.services()) == [] and list(director.connections()) == []
    assert datapath.find() is None
    assert not loading.unload()


def test_first_change_loads(lvs: Harness) -> None:
    lvs.unload()
    with Director() as director:
        director.add_service(WEB)
    found = datapath.find()
    assert found is not None
    assert set(found.attached()) >= set(INDEX.values())
    found.close()
    lvs.load()


def test_every_program_is_loaded_in_one_share_alone(lvs: Harness) -> None:
    shared = [name for share in programs.SHARES for name in share]
    assert len(set(shared)) == len(shared)
    assert set(shared) < set(os.listdir(f"{lvs.instance.path}/programs"))


@pytest.mark.parametrize("cpus", [1, 2, 64])
def test_whatever_the_number_of_cpus(lvs: Harness, monkeypatch: pytest.MonkeyPatch, cpus: int) -> None:
    before = set(os.listdir(f"{lvs.instance.path}/programs"))
    talk = Talk(lvs, IPV4).serve().opens()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    lvs.instance.replace_programs()
    after = set(os.listdir(f"{lvs.instance.path}/programs"))
    assert {name for name in before ^ after if not name.startswith(programs.STEPS)} == set()
    assert talk.asks("A").forwarded


def test_a_share_that_is_refused(lvs: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others' programs go, too, and what ran goes on."""
    talk = Talk(lvs, IPV4).serve().opens()
    load = loader.Object.__init__

    def refuse(one: loader.Object, *words: object, **options: Callable[[str], bool]) -> None:
        if options.get("wanted", lambda _: False)("ftp"):
            raise DatapathError("the kernel refused the eBPF programs")
        load(one, *words, **options)  # type: ignore[arg-type]

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(loader.Object, "__init__", refuse)
    with pytest.raises(DatapathError, match="refused"):
        lvs.instance.replace_programs()
    assert len(os.listdir("/proc/self/fd")) == before
    assert talk.asks("A").forwarded


def test_loading_again_changes_nothing(lvs: Harness) -> None:
    talk = Talk(lvs, IPV4).serve().opens()
    loading.load().close()
    assert talk.asks("A").forwarded
    assert lvs.instance.config.get(0, "conn_slots") == 4096


@pytest.mark.parametrize("sizes", [
    {"conn_bits": 11}, {"conn_bits": 27}, {"max_services": 0}, {"max_dests": 0}, {"max_dests": 1 << 23},
])  # fmt: skip
def test_sizes_that_cannot_be(lvs: Harness, sizes: dict[str, int]) -> None:
    lvs.unload()
    with pytest.raises(InvalidValue):
        loading.load(**sizes)
    assert datapath.find() is None
    lvs.load()


def test_loading_that_fails_leaves_nothing(lvs: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    lvs.unload()
    before = pins()

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "refused")

    with monkeypatch.context() as patch:
        patch.setattr(interfaces, "attach", refuse)
        with pytest.raises((DatapathError, OSError)):
            loading.load(12, 64, 512)
    assert datapath.find() is None
    assert pins() <= before
    lvs.load()
    assert Talk(lvs, IPV4).serve().asks("S").forwarded


def test_unloading_gives_everything_back(lvs: Harness) -> None:
    lvs.unload()
    path = "/proc/sys/net/ipv4/conf/lo/forwarding"
    for value in ("0", "1"):
        with open(path, "w", encoding="ascii") as file:
            file.write(value)
        lvs.load()
        Talk(lvs, IPV4).serve().opens()
        directory = lvs.instance.directory
        lvs.unload()
        assert not os.path.exists(directory)
        with open(path, encoding="ascii") as file:
            assert file.read().strip() == value
    lvs.load()
    assert list(lvs.director.services()) == [] and not lvs.entries()


def test_packets_really_pass_the_program(lvs: Harness) -> None:
    """Attached: what comes over the cable is counted as what is put through by hand."""
    talk = Talk(lvs, IPV4).serve()
    assert lvs.wire([frame(talk.question("S")), frame(talk.question("A"))]) == {"forwarded_nat_request": 2}
    assert talk.entry.shown.packets == 2


def test_attach_and_detach(lvs: Harness) -> None:
    talk = Talk(lvs, IPV4).serve()
    client_side = interfaces.find("d0")
    for _ in range(3):
        assert lvs.instance.detach(client_side)
        assert not lvs.instance.detach(client_side)
        lvs.instance.attach(client_side)  # at once
    assert lvs.instance.detach(client_side)
    assert client_side.index not in lvs.instance.attached()
    lvs.instance.attach(client_side)
    lvs.instance.attach(client_side)
    assert lvs.wire([frame(talk.question("S"))]) == {"forwarded_nat_request": 1}, "attached once, not twice"


@needs_tcx
def test_interfaces_that_come_and_go(lvs: Harness) -> None:
    ip("link add x0 index 300 type veth peer name x1")
    try:
        with pytest.raises(InvalidValue, match="there is no interface x9"):
            interfaces.find("x9")
        lvs.instance.attach(interfaces.find("x0"))
        assert 300 in lvs.instance.attached()
        ip("link del x0")
        assert 300 not in lvs.instance.attached()
        ip("link add x0 index 300 type veth peer name x1")  # another one of the same number
        assert 300 not in lvs.instance.attached()
        lvs.instance.attach(interfaces.find("x0"))
        assert 300 in lvs.instance.attached()
    finally:
        ip("link del x0")


# Many processes.


def test_another_process_sees_everything(lvs: Harness) -> None:
    talk = Talk(lvs, IPV4).serve(2).opens()
    lvs.director.set_timeouts(Timeouts(1234, 0, 0))

    def seen(director: Director) -> list:
        """Everything but what passing time changes: rates, and the time that connections have left."""
        services = [
            (s.service, s.stats[:5], [(d.server, d.active, d.inactive, d.stats[:5]) for d in s.destinations])
            for s in director.services()
        ]
        connections = sorted(c._replace(expires=0) for c in director.connections())
        return [services, connections, director.timeouts(), director.totals()[:5]]

    ours = seen(lvs.director)
    assert len(ours[0]) == len(ours[1]) == 1 and ours[2] == Timeouts(1234, 120, 300)

    def look() -> None:
        with Director() as director:
            assert seen(director) == ours

    assert in_child(look) == 0
    assert talk.asks("A").forwarded


def test_the_commands_see_everything(lvs: Harness) -> None:
    Talk(lvs, IPV4).serve(2, scheduler="wlc").opens()
    command = [sys.executable, "-c", "from pylvs.ipvsadm import main; main()"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def run(*words: str) -> str:
        return subprocess.run([*command, *words], env=environment, capture_output=True, text=True, check=True).stdout

    assert run("-Ln") == lvs.ipvsadm("-Ln")
    assert "10.1.0.1:1025" in run("-Lnc")
    run("-e", "-t", "10.99.0.1:80", "-r", "10.2.0.1:8080", "-m", "-w", "7")
    assert {d.server.weight for s in lvs.director.services() for d in s.destinations} == {1, 7}


def test_commands_at_once_come_one_after_the_other(lvs: Harness) -> None:
    """Forty real servers, added by eight processes, with weights edited and a service coming and going meanwhile."""
    lvs.director.add_service(WEB)
    gate, opener = os.pipe()

    def start(work: Callable[[Director], None]) -> int:
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            os.close(opener)
            os.read(gate, 1)  # until everybody is there
            with Director() as director:
                work(director)
            code = 0
        finally:
            os._exit(code)

    def add(numbers: range) -> Callable[[Director], None]:
        def work(director: Director) -> None:
            for number in numbers:
                director.add_destination(WEB, server(number))
                director.edit_destination(WEB, server(number, number))

        return work

    def come_and_go(director: Director) -> None:
        for _ in range(10):
            director.add_service(MAIL)
            director.add_destination(MAIL, server(99))
            director.delete_service(MAIL)

    children = [start(add(range(1 + 5 * n, 6 + 5 * n))) for n in range(8)] + [start(come_and_go)]
    os.close(gate)
    os.close(opener)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 9
    [service] = lvs.director.services()
    assert sorted((d.server.address, d.server.weight) for d in service.destinations) == sorted(
        (f"10.2.0.{n}", n) for n in range(1, 41)
    )
    chosen = {Talk(lvs, IPV4, sport=2000 + n).asks("S").packet.dst for n in range(40)}
    assert len(chosen) == 40


# Renewed.


@needs_tcx
def test_programs_are_replaced_under_running_connections(lvs: Harness) -> None:
    talks = [Talk(lvs, family).serve().opens() for family in (IPV4, IPV6)]
    before = {index: _program_of(lvs, index) for index in INDEX.values()}
    stats = lvs.director.totals()[:5]
    lvs.instance.replace_programs()
    assert all(_program_of(lvs, index) != old for index, old in before.items())
    lvs.reopen()
    assert lvs.director.totals()[:5] == stats
    for talk in talks:
        assert talk.asks("A").reason == "forwarded_nat_request"
        assert talk.answers("A").reason == "forwarded_nat_reply"
        assert lvs.wire([frame(talk.question("A"))]) == {"forwarded_nat_request": 1}
    lvs.advance(1000)
    assert lvs.instance.runtime.get(0, "conns") == 0
    assert not lvs.instance.outdated()


def _program_of(lvs: Harness, index: int) -> int:
    link = syscall.get(f"{lvs.instance.path}/links/{index}")
    try:
        return syscall.link_program(link)
    finally:
        os.close(link)


def test_the_timer_goes_on_after_that(lvs: Harness) -> None:
    lvs.instance.replace_programs()
    lvs.reopen()
    runtime = lvs.instance.runtime
    assert runtime.get(0, "timer_error") == 0
    seen = runtime.get(0, "swept")
    wait_for(lambda: runtime.get(0, "swept") > seen, "the timer to sweep")


# Gone namespaces.


@needs_tcx
def test_pins_of_a_gone_namespace_are_removed(lvs: Harness) -> None:
    """Killed without a chance to clean up; its namespace ends with it, its pins do not."""
    told, tell = os.pipe()

    def live_and_die() -> None:
        with lvs.outside():
            other = Harness()
            os.write(tell, os.path.basename(other.instance.directory).encode())
            os._exit(0)

    assert in_child(live_and_die) == 0
    os.close(tell)
    cookie = os.read(told, 100).decode()
    os.close(told)

    def pruned() -> bool:
        with suppress(NotSupported):  # somebody else's director of whom it cannot be told
            loading.prune()
        return cookie not in pins()

    wait_for(pruned, "the namespace to be gone", 20)
    assert os.path.basename(lvs.instance.directory) in pins()
    assert Talk(lvs, IPV4).serve().asks("S").forwarded


def test_pruning_leaves_those_alone_who_come_and_go(lvs: Harness) -> None:
    """Another namespace's director is unloaded and loaded all the time: it is never taken for dead."""

    def restless() -> None:
        with lvs.outside(), Harness() as other:
            for _ in range(10):
                other.reload()
                assert os.path.isdir(other.instance.path)
                assert set(other.instance.attached()) >= set(INDEX.values())

    child = os.fork()
    if child == 0:
        os._exit(in_child(restless))
    status = None
    while status is None:
        with suppress(NotSupported):
            loading.prune()
        ended, code = os.waitpid(child, os.WNOHANG)
        status = code if ended else None
    assert os.waitstatus_to_exitcode(status) == 0
