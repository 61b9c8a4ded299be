"""Commands that are killed, at every single store that they make.

The process dies just before its n-th, for every n, and the next command must find the old configuration or the new
one, and packets with it.
"""

from collections.abc import Callable

import pytest

from pylvs.datapath import _layout, syscall
from pylvs.datapath.maps import SharedArray
from pylvs.datapath.services import ServiceTable
from pylvs.director import Director
from pylvs.model import Timeouts
from support.dying import by_director, dying_at, in_child
from support.harness import Harness
from support.tables import MAIL, WEB, Listing, behaviour, behaviour_of, configured, server
from support.talk import IPV4, Talk


@pytest.fixture
def lvs(alone: Harness) -> Harness:
    return alone


STORES = ((SharedArray, "write"), (SharedArray, "put"), (syscall, "map_update"), (syscall, "map_delete"))
Operation = Callable[[Director], None]
OPERATIONS: dict[str, Operation] = {
    "add a service": lambda d: d.add_service(MAIL),
    "delete a service": lambda d: d.delete_service(WEB),
    "another scheduler": lambda d: d.edit_service(WEB._replace(scheduler="wlc")),
    "add a real server": lambda d: d.add_destination(WEB, server(4)),
    "revive a real server": lambda d: d.add_destination(WEB, server(3)),
    "delete a real server": lambda d: d.delete_destination(WEB, server(1)),
    "quiesce a real server": lambda d: d.edit_destination(WEB, server(1, 0)),
    "limit a real server": lambda d: d.edit_destination(WEB, server(1, 3)._replace(upper=9, lower=2)),
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
        director.add_destination(WEB, server(number))
    director.delete_destination(WEB, server(3))
    lvs.reopen()
    talk = Talk(lvs, IPV4)
    first = talk.asks("S").packet.dst
    while first != "10.2.0.1":  # the one that will be deleted and quiesced
        talk = talk.from_port(talk.sport + 1)
        first = talk.asks("S").packet.dst
    return Talk(lvs, IPV4, sport=talk.sport, server=first)


def _dying_at(number: int, operation: Operation, torn: bool = False) -> Callable[[], object]:
    """Just before the n-th store; or, torn, in the middle of the n-th that is of a whole record."""
    return dying_at(number, STORES[:1] if torn else STORES, by_director(operation), torn)


def _serves_ipv4(lvs: Harness) -> bool:
    """Or has the family no service any more?"""
    return bool(lvs.instance.config.get(0, "families") & _layout.SERVES_IPV4)


def _agrees(lvs: Harness, talk: Talk, listing: Listing, first: int) -> None:
    """Packets of new and old connections go where this configuration says."""
    for service in (WEB, MAIL):
        assert behaviour(lvs, service, first) == behaviour_of(listing, service)
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
    old, old_timeouts = configured(lvs.director), lvs.director.timeouts()
    operation(lvs.director)
    new, new_timeouts = configured(lvs.director), lvs.director.timeouts()
    died = 0
    while True:
        talk = _begin(lvs)
        if in_child(_dying_at(died + 1, operation, torn)) == 0:
            break
        died += 1
        # packets meet one of the two before anybody repairs anything
        now = [behaviour(lvs, service, 3000) for service in (WEB, MAIL)]
        assert now in [[behaviour_of(listing, s) for s in (WEB, MAIL)] for listing in (old, new)], died
        assert talk.answers("A").reason == ("forwarded_nat_reply" if _serves_ipv4(lvs) else "up_no_service")
        lvs.reopen()
        seen = configured(lvs.director)
        assert seen in (old, new), f"killed at store {died}, then looked at"
        # the next command tidies up
        lvs.director.set_timeouts(Timeouts(0, 0, 0))
        after = configured(lvs.director)
        assert after in (old, new), f"killed at store {died}"
        assert lvs.director.timeouts() in (old_timeouts, new_timeouts)
        assert lvs.instance.config.get(0, "changing") == 0
        _agrees(lvs, talk, after, 4000)
        if after == old != new:
            operation(lvs.director)
            assert configured(lvs.director) == new, f"killed at store {died}, then done again"
            _agrees(lvs, talk, new, 5000)
        # and everything can still be done
        lvs.reopen()
        if WEB.key in configured(lvs.director):
            lvs.director.add_destination(WEB, server(7))
            lvs.director.delete_destination(WEB, server(7))
            lvs.director.delete_service(WEB)
        lvs.director.add_service(WEB)
        lvs.director.add_destination(WEB, server(1))
        assert talk.asks("A").reason == "forwarded_nat_request"
    assert died >= 1, "nothing was stored"
    assert configured(lvs.director) in (old, new)


def test_a_killed_first_addition_leaves_no_stray_real_server(lvs: Harness) -> None:
    """Whoever is available stands in a pool, also when the service had nobody before."""
    died = 0
    while True:
        _begin(lvs)
        lvs.director.add_service(MAIL)
        if in_child(_dying_at(died + 1, lambda director: director.add_destination(MAIL, server(5)))) == 0:
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
        lvs.director.add_destination(MAIL, server(5))
        old = configured(lvs.director)
        assert len(old) == 2
        if in_child(_dying_at(died + 1, lambda director: director.flush())) == 0:
            break
        died += 1
        now = [behaviour(lvs, service, 3000) for service in (WEB, MAIL)]
        assert now in [[behaviour_of(listing, s) for s in (WEB, MAIL)] for listing in (old, {})], died
        lvs.reopen()
        assert configured(lvs.director) in (old, {}), f"killed at store {died}, then looked at"
        lvs.director.set_timeouts(Timeouts(0, 0, 0))
        assert configured(lvs.director) in (old, {}), f"killed at store {died}"
    assert died > 4
