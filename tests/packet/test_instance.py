"""The director's life: loaded, found, looked at by many, killed in the middle, renewed, removed.

What a killed command leaves is tried at every single store that it makes: the process dies just before its n-th, for
every n, and the next command must find the old configuration or the new one, and packets with it.
"""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from pylvs.datapath import _layout, interfaces, loading, syscall
from pylvs.datapath import instance as datapath
from pylvs.datapath.maps import SharedArray
from pylvs.datapath.services import ServiceTable
from pylvs.director import Director
from pylvs.errors import DatapathError, InvalidValue, NotSupported
from pylvs.lab.waiting import wait_for
from pylvs.model import MASQ, RealServer, Timeouts, VirtualService, real_server, virtual_service
from support.harness import INDEX, Harness, frame, ip, pins
from support.kernel import needs_tcx
from support.talk import IPV4, IPV6, Talk

WEB = virtual_service(IPV4.vip, 80, scheduler="rr")
MAIL = virtual_service(IPV4.vip, 25, scheduler="wrr")


@pytest.fixture
def lvs(own_network: Harness) -> Iterator[Harness]:
    own_network.enter()
    try:
        own_network.reset()
        yield own_network
    finally:
        own_network.enter()
        own_network.leave()


def _server(number: int, weight: int = 1) -> RealServer:
    return real_server(f"10.2.0.{number}", 8080, method=MASQ, weight=weight)


def _in_child(work: Callable[[], object]) -> int:
    """Do something in a process of its own; its exit code, or the signal that ended it, negated."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            work()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


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

    assert _in_child(look) == 0
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
                director.add_destination(WEB, _server(number))
                director.edit_destination(WEB, _server(number, number))

        return work

    def come_and_go(director: Director) -> None:
        for _ in range(10):
            director.add_service(MAIL)
            director.add_destination(MAIL, _server(99))
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


# Killed in the middle.

Operation = Callable[[Director], None]
OPERATIONS: dict[str, Operation] = {
    "add a service": lambda d: d.add_service(MAIL),
    "delete a service": lambda d: d.delete_service(WEB),
    "another scheduler": lambda d: d.edit_service(WEB._replace(scheduler="wlc")),
    "add a real server": lambda d: d.add_destination(WEB, _server(4)),
    "revive a real server": lambda d: d.add_destination(WEB, _server(3)),
    "delete a real server": lambda d: d.delete_destination(WEB, _server(1)),
    "quiesce a real server": lambda d: d.edit_destination(WEB, _server(1, 0)),
    "limit a real server": lambda d: d.edit_destination(WEB, _server(1, 3)._replace(upper=9, lower=2)),
    "flush": lambda d: d.flush(),
    "zero": lambda d: d.zero(),
    "timeouts": lambda d: d.set_timeouts(Timeouts(500, 60, 70)),
}


def _begin(lvs: Harness) -> Talk:
    """A service with two real servers, one more in the trash, and a connection."""
    lvs.reset()
    director = lvs.director
    director.add_service(WEB)
    for number in (1, 2, 3):
        director.add_destination(WEB, _server(number))
    director.delete_destination(WEB, _server(3))
    lvs.reopen()
    talk = Talk(lvs, IPV4)
    first = talk.asks("S").packet.dst
    while first != "10.2.0.1":  # the one that will be deleted and quiesced
        talk = talk.from_port(talk.sport + 1)
        first = talk.asks("S").packet.dst
    return Talk(lvs, IPV4, sport=talk.sport, server=first)


def _dying_at(number: int, work: Operation, torn: bool) -> Callable[[], None]:
    """Do the work, but die just before the n-th store; or, torn, in the middle of the n-th that is of whole records."""

    def run() -> None:
        left = [number]

        def dies(original: Callable) -> Callable:
            def store(*arguments: Any) -> object:
                left[0] -= 1
                if left[0] == 0:
                    if torn:
                        array, at, record = arguments
                        original(array, at, record[: len(record) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*arguments)

            return store

        SharedArray.write = dies(SharedArray.write)  # type: ignore[method-assign]
        if not torn:
            SharedArray.put = dies(SharedArray.put)  # type: ignore[method-assign]
            syscall.map_update = dies(syscall.map_update)
            syscall.map_delete = dies(syscall.map_delete)
        with Director() as director:
            work(director)

    return run


Listing = dict[tuple, tuple]


def _listing(director: Director) -> Listing:
    """What is configured: each service, its scheduler, and its real servers with their weights, in order."""
    return {
        service.service.key: (service.service.scheduler, tuple((d.server.address, d.server.weight, d.server[4:6])
                                                               for d in service.destinations))
        for service in director.services()
    }  # fmt: skip


def _serves_ipv4(lvs: Harness) -> bool:
    """Or has the family no service any more?"""
    return bool(lvs.instance.config.get(0, "families") & _layout.SERVES_IPV4)


def _behaviour(lvs: Harness, service: VirtualService, first: int) -> frozenset[str]:
    """Where packets go that open connections now; a reason's name where they go nowhere."""
    seen = set()
    for sport in range(first, first + 6):
        result = Talk(lvs, IPV4, sport=sport, port=service.port).asks("S")
        seen.add(result.packet.dst if result.forwarded else result.reason)
    return frozenset(seen)


