"""What the packet path has to know of a real server at the other end of a tunnel, beside its pool.

How the tunnel is made stands in the pool, and in the real server's record for the connections that there are. Where it
begins, the packet path asks routing for each time; only kernels before Linux 6.7 do not tell it, and go by what is
learned here (bpf/xmit/tunnel.h).
"""

from typing import Any

from pylvs.datapath import netlink
from pylvs.datapath.instance import Instance
from pylvs.datapath.records import pack_address, pack_tunnel
from pylvs.model import TUNNEL, RealServer


def described(server: RealServer, local: bool) -> dict[str, Any]:
    """The members of a struct dest that are about the tunnel to it. `local`: it is the director itself."""
    found: dict[str, Any] = {"tunnel": pack_tunnel(server)}
    if server.method == TUNNEL and not local:
        ifindex, source = netlink.source_for(server.family, server.address)
        if source:
            found.update(source_ifindex=ifindex, source=pack_address(source))
    return found


def prepare(instance: Instance, dest: int, server: RealServer, local: bool) -> None:
    """A real server becomes one that tunnels lead to, or another kind of tunnel: before its pool says so, for then
    packets go there. What they ask for changes in one store.
    """
    if server.method != TUNNEL:
        return
    for name, value in reversed(described(server, local).items()):
        if instance.dests.get(dest, name) != value:
            instance.dests.put(dest, name, value)
