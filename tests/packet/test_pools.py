"""Changes of a service under traffic: many, quick, of large services, and every packet finds one pool or the other."""

import os
import struct
import threading
from collections import Counter

import pytest

from pylvs.datapath import _layout, syscall
from pylvs.datapath.pools import Pools
from pylvs.errors import TableFull
from pylvs.model import MASQ, real_server, virtual_service
from pylvs.schedulers import NAMES
from pylvs.selections import Selection
from support.harness import CLIENT, INDEX, Harness, frame
from support.packets import tcp_packet
from support.talk import IPV4, Talk

VIP = "10.99.0.1"
WEB = virtual_service(VIP, 80)
MANY = 8192


def _server(number: int, weight: int = 1):
    return real_server(f"10.2.{number // 250}.{number % 250 + 1}", 80, method=MASQ, weight=weight)


def _syn(lvs: Harness, port: int, client: str = "10.1.0.1"):
    return lvs.from_client(tcp_packet(client, port, VIP, 80, "S"))


class Traffic:
    """New connections without end, from a thread; counted by where they went, in the program's own answers."""

    def __init__(self, lvs: Harness):
        self.lvs, self.stop, self.sent = lvs, threading.Event(), 0
        self.seen: Counter[str] = Counter()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.lvs.enter()  # threads have namespaces of their own
        context = bytearray(192)
        struct.pack_into("=II", context, 36, INDEX[CLIENT], INDEX[CLIENT])
        program = self.lvs.instance.program("ingress")
        while not self.stop.is_set():
            self.sent += 1
            client = f"10.1.{self.sent >> 8 & 255}.{self.sent & 255}"
            packet = frame(tcp_packet(client, 1024 + self.sent % 60000, VIP, 80, "S"))
            _, after, _, _ = syscall.run(program, packet, bytes(context), room=128)
            self.seen[".".join(map(str, after[30:34]))] += 1
        os.close(program)

    def __enter__(self) -> "Traffic":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()


@pytest.mark.parametrize("scheduler", NAMES)
def test_changes_under_traffic(lvs: Harness, scheduler: str) -> None:
    """Whatever changes, nobody is refused, contended or sent astray."""
    service = WEB._replace(scheduler=scheduler)
    lvs.director.add_service(service)
    for number in range(20):
        lvs.director.add_destination(service, _server(number, 1000))
    before = lvs.reasons()
    with Traffic(lvs) as traffic:
        for turn in range(60):
            lvs.director.edit_destination(service, _server(turn % 20, 1000 + turn))
            lvs.director.add_destination(service, _server(20, 1000))
            lvs.director.delete_destination(service, _server(20))
            if turn % 8 == 0:
                lvs.director.flush_connections(Selection())
    now = lvs.reasons()
    assert traffic.sent > 50
    assert set(traffic.seen) <= {_server(number).address for number in range(21)}
    went = {name: now[name] - before[name] for name in now if now[name] != before[name]}
    assert set(went) <= {"received", "forwarded_nat_request"}


def test_other_schedulers_under_traffic(lvs: Harness) -> None:
    """No connection is lost by changing scheduler, flags and weights."""
    lvs.director.add_service(WEB)
    for number in range(5):
        lvs.director.add_destination(WEB, _server(number, 1000))
    # established: half-open ones may give way to others
    held = {port: Talk(lvs, IPV4, sport=port, rport=80).opens().rs for port in range(64000, 64020)}
    with Traffic(lvs) as traffic:
        for turn in range(5):
            for name in NAMES:
                flags = (f"{name}-port",) if name in ("sh", "mh") and turn % 2 else ()
                lvs.director.edit_service(WEB._replace(scheduler=name, scheduler_flags=flags))
                lvs.director.edit_destination(WEB, _server(turn, 900 + turn))
    assert set(traffic.seen) <= {_server(number).address for number in range(5)}
    for port, rs in held.items():
        assert lvs.from_client(tcp_packet("10.1.0.1", port, VIP, 80, "A")).packet.dst == rs


def test_a_pool_that_is_being_written_is_not_read(lvs: Harness) -> None:
    """What an odd version means to a packet: there is nothing that it could believe."""
    lvs.director.add_service(WEB)
    lvs.director.add_destination(WEB, _server(1))
    pool = lvs.instance.services.get(0, "pool")
    version = lvs.instance.pools.get(pool, "version")
    assert version % 2 == 0
    lvs.instance.pools.put(pool, "version", version + 1)
    assert _syn(lvs, 1025).reason == "dropped_contended"
    lvs.instance.pools.put(pool, "version", version)
    assert _syn(lvs, 1025).forwarded


