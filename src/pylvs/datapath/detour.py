"""The detour: packets that netfilter has marked are routed out of one end of a cable of our own, come in by its other
end with their marks, and meet the packet path there.

    eth0 --> packet path: none of ours yet --> PREROUTING marks it --> rule 1: table 50432 --> pylvs0
                                                                                                 |
             real server <-- packet path: service by mark <-- ingress of ------------------ pylvs1

Only packets that open a connection go this way; later ones are known when they come in by eth0.

Rules of this file:
 - What is ours carries our protocol number, in the kernel's own tables: nothing has to be remembered elsewhere.
 - Rule 0 lets what comes in by pylvs1 pass by the others: what the packet path hands up there does not go round.
 - The rule for the local table, which stands at 0, is moved behind ours, or packets to the director's own addresses
   would never get to them. It is added in its new place before it is removed from the old one.
 - The rule for a mark is made last and removed first: it is what packets see. A command that was killed leaves nothing
   that would hinder the next one.
"""

import errno
import os
import struct
from _socket import AF_INET, AF_INET6
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from pylvs.datapath import _layout, netlink
from pylvs.datapath.netlink import CREATE, EXCLUSIVE, REPLACE, attribute
from pylvs.errors import InvalidValue, NotSupported
from pylvs.model import NETMASK_ALL, MarkRoute

if TYPE_CHECKING:
    from pylvs.datapath.instance import Instance

OUTER, INNER = "pylvs0", "pylvs1"
TABLE = 50432
PROTOCOL = 197
"""Whose routes and rules these are, in the kernel's words."""
_GUARD, _MARKS, _BEHIND = 0, 1, 2
"""The places of our rules."""
_ADDRESS = bytes.fromhex("02505956530a")  # both ends have it: what goes out of one is addressed to the other
_MTU = 65535
_DUMMY = bytes((192, 0, 0, 8))  # the address for whoever must have one and needs none (RFC 7600)

_NEWLINK, _DELLINK, _GETLINK, _NEWADDR, _NEWROUTE, _NEWRULE, _DELRULE, _GETRULE = 16, 17, 18, 20, 24, 32, 33, 34
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 3, 4, 18, 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL, _SCOPE_HOST = 1, 2, 254
_IFF_UP, _IFF_NOARP = 0x1, 0x80
_RTA_OIF, _RTA_TABLE = 4, 15
_FRA_IIFNAME, _FRA_GOTO, _FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE, _FRA_FWMASK, _FRA_PROTOCOL = 3, 4, 6, 10, 15, 16, 21
_TO_TABLE, _GOTO, _NOP = 1, 2, 3
_LOCAL_TABLE, _KERNELS = 255, 2
_UNICAST, _SCOPE_LINK = 1, 253
_FORWARDING = {AF_INET: "net.ipv4.ip_forward", AF_INET6: "net.ipv6.conf.all.forwarding"}
FAMILIES = (AF_INET, AF_INET6)


class _Rule(NamedTuple):
    place: int
    action: int
    table: int = 0
    mark: int = 0
    mask: int = 0
    interface: str = ""
    target: int = 0
    protocol: int = PROTOCOL
    selective: bool = False
    """It asks for more than the above."""


def _body(family: int, rule: _Rule) -> bytes:
    table = rule.table if rule.table < 256 else 0
    body = struct.pack("=BBBBBBBBI", family, 0, 0, 0, table, 0, 0, rule.action, 0)
    body += attribute(_FRA_PRIORITY, rule.place) + attribute(_FRA_PROTOCOL, bytes((rule.protocol,)))
    if rule.table:
        body += attribute(_FRA_TABLE, rule.table)
    if rule.mask:
        body += attribute(_FRA_FWMARK, rule.mark) + attribute(_FRA_FWMASK, rule.mask)
    if rule.interface:
        body += attribute(_FRA_IIFNAME, rule.interface)
    if rule.action == _GOTO:
        body += attribute(_FRA_GOTO, rule.target)
    return body