def _behaviour_of(listing: Listing, service: VirtualService) -> frozenset[str]:
    """Where they should go."""
    if service.key not in listing:
        return frozenset({"up_no_service"})
    found = frozenset(address for address, weight, _ in listing[service.key][1] if weight)
    return found or frozenset({"dropped_no_destination"})


def _agrees(lvs: Harness, talk: Talk, listing: Listing, first: int) -> None:
    """Packets of new and old connections go where this configuration says."""
    for service in (WEB, MAIL):
        assert _behaviour(lvs, service, first) == _behaviour_of(listing, service)
        for address, weight, limits in listing.get(service.key, ("", ()))[1]:
            number, loads = lvs.number_of(service, address, 8080), lvs.instance.dest_loads
            counted = loads.get(number, "weight"), (loads.get(number, "upper"), loads.get(number, "lower"))
            assert counted == (weight, limits)
    there = any(address == talk.rs for address, *_ in listing.get(WEB.key, ("", ()))[1])
    if not listing:  # with a family's last service IPVS lets go of its packets
        assert talk.asks("A").reason == talk.answers("A").reason == "up_no_service"
        return
    assert talk.asks("A").reason == ("forwarded_nat_request" if there else "dropped_destination_gone")
    assert talk.answers("A").reason == "forwarded_nat_reply"


_WITHOUT_RECORDS = ("zero", "timeouts", "delete a service", "flush", "quiesce a real server")
_CASES = [pytest.param(name, False, id=f"{name}-before") for name in OPERATIONS] + [
    pytest.param(name, True, id=f"{name}-within") for name in OPERATIONS if name not in _WITHOUT_RECORDS
]


@pytest.mark.parametrize("name, torn", _CASES)
def test_killed_at_every_store(lvs: Harness, name: str, torn: bool) -> None:
    operation = OPERATIONS[name]
    _begin(lvs)
    old, old_timeouts = _listing(lvs.director), lvs.director.timeouts()
    operation(lvs.director)
    new, new_timeouts = _listing(lvs.director), lvs.director.timeouts()
    died = 0
    while True:
        talk = _begin(lvs)
        if _in_child(_dying_at(died + 1, operation, torn)) == 0:
            break
        died += 1
        # packets meet one of the two before anybody repairs anything
        now = [_behaviour(lvs, service, 3000) for service in (WEB, MAIL)]
        assert now in [[_behaviour_of(listing, s) for s in (WEB, MAIL)] for listing in (old, new)], died
        assert talk.answers("A").reason == ("forwarded_nat_reply" if _serves_ipv4(lvs) else "up_no_service")
        lvs.reopen()
        seen = _listing(lvs.director)
        assert seen in (old, new), f"killed at store {died}, then looked at"
        # the next command tidies up
        lvs.director.set_timeouts(Timeouts(0, 0, 0))
        after = _listing(lvs.director)
        assert after in (old, new), f"killed at store {died}"
        assert lvs.director.timeouts() in (old_timeouts, new_timeouts)
        assert lvs.instance.config.get(0, "changing") == 0
        _agrees(lvs, talk, after, 4000)
        if after == old != new:
            operation(lvs.director)
            assert _listing(lvs.director) == new, f"killed at store {died}, then done again"
            _agrees(lvs, talk, new, 5000)
        # and everything can still be done
        lvs.reopen()
        if WEB.key in _listing(lvs.director):
            lvs.director.add_destination(WEB, _server(7))
            lvs.director.delete_destination(WEB, _server(7))
            lvs.director.delete_service(WEB)
        lvs.director.add_service(WEB)
        lvs.director.add_destination(WEB, _server(1))
        assert talk.asks("A").reason == "forwarded_nat_request"
    assert died >= 1, "nothing was stored"
    assert _listing(lvs.director) in (old, new)


