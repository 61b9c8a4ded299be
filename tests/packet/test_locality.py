"""lblc and lblcr: what a destination address had, for how long that is remembered, and by whom (facts 4.13, 4.14).

The services are found by a mark, so that clients can ask for many addresses.
"""

import os

import pytest

from pylvs.datapath import _layout, syscall
from pylvs.datapath.services import ServiceTable
from pylvs.model import MASQ, VirtualService, real_server, virtual_service
from pylvs.selections import Selection
from support.harness import Harness, frame
from support.packets import tcp_packet

DAY, MINUTE = 86400, 60


class Cached:
    """A service and three real servers, A, B and C, added in this order."""

    def __init__(self, lvs: Harness, scheduler: str, mark: int = 1, weights: tuple[int, ...] = (2, 2, 2)):
        self.lvs, self.scheduler, self.mark = lvs, scheduler, mark
        self.service = self.define()
        self.port = 1024
        for name, weight in zip("ABC", weights, strict=False):
            self.add(name, weight)

    def define(self) -> VirtualService:
        service = virtual_service(fwmark=self.mark, scheduler=self.scheduler)
        ServiceTable(self.lvs.instance).add(service)
        return service

    @staticmethod
    def server(name: str, weight: int = 1):
        return real_server(f"10.2.0.{'ABCDEFGH'.index(name) + 1}", 80, method=MASQ, weight=weight)

    def add(self, name: str, weight: int = 2) -> None:
        self.lvs.director.add_destination(self.service, self.server(name, weight))

    def weigh(self, name: str, weight: int) -> None:
        self.lvs.director.edit_destination(self.service, self.server(name, weight))

    def delete(self, name: str) -> None:
        self.lvs.director.delete_destination(self.service, self.server(name))

    def load(self, **active: int) -> None:
        for name, number in active.items():
            place = self.lvs.number_of(self.service, self.server(name).address, 80)
            self.lvs.instance.dest_loads.put(place, "active", number)
            self.lvs.instance.dest_loads.put(place, "total", number)

    def pick(self, asked: str = "192.0.2.1", keep: bool = False) -> str:
        """Who has a connection to this address. It ends at once, unless it is to be kept."""
        self.port += 1
        result = self.lvs.from_client(tcp_packet("10.1.0.1", self.port, asked, 80, "S"), mark=self.mark)
        assert result.forwarded or result.reason == "dropped_no_destination"
        if not keep:
            self.lvs.director.flush_connections(Selection())
        return "-ABCDEFGH"[int(result.packet.dst.rpartition(".")[2])] if result.forwarded else "-"

    def remembered(self, name: str) -> int:
        """In how many entries its name is."""
        place = self.lvs.number_of(self.service, self.server(name).address, 80)
        return self.lvs.instance.dest_loads.get(place, "cached")


def _entries(lvs: Harness, name: str) -> int:
    fd = syscall.get(f"{lvs.instance.path}/maps/{name}_cache")
    try:
        return len(syscall.map_keys(fd, syscall.map_size(fd)[0]))
    finally:
        os.close(fd)


BOTH = pytest.mark.parametrize("name", ["lblc", "lblcr"])


@BOTH
def test_an_address_stays_with_its_real_server(lvs: Harness, name: str) -> None:
    cached = Cached(lvs, name)
    assert cached.pick() == "C"
    cached.load(C=2)
    assert cached.pick() == "C"
    assert cached.pick("192.0.2.2") == "B"


@BOTH
def test_unless_it_is_too_busy_and_another_half_idle(lvs: Harness, name: str) -> None:
    cached = Cached(lvs, name, weights=(2, 2, 2))
    cached.pick()
    cached.load(A=1, B=1, C=3)
    assert cached.pick() == "C", "nobody is half idle"
    cached.load(A=0, B=1, C=3)
    assert cached.pick() == "A"
    cached.load(A=0, B=0, C=0)
    assert cached.pick() == "A", "the newest member of lblcr's set comes first"


@BOTH
def test_a_quiesced_or_deleted_one_is_replaced(lvs: Harness, name: str) -> None:
    cached = Cached(lvs, name)
    assert cached.pick() == "C"
    cached.weigh("C", 0)
    assert cached.pick() == "B"
    cached.delete("B")
    assert cached.pick() == "A"
    cached.weigh("A", 0)
    assert cached.pick() == "-"


def test_lblc_does_not_ask_whether_its_real_server_is_overloaded(lvs: Harness) -> None:
    """As in the kernel; lblcr does."""
    for name, second in (("lblc", "C"), ("lblcr", "B")):
        cached = Cached(lvs, name)
        assert cached.pick() == "C"
        place = lvs.number_of(cached.service, cached.server("C").address, 80)
        lvs.instance.dest_loads.put(place, "overload", 1)
        assert cached.pick("192.0.2.2") == "B", "for an address that had nobody it is passed over"
        lvs.instance.dest_loads.put(place, "overload", 1)
        assert cached.pick() == second
        lvs.reset()


def test_lblcrs_set_grows_and_shrinks(lvs: Harness) -> None:
    cached = Cached(lvs, "lblcr")
    assert cached.pick() == "C"
    cached.load(A=1, B=0, C=3)
    assert cached.pick() == "B"
    cached.load(A=0, B=3, C=3)
    assert cached.pick() == "A"
    assert [cached.remembered(name) for name in "ABC"] == [1, 1, 1]
    cached.load(A=1, B=2, C=1)
    lvs.set(lblcr_expiration=100)
    lvs.shift(99)
    assert cached.pick() == "A"
    assert cached.remembered("B") == 1
    cached.load(A=1, B=2, C=1)
    lvs.shift(2)
    cached.pick()
    assert [cached.remembered(name) for name in "ABC"] == [1, 0, 1], "the most loaded one has left"
    cached.load(A=1, B=2, C=1)
    cached.pick()
    assert [cached.remembered(name) for name in "ABC"] == [1, 0, 1], "and for as long again nobody does"