def _rules(family: int) -> Iterator[_Rule]:
    """All of a family's rules, in order."""
    known = {_FRA_GOTO, _FRA_PRIORITY, _FRA_FWMARK, _FRA_FWMASK, _FRA_TABLE, _FRA_PROTOCOL, _FRA_IIFNAME}
    for data in netlink.dump(_GETRULE, struct.pack("=BBBBBBBBI", family, *[0] * 8)):
        of, dst, src, tos, table, _, _, action, flags = struct.unpack_from("=BBBBBBBBI", data)
        found = netlink.attributes(data[12:])

        def number(kind: int, otherwise: int = 0, found: dict[int, bytes] = found) -> int:
            return int(struct.unpack("=I", found[kind])[0]) if kind in found else otherwise

        # 14: that no route is too unspecific, which all rules say that do not ask for it
        asked = set(found) - known - ({14} if number(14) == NETMASK_ALL else set())
        if of == family:
            yield _Rule(
                number(_FRA_PRIORITY), action, number(_FRA_TABLE, table), number(_FRA_FWMARK), number(_FRA_FWMASK),
                os.fsdecode(found.get(_FRA_IIFNAME, b"").rstrip(b"\0")), number(_FRA_GOTO),
                found.get(_FRA_PROTOCOL, b"\0")[0], bool(dst or src or tos or flags & 2 or asked),
            )  # fmt: skip


def _add(family: int, rule: _Rule) -> None:
    try:
        netlink.change(_NEWRULE, _body(family, rule), CREATE | EXCLUSIVE)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise


def _delete(family: int, rule: _Rule) -> None:
    try:
        netlink.change(_DELRULE, _body(family, rule))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EAFNOSUPPORT):
            raise


def _is_plain_local(rule: _Rule) -> bool:
    return (
        rule.action == _TO_TABLE and rule.table == _LOCAL_TABLE
        and not (rule.mask or rule.mark or rule.interface or rule.selective)
    )  # fmt: skip


def _mark_rule(route: MarkRoute) -> _Rule:
    return _Rule(_MARKS, _TO_TABLE, TABLE, route.mark, route.mask)


# ---- the cable -------------------------------------------------------------------------------------------------------


def _numbers(ours: bool = True) -> dict[str, int]:
    """The numbers of the cable's ends, or of whatever else has their names."""
    found = {}
    for data in netlink.dump(_GETLINK, bytes(16)):
        of = netlink.attributes(data[16:])
        name = os.fsdecode(of.get(_IFLA_IFNAME, b"").rstrip(b"\0"))
        if name in (OUTER, INNER) and ours == (of.get(_IFLA_ADDRESS) == _ADDRESS):
            found[name] = int(struct.unpack_from("=i", data, 4)[0])
    return found


def _link(index: int, name: str, flags: int) -> bytes:
    header = struct.pack("=BxHiII", 0, 0, index, flags, flags)
    if index:
        return header
    return header + attribute(_IFLA_IFNAME, name) + attribute(_IFLA_ADDRESS, _ADDRESS) + attribute(_IFLA_MTU, _MTU)


def _setting(path: str, value: str) -> None:
    with suppress(FileNotFoundError), open(f"/proc/sys/net/{path}", "w") as file:  # or a kernel without IPv6
        file.write(value)


def outer() -> int:
    """The number of the end by which packets go in; 0: there is no cable."""
    return _numbers().get(OUTER, 0)


def lay_cable() -> tuple[int, int]:
    """The numbers of both ends, made if they are not there, and up.

    Raises:
        NotSupported: one of the names is somebody else's, or the kernel has no veth.
    """
    others = ", ".join(_numbers(ours=False))
    if others:
        raise NotSupported(f"there is an interface {others} that is not ours; give it another name")
    there = _numbers()
    if not there:
        peer = attribute(_VETH_PEER, _link(0, INNER, 0))
        info = attribute(_INFO_KIND, "veth") + attribute(_INFO_DATA, peer)
        try:
            netlink.change(_NEWLINK, _link(0, OUTER, 0) + attribute(_IFLA_LINKINFO, info), CREATE | EXCLUSIVE)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            raise NotSupported("the kernel has no veth devices, by which packets would be routed to us") from None
        there = _numbers()
    for name in (OUTER, INNER):
        _setting(f"ipv6/conf/{name}/addr_gen_mode", "1")  # nobody lives there
        _setting(f"ipv6/conf/{name}/disable_ipv6", "0")
    # What the packet path hands up came here by another interface than that to its source. The stack lets it pass if it
    # checks loosely, which 2 means whatever is set for all interfaces, and if the interface has an address.
    _setting(f"ipv4/conf/{INNER}/rp_filter", "2")
    address = struct.pack("=BBBBI", AF_INET, 32, 0, _SCOPE_HOST, there[INNER])
    address += attribute(_IFA_LOCAL, _DUMMY) + attribute(_IFA_ADDRESS, _DUMMY)
    netlink.change(_NEWADDR, address, CREATE | REPLACE)
    for name in (INNER, OUTER):
        netlink.change(_NEWLINK, _link(there[name], name, _IFF_UP | (_IFF_NOARP if name == OUTER else 0)))
    return there[OUTER], there[INNER]


