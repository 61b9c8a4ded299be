"""keepalived #1757 (and #1354): a weight of 0 has become 1 after a reload, and a quiesced real server gets connections.

A weight of 0 is a weight here: it is saved, restored, edited and kept as it is, by every scheduler.

What the kernel does to clients of a quiesced real server with sh, dh and mh is a complaint of its own: they are refused
while others idle. That is so here, too, by default; the flags sh-fallback and mh-fallback are the cure.
"""

import pytest

from pylvs.schedulers import NAMES
from support.harness import Harness
from support.talk import IPV4, Talk, at

QUIET, OTHER = IPV4.servers[:2]


def _weights(lvs: Harness) -> dict[str, int]:
    [service] = lvs.director.services()
    return {destination.server.address: destination.server.weight for destination in service.destinations}


@pytest.mark.parametrize("scheduler", NAMES)
def test_weight0_keepalived1757(lvs: Harness, scheduler: str) -> None:
    talk = Talk(lvs, IPV4).serve(2, scheduler=scheduler)
    talk.weigh(QUIET, 0)
    saved = lvs.ipvsadm("-Sn")
    assert f"-a {talk.key} -r {at(QUIET, 8080)} -m -w 0" in saved.splitlines()
    lvs.ipvsadm("-C")
    lvs.restore(saved)
    assert lvs.ipvsadm("-Sn") == saved
    lvs.reopen()
    for words in ("-b flag-1", ""):  # what a reload does: the service is edited, and every real server
        lvs.ipvsadm(f"-E {talk.key} -s {scheduler} {words}")
        talk.weigh(OTHER, 1)
        assert _weights(lvs) == {QUIET: 0, OTHER: 1}
    for port in range(2000, 2060):
        result = talk.from_port(port).asks("S")
        assert not result.forwarded or result.packet.dst == OTHER
    assert lvs.loads()[at(QUIET, 8080)] == (0, 0)


@pytest.mark.parametrize("scheduler", ["sh", "mh"])
def test_clients_of_a_quiesced_one_are_refused_unless_asked_otherwise(lvs: Harness, scheduler: str) -> None:
    talk = Talk(lvs, IPV4)
    lvs.ipvsadm(f"-A {talk.key} -s {scheduler} -b {scheduler}-port")
    talk.add(QUIET)
    talk.add(OTHER)
    talk.weigh(QUIET, 0)
    as_in_the_kernel = [talk.from_port(port).asks("S").reason for port in range(2000, 2060)]
    assert set(as_in_the_kernel) == {"forwarded_nat_request", "dropped_no_destination"}
    lvs.ipvsadm(f"-E {talk.key} -s {scheduler} -b {scheduler}-port,{scheduler}-fallback")
    assert {talk.from_port(port).asks("S").packet.dst for port in range(3000, 3060)} == {OTHER}