def test_a_full_set_lets_its_oldest_member_go(lvs: Harness) -> None:
    cached = Cached(lvs, "lblcr", weights=())
    servers = [real_server(f"10.2.1.{n}", 80, method=MASQ, weight=1) for n in range(1, _layout.CACHE_SET + 2)]
    loads = lvs.instance.dest_loads
    places = []
    for server in servers:
        lvs.director.add_destination(cached.service, server)
        places.append(lvs.number_of(cached.service, server.address, 80))
        for place in places[:-1]:
            loads.put(place, "active", 2)
        result = lvs.from_client(tcp_packet("10.1.0.1", 2000 + len(places), "192.0.2.1", 80, "S"), mark=1)
        assert result.packet.dst == server.address
        lvs.director.flush_connections(Selection())
        loads.put(places[-1], "active", 0)
    assert [loads.get(place, "cached") for place in places] == [0] + [1] * _layout.CACHE_SET


# ---- the end -----------------------------------------------------------------------------------------------------------


@BOTH
def test_what_was_not_used_for_long_is_forgotten(lvs: Harness, name: str) -> None:
    cached = Cached(lvs, name)
    lvs.set(**{f"{name}_expiration": 3600})
    cached.pick("192.0.2.1")
    lvs.advance(40 * MINUTE)
    assert _entries(lvs, name) == 1, "not yet too old"
    cached.pick("192.0.2.2")
    lvs.advance(40 * MINUTE)
    assert _entries(lvs, name) == 1, "the first is"
    lvs.advance(40 * MINUTE)
    assert _entries(lvs, name) == 0
    assert [cached.remembered(one) for one in "ABC"] == [0, 0, 0]


@BOTH
def test_the_default_is_a_day(lvs: Harness, name: str) -> None:
    cached = Cached(lvs, name)
    cached.pick()
    lvs.advance(DAY - MINUTE)
    assert _entries(lvs, name) == 1
    lvs.advance(31 * MINUTE)
    assert _entries(lvs, name) == 0


@BOTH
def test_old_ones_are_looked_for_every_half_hour(lvs: Harness, name: str) -> None:
    cached = Cached(lvs, name)
    lvs.set(**{f"{name}_expiration": 60})
    cached.pick()
    for _ in range(28):  # minutes are those of the clock, so it may be one more
        lvs.advance(MINUTE)
    assert _entries(lvs, name) == 1
    for _ in range(3):
        lvs.advance(MINUTE)
    assert _entries(lvs, name) == 0


@BOTH
def test_a_service_has_a_cache_of_its_own(lvs: Harness, name: str) -> None:
    one, other = Cached(lvs, name, 1), Cached(lvs, name, 2)
    one.pick()
    one.pick("192.0.2.2")
    other.pick()
    assert _entries(lvs, name) == 3
    lvs.director.delete_service(one.service)
    lvs.advance(MINUTE)
    assert _entries(lvs, name) == 1


@BOTH
def test_a_scheduler_bound_anew_begins_with_nothing(lvs: Harness, name: str) -> None:
    cached = Cached(lvs, name)
    assert cached.pick() == "C"
    cached.load(B=0, C=1)
    for scheduler in ("rr", name):
        table = ServiceTable(lvs.instance)
        table.edit(table.number(cached.service), cached.service._replace(scheduler=scheduler))
    lvs.reopen()
    assert cached.pick() == "B"
    lvs.advance(MINUTE)
    assert _entries(lvs, name) == 1


@BOTH
def test_a_remembered_real_server_waits_in_the_trash(lvs: Harness, name: str) -> None:
    """Until nobody names it any more; and then for as long as others."""
    cached = Cached(lvs, name, weights=(2,))
    cached.pick()
    place = lvs.number_of(cached.service, cached.server("A").address, 80)
    cached.delete("A")
    lvs.advance(1000)
    cached.add("B")
    assert lvs.instance.dests.get(place, "flags") & _layout.DEST_USED
    cached.add("A")
    assert lvs.number_of(cached.service, cached.server("A").address, 80) == place
    cached.delete("A")
    lvs.advance(2 * DAY)
    assert lvs.instance.dest_loads.get(place, "cached") == 0
    cached.add("C")
    assert lvs.instance.dests.get(place, "flags") & _layout.DEST_USED, "only just forgotten"
    lvs.advance(300)
    cached.add("D")
    assert not lvs.instance.dests.get(place, "flags") & _layout.DEST_USED or lvs.number_of(
        cached.service, cached.server("D").address, 80
    ) == place


@BOTH
def test_too_many_make_room(lvs: Harness, name: str) -> None:
    """Beyond one and a half times its size nothing more is remembered; from its size on, what is idle goes."""
    cached = Cached(lvs, name)
    most = _layout.CACHE_MOST
    flood = [
        tcp_packet("10.1.0.1", 1025, f"198.{18 + (n >> 16)}.{n >> 8 & 255}.{n & 255}", 80, "S") for n in range(most + 50)
    ]
    for start in range(0, len(flood), 1000):
        lvs.pour((frame(packet) for packet in flood[start : start + 1000]), mark=1)
        lvs.director.flush_connections(Selection())
    assert _entries(lvs, name) == most
    lvs.advance(MINUTE)
    assert _entries(lvs, name) == most, "all of them are fresh"
    lvs.advance(400)
    assert _entries(lvs, name) == most - _layout.CACHE_SIZE // 2
    cached.pick()
    assert _entries(lvs, name) == most - _layout.CACHE_SIZE // 2 + 1
