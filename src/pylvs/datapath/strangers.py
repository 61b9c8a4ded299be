"""Real servers of the other address family, where the stack forwards (conntrack): by LVS-TUN a request of one family
may go to a real server of the other, but the stack needs a destination of the request's own. So on its way there it
has one that stands for the real server, and a route for all such addresses leads out of the cable (detour.py):

    eth0 --> ingress: VIP -> 254.0.0.N --> PREROUTING, FORWARD --> route --> egress of pylvs0: VIP again, and tunnel

N is the number of the real server's record. Nothing ever comes out of the cable's other end: what egress does not know
is dropped there.

Rules of this file:
 - What is ours carries our protocol number, as in detour.py.
 - The way is there before `config.egress` says so (EGRESS_OTHER), by which connections are made that go it; and until
   none of these is left. A command that was killed leaves a route that nobody uses, or the next command puts back what
   is missing.
"""

import errno
import struct
from _socket import AF_INET, AF_INET6

from pylvs.datapath import _layout, detour, netlink
from pylvs.datapath.netlink import CREATE, REPLACE, attribute

_NEWROUTE, _DELROUTE, _MAIN, _UNICAST, _SCOPE_LINK = 24, 25, 254, 1, 253
_RTA_DST, _RTA_OIF = 1, 4
_NETWORKS = {
    AF_INET: (struct.pack(">I", _layout.STAND_IN_IPV4), 8),
    AF_INET6: (struct.pack(">IIII", _layout.STAND_IN_IPV6_FIRST, _layout.STAND_IN_IPV6_SECOND, 0, 0), 96),
}
_NO_SUCH = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP)


def lay() -> int:
    """Make the way, if it is not there.

    Returns:
        The number of the interface by which what goes it leaves.

    Raises:
        NotSupported: the names of our interfaces are others', or the kernel has no such devices.
    """
    outer, _ = detour.lay_cable()
    for family in _NETWORKS:
        try:
            netlink.change(_NEWROUTE, _route(family, outer), CREATE | REPLACE)
        except OSError as error:
            if error.errno not in _NO_SUCH:  # a kernel without the family
                raise
    return outer


def remove() -> None:
    """Take it away; the cable, too, unless marked packets come by it."""
    outer = detour.outer()
    if not outer:
        return
    for family in _NETWORKS:
        try:
            netlink.change(_DELROUTE, _route(family, outer))
        except OSError as error:
            if error.errno not in (errno.ESRCH, *_NO_SUCH):
                raise
    if not detour.routes():
        detour.cut_cable()


def _route(family: int, outer: int) -> bytes:
    network, length = _NETWORKS[family]
    body = struct.pack("=BBBBBBBBI", family, length, 0, 0, _MAIN, detour.PROTOCOL, _SCOPE_LINK, _UNICAST, 0)
    return body + attribute(_RTA_DST, network) + attribute(_RTA_OIF, outer)