def cut_cable() -> None:
    """Remove both ends, and with them the routes that lead there."""
    number = _numbers().get(OUTER)
    if number:
        with suppress(OSError):  # it went away meanwhile
            netlink.change(_DELLINK, struct.pack("=BxHiII", 0, 0, number, 0, 0))


# ---- the routes ------------------------------------------------------------------------------------------------------


def routes() -> list[MarkRoute]:
    """What is routed to the director, by family and mark."""
    found = []
    for family in FAMILIES:
        with suppress(OSError):  # a kernel without the family
            found += [
                MarkRoute(rule.mark, rule.mask, family)
                for rule in _rules(family)
                if rule.protocol == PROTOCOL and rule.place == _MARKS and rule.mask
            ]
    return sorted(found, key=lambda route: (route.family, route.mark, route.mask))


def forwards(family: int) -> bool:
    """Does the stack forward packets of a family, so that it can route them to us?"""
    try:
        with open("/proc/sys/" + _FORWARDING[family].replace(".", "/")) as file:
            return file.read().strip() != "0"
    except OSError:
        return False


def check(route: MarkRoute) -> None:
    """Refuse what would not work.

    Raises:
        InvalidValue: the stack does not forward packets of the family.
    """
    if not forwards(route.family):
        name = _FORWARDING[route.family]
        raise InvalidValue(f"marked packets are routed to the director, but {name} is 0; sysctl -w {name}=1")


def add(instance: "Instance", route: MarkRoute) -> None:
    """Route these packets to the director; whatever of that is there already stays. The caller holds the lock.

    Raises:
        NotSupported: the names of our interfaces are others', or the kernel has no such devices.
    """
    outer, inner = lay_cable()
    if inner not in instance.attached():
        instance.attach(netlink.Interface(inner, INNER, netlink.ARPHRD_ETHER))
    instance.config.put(0, "mark_device", inner)
    ways = struct.pack("=BBBBBBBBI", route.family, 0, 0, 0, 0, PROTOCOL, _SCOPE_LINK, _UNICAST, 0)
    ways += attribute(_RTA_OIF, outer) + attribute(_RTA_TABLE, TABLE)
    netlink.change(_NEWROUTE, ways, CREATE | REPLACE)
    first = [rule for rule in _rules(route.family) if rule.place == 0 and _is_plain_local(rule)]
    ours = [rule for rule in _rules(route.family) if rule.protocol == PROTOCOL]
    if not any(rule.place == _BEHIND for rule in ours):
        _add(route.family, _Rule(_BEHIND, _TO_TABLE, _LOCAL_TABLE) if first else _Rule(_BEHIND, _NOP))
    _add(route.family, _Rule(_GUARD, _GOTO, interface=INNER, target=_BEHIND))
    if any(rule.place == _BEHIND and _is_plain_local(rule) for rule in _rules(route.family)):
        for rule in first:
            _delete(route.family, rule)
    _add(route.family, _mark_rule(route))


def delete(instance: "Instance", route: MarkRoute) -> None:
    """Leave these packets to the stack; with the last of them the detour goes. The caller holds the lock.

    Raises:
        InvalidValue: they are not routed to us (ENOENT).
    """
    left = routes()
    if route not in left:
        raise InvalidValue(f"mark {route} is not routed to the director; pylvs mark route list", errno.ENOENT)
    _delete(route.family, _mark_rule(route))
    left.remove(route)
    if not any(other.family == route.family for other in left):
        _clear(route.family)
    if not left:
        instance.config.put(0, "mark_device", 0)
        if not instance.config.get(0, "egress") & _layout.EGRESS_OTHER:  # strangers.py needs it, too
            cut_cable()


def _clear(family: int) -> None:
    """Put a family's rules back as they were."""
    ours = [rule for rule in _rules(family) if rule.protocol == PROTOCOL]
    for rule in ours:
        if rule.place == _MARKS:
            _delete(family, rule)
    if any(rule.place == _BEHIND and _is_plain_local(rule) for rule in ours):
        _add(family, _Rule(0, _TO_TABLE, _LOCAL_TABLE, protocol=_KERNELS))
    for rule in ours:
        if rule.place in (_GUARD, _BEHIND):
            _delete(family, rule)


def clear() -> None:
    """Take all of it away, whatever a killed command has left; the route goes with its interface."""
    for family in FAMILIES:
        with suppress(OSError):  # a kernel without the family
            _clear(family)
    cut_cable()
