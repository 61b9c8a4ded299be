"""Whom nat_icmp_send concerns: LVS-NAT real servers, under address and port (bpf/orphan.h, facts 6.3)."""

from collections.abc import Iterable

from pylvs.datapath import _layout, pools
from pylvs.datapath.instance import Instance
from pylvs.datapath.layout import SERVICE_KEY
from pylvs.model import MASQ

_NOTHING = bytes(4)


def agree(instance: Instance, numbers: Iterable[int]) -> None:
    """Tell the packet path who they are, after a change; nobody while nat_icmp_send is off.

    Args:
        numbers: all services; only gone through if it matters.
    """
    config = instance.config
    wanted: set[bytes] = set()
    if instance.sysctls.get(0, "nat_icmp_send"):
        for number in numbers:
            wanted |= _servers(instance, number)
    elif not config.get(0, "families") & _layout.SERVES_ORPHANS:
        return
    for key in instance.nat_servers.keys():  # noqa: SIM118
        if key not in wanted:
            instance.nat_servers.delete(key)
    for key in wanted:
        instance.nat_servers.put(key, _NOTHING)
    families = config.get(0, "families") & ~_layout.SERVES_ORPHANS
    config.put(0, "families", families | (_layout.SERVES_ORPHANS if wanted else 0))


def _servers(instance: Instance, number: int) -> set[bytes]:
    """The real servers of a service, under the key by which the packet path finds them."""
    dests = instance.dests
    found: set[bytes] = set()
    _, fwmark, _, protocol, _ = SERVICE_KEY.unpack(instance.services.get(number, "key"))
    if not instance.services.get(number, "pool"):
        return found
    for member in pools.read(instance, number).members():
        if member.flags & _layout.CONN_METHOD == MASQ:
            found.add(
                SERVICE_KEY.pack(
                    address=dests.get(member.dest, "address"),
                    port=dests.get(member.dest, "port"),
                    protocol=0 if fwmark else protocol,
                    family=dests.get(member.dest, "family"),
                )
            )
    return found
