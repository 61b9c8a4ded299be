"""Firewalls that keep state between two directors: both must send both directions of a connection by the same one.

clients -- outer director --+-- firewall 1 --+-- inner director -- servers
                            +-- firewall 2 --+
                            +-- firewall 3 --+

What passes is marked, the service is the mark, the real servers are the firewalls: sh on the outside, where the client
is the source, and dh on the inside, where it is the destination, count alike.
"""

import pytest

from pylvs.model import real_server, virtual_service
from support.harness import Harness
from support.packets import tcp_packet
from support.talk import FAMILIES, IPV6, Family

IN, OUT = 1, 2
"""The marks: what comes in from the world, and what goes out into it."""


def _directors(lvs: Harness, family: Family) -> None:
    """Both in one: it is the numbers that count, not who has them."""
    for mark, scheduler in ((IN, "sh"), (OUT, "dh")):
        service = virtual_service(fwmark=mark, family=10 if family is IPV6 else 2, scheduler=scheduler)
        lvs.director.add_service(service)
        for firewall in family.servers[:3]:
            lvs.director.add_destination(service, real_server(firewall, 0, method=0))


@pytest.mark.parametrize("family", FAMILIES, ids=["ipv4", "ipv6"])
def test_both_directions_meet_in_one_firewall(lvs: Harness, family: Family) -> None:
    _directors(lvs, family)
    inside = family.servers[8]
    chosen = set()
    for number in range(1, 41):
        client = family.client[: -len("1")] + str(number)
        there = lvs.from_client(tcp_packet(client, 1024 + number, inside, 80), mark=IN).packet.dst
        back = lvs.from_server(tcp_packet(inside, 5000 + number, client, 80), mark=OUT).packet.dst
        assert there == back
        chosen.add(there)
    assert chosen == set(family.servers[:3]), "they share the work"
