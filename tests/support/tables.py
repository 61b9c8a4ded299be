"""A small table of services, what is configured of it, and where packets go by it."""

from pylvs.director import Director
from pylvs.model import MASQ, RealServer, VirtualService, real_server, virtual_service
from support.harness import Harness
from support.talk import IPV4, Talk

WEB = virtual_service(IPV4.vip, 80, scheduler="rr")
MAIL = virtual_service(IPV4.vip, 25, scheduler="wrr")

Listing = dict[tuple, tuple]


def server(number: int, weight: int = 1) -> RealServer:
    """The n-th real server."""
    return real_server(f"10.2.0.{number}", 8080, method=MASQ, weight=weight)


def configured(director: Director) -> Listing:
    """What is configured: each service, its scheduler, and its real servers with their weights, in order."""
    return {
        service.service.key: (service.service.scheduler, tuple((d.server.address, d.server.weight, d.server[4:6])
                                                               for d in service.destinations))
        for service in director.services()
    }  # fmt: skip


def behaviour(lvs: Harness, service: VirtualService, first: int) -> frozenset[str]:
    """Where packets go that open connections now; a reason's name where they go nowhere.

    Args:
        first: the client's port of the first of six.
    """
    seen = set()
    for sport in range(first, first + 6):
        result = Talk(lvs, IPV4, sport=sport, port=service.port).asks("S")
        seen.add(result.packet.dst if result.forwarded else result.reason)
    return frozenset(seen)


def behaviour_of(wanted: Listing, service: VirtualService) -> frozenset[str]:
    """Where they should go."""
    if service.key not in wanted:
        return frozenset({"up_no_service"})
    found = frozenset(address for address, weight, _ in wanted[service.key][1] if weight)
    return found or frozenset({"dropped_no_destination"})
