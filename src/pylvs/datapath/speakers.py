"""Real servers that begin connections (facts 5.5): those of a SIP service by LVS-NAT, under address and port."""

import sys
from _socket import IPPROTO_UDP
from collections.abc import Iterable

from pylvs.datapath import _layout, pools
from pylvs.datapath.instance import Instance
from pylvs.datapath.layout import POOL_OPTIONS, SERVICE_KEY
from pylvs.model import MASQ


def speaks(instance: Instance, number: int) -> bool:
    """Is it a service whose real servers may begin connections?"""
    services = instance.services
    pool = services.get(number, "pool")
    if not pool or POOL_OPTIONS.get(instance.pools.memory, pool + 1, "engine") != _layout.ENGINE_SIP:
        return False
    _, fwmark, port, protocol, _ = SERVICE_KEY.unpack(services.get(number, "key"))
    return protocol == IPPROTO_UDP and not fwmark and bool(port)


def agree(instance: Instance, changed: int | None, numbers: Iterable[int]) -> None:
    """Tell the packet path who they are, after a change.

    Args:
        changed: the service that was changed; None: any.
        numbers: all services; only gone through if it matters.
    """
    config = instance.config
    known = config.get(0, "families") & _layout.SERVES_SPEAKERS
    if not known and changed is not None and not speaks(instance, changed):
        return
    wanted: dict[bytes, bytes] = {}
    for number in numbers:
        if speaks(instance, number):
            wanted |= _speakers(instance, number)
    for key in instance.speakers.keys():  # noqa: SIM118
        if key not in wanted:
            instance.speakers.delete(key)
    for key, value in wanted.items():
        instance.speakers.put(key, value)
    # written last, and only the packet path's readiness to look: what it finds there is checked against the service
    families = config.get(0, "families") & ~_layout.SERVES_SPEAKERS
    config.put(0, "families", families | (_layout.SERVES_SPEAKERS if wanted else 0))


def _speakers(instance: Instance, number: int) -> dict[bytes, bytes]:
    """The real servers of a service, under the key by which the packet path finds them."""
    dests, found = instance.dests, {}
    for member in pools.read(instance, number).members():
        if member.flags & _layout.CONN_METHOD == MASQ and dests.get(member.dest, "port"):
            key = SERVICE_KEY.pack(
                address=dests.get(member.dest, "address"),
                port=dests.get(member.dest, "port"),
                protocol=IPPROTO_UDP,
                family=dests.get(member.dest, "family"),
            )
            found[key] = member.dest.to_bytes(4, sys.byteorder)
    return found