def test_what_a_scheduler_remembers_is_of_one_pool(lvs: Harness) -> None:
    """A choice made from the former pool after the new one came does not move the new one's state."""
    service = WEB._replace(scheduler="rr")
    lvs.director.add_service(service)
    for number in range(3):
        lvs.director.add_destination(service, _server(number))
    picks = [_syn(lvs, port).packet.dst for port in range(1025, 1028)]
    assert picks == [_server(number).address for number in (2, 1, 0)]
    late = lvs.instance.services.get(0, "state")
    lvs.director.add_destination(service, _server(3))
    lvs.instance.services.put(0, "state", late)
    assert _syn(lvs, 1030).packet.dst == _server(3).address, "as after the last one of the list"


def test_versions_and_states_never_meet_again(lvs: Harness) -> None:
    """After as many changes of other services as there are tags, a state is still known to be of another pool."""
    service = WEB._replace(scheduler="rr")
    lvs.director.add_service(service)
    lvs.director.add_destination(service, _server(0))
    lvs.director.add_destination(service, _server(1))
    assert _syn(lvs, 1025).packet.dst == _server(1).address
    shift = _layout.STATE_TAG_SHIFT
    for version in range(
        lvs.instance.config.get(0, "pool_version"), lvs.instance.config.get(0, "pool_version") + 4100, 2
    ):
        lvs.instance.config.put(0, "pool_version", version)
        lvs.director.add_destination(service, _server(2))
        pool = lvs.instance.services.get(0, "pool")
        tag = lvs.instance.pools.get(pool, "version") >> 1 & 0x3FF
        assert tag != lvs.instance.services.get(0, "state") >> shift
        lvs.director.delete_destination(service, _server(2))
    assert _syn(lvs, 1026).packet.dst == _server(0).address


@pytest.mark.parametrize("scheduler", ["rr", "wlc", "sh", "mh"])
def test_8192_real_servers(scheduler: str) -> None:
    """One after the other, and all of them are found."""
    with Harness(conn_bits=16, max_services=8, max_dests=MANY + 64) as lvs:
        service = WEB._replace(scheduler=scheduler)
        lvs.director.add_service(service)
        most = 1000 if scheduler == "mh" else MANY
        for number in range(most):
            lvs.director.add_destination(service, _server(number))
        [found] = lvs.director.services()
        assert len(found.destinations) == most
        if scheduler == "rr":
            picks = [_syn(lvs, 1024 + n % 60000, f"10.1.1.{n // 60000}").packet.dst for n in range(MANY)]
            assert picks == [_server(number).address for number in reversed(range(MANY))]
        elif scheduler == "wlc":
            loads = lvs.instance.dest_loads
            for number in range(MANY):
                loads.put(number, "active", 1 + number % 7)
            for number in (0, 17, MANY - 1):
                loads.put(number, "active", 0)
                assert _syn(lvs, 1024 + number).packet.dst == _server(number).address
        else:
            picks = Counter(_syn(lvs, 1025, f"10.1.{n >> 8}.{n & 255}").packet.dst for n in range(1024))
            assert len(picks) > 200 and set(picks) <= {_server(number).address for number in range(most)}


def test_room(lvs: Harness) -> None:
    """Every service may have a table; and when there is no room, that is said, and nothing is changed."""
    services = [WEB._replace(port=number + 1, scheduler="mh") for number in range(64)]
    for service in services:
        lvs.director.add_service(service)
        for number in range(7):
            lvs.director.add_destination(service, _server(number))
    saved = lvs.ipvsadm("-Sn")
    used = Pools(lvs.instance).used
    pools, generation = lvs.instance.pools, lvs.instance.config.get(0, "generation")
    assert used.count(0) > pools.entries // 8
    director = lvs.director
    director._table._remembered().pools.used[:] = b"\1" * pools.entries  # type: ignore[union-attr]
    with pytest.raises(TableFull, match="no room for a service with 8 real servers and a table of 4093 entries; load"):
        director.add_destination(services[0], _server(9))
    assert lvs.instance.config.get(0, "generation") == generation
    assert lvs.ipvsadm("-Sn") == saved


def test_a_pool_that_is_given_up_is_used_again(lvs: Harness) -> None:
    service = WEB._replace(scheduler="mh")
    lvs.director.add_service(service)
    for turn in range(3000):
        lvs.director.edit_service(service._replace(scheduler="mh" if turn % 2 else "sh"))
    assert Pools(lvs.instance).used.count(1) < 300