def test_a_killed_first_addition_leaves_no_stray_real_server(lvs: Harness) -> None:
    """Whoever is available stands in a pool, also when the service had nobody before."""
    died = 0
    while True:
        _begin(lvs)
        lvs.director.add_service(MAIL)
        if _in_child(_dying_at(died + 1, lambda director: director.add_destination(MAIL, _server(5)), False)) == 0:
            break
        died += 1
        lvs.reopen()
        lvs.director.set_timeouts(Timeouts(0, 0, 0))
        dests = lvs.instance.dests
        available = {
            number
            for number in range(lvs.instance.config.get(0, "dests_high"))
            if dests.get(number, "flags") & _layout.DEST_AVAILABLE
        }
        table = ServiceTable(lvs.instance)
        assert available == {member.dest for number in table.numbers() for member in table.members(number)}, died
    assert died > 4


def test_a_flush_of_many_services_is_all_or_nothing(lvs: Harness) -> None:
    died = 0
    while True:
        _begin(lvs)
        lvs.director.add_service(MAIL)
        lvs.director.add_destination(MAIL, _server(5))
        old = _listing(lvs.director)
        assert len(old) == 2
        if _in_child(_dying_at(died + 1, lambda director: director.flush(), False)) == 0:
            break
        died += 1
        now = [_behaviour(lvs, service, 3000) for service in (WEB, MAIL)]
        assert now in [[_behaviour_of(listing, s) for s in (WEB, MAIL)] for listing in (old, {})], died
        lvs.reopen()
        assert _listing(lvs.director) in (old, {}), f"killed at store {died}, then looked at"
        lvs.director.set_timeouts(Timeouts(0, 0, 0))
        assert _listing(lvs.director) in (old, {}), f"killed at store {died}"
    assert died > 4


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

    assert _in_child(live_and_die) == 0
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
        os._exit(_in_child(restless))
    status = None
    while status is None:
        with suppress(NotSupported):
            loading.prune()
        ended, code = os.waitpid(child, os.WNOHANG)
        status = code if ended else None
    assert os.waitstatus_to_exitcode(status) == 0


# Kernels before 6.6, which have no tcx links.


@pytest.fixture
def clsact(lvs: Harness, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    lvs.unload()

    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "no such link type")

    monkeypatch.setattr(syscall, "link_create", refuse)
    lvs.load()
    yield lvs
    lvs.unload()
    for device in ("lo", "d0", "d1"):
        subprocess.run(["tc", "qdisc", "del", "dev", device, "clsact"], capture_output=True, check=False)
    monkeypatch.undo()
    lvs.load()


def _tc(*words: str) -> str:
    return subprocess.run(["tc", *words], capture_output=True, text=True, check=True).stdout


def _filters(device: str = "d0") -> list[str]:
    """The filters that run a program of ours."""
    shown = _tc("filter", "show", "dev", device, "ingress").splitlines()
    return [line for line in shown if "pref 50432" in line and " id " in line]


def test_clsact_attached(clsact: Harness) -> None:
    assert set(clsact.instance.attached().values()) == {"clsact"}
    assert len(_filters()) == 1
    talk = Talk(clsact, IPV4).serve()
    assert clsact.wire([frame(talk.question("S"))]) == {"forwarded_nat_request": 1}


def test_clsact_replaced(clsact: Harness) -> None:
    talk = Talk(clsact, IPV4).serve()
    clsact.wire([frame(talk.question("S"))])
    before = _filters()
    clsact.instance.replace_programs()
    clsact.instance.attach(interfaces.find("d0"))
    after = _filters()
    assert len(after) == 1
    assert before != after
    assert clsact.wire([frame(talk.question("A"))]) == {"forwarded_nat_request": 1}


def test_clsact_detached(clsact: Harness) -> None:
    assert clsact.instance.detach(interfaces.find("d0"))
    assert _filters() == []
    assert len(_filters("d1")) == 1
    clsact.unload()
    assert _filters("d1") == []
    clsact.load()


def test_clsact_beside_others(clsact: Harness) -> None:
    """Somebody's own filters before and after ours stay, and let ours see their packets."""
    theirs = f"{clsact.instance.path}/programs/catch_up"  # any program that matches nothing
    for priority in ("10", "60000"):
        place = ("dev", "d0", "ingress", "pref", priority, "protocol", "all")
        _tc("filter", "add", *place, "bpf", "object-pinned", theirs)
    talk = Talk(clsact, IPV4).serve()
    assert clsact.wire([frame(talk.question("S")), frame(talk.from_port(20).question("S"))]) == {
        "forwarded_nat_request": 1, "up_client_port_20": 1,
    }  # fmt: skip
    clsact.unload()
    rest = _tc("filter", "show", "dev", "d0", "ingress")
    assert _filters() == []
    assert "pref 10 " in rest and "pref 60000 " in rest
    clsact.load()
    assert len(_filters()) == 1
