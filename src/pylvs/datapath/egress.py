"""The egress program (bpf/egress.h): on the director's interfaces as long as something needs it, and else nowhere.

    a service, a real server, a sysctl -> demand() -> config.egress -> on every interface but lo
    what needed it goes                -> reconsider() -> config.egress -> off again

It is on an interface before what needs it is in force, and off only after that has gone. A command that was killed in
between leaves it where nobody needs it, or `agree`, at the next command, puts it where it is missing.
"""

import errno
import os
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING

from pylvs.datapath import _layout, bpffs, interfaces, netlink, programs
from pylvs.datapath.layout import SERVICE_KEY
from pylvs.datapath.records import unpack_address
from pylvs.model import MASQ, TUNNEL, RealServer, VirtualService

if TYPE_CHECKING:
    from pylvs.datapath.instance import Instance

OWN, LOCAL, STACK = _layout.EGRESS_OWN, _layout.EGRESS_LOCAL, _layout.EGRESS_STACK
OTHER = _layout.EGRESS_OTHER
_LO = 1


def of_service(service: VirtualService) -> int:
    """What a service needs: what the director itself asks of it only passes lo if its address is the director's."""
    return _of_address(service.family, service.address)


def _of_address(family: int, address: str) -> int:
    return 0 if address and netlink.kind_of(family, address) == netlink.LOCAL else OWN


def of_server(instance: "Instance", family: int, server: RealServer, local: bool) -> int:
    """What a real server of a service of some family needs; `local`: it is the director itself."""
    if local:
        return LOCAL if server.method == MASQ else 0
    return OTHER if _is_stranger(family, server.family, server.method) and instance.sysctls.get(0, "conntrack") else 0


def _is_stranger(service: int, server: int, method: int) -> bool:
    return service != server and method == TUNNEL


def of_stack(instance: "Instance", numbers: Iterable[int]) -> int:
    """What the stack's forwarding of these services' connections needs (conntrack)."""
    from pylvs.datapath import pools

    dests = instance.dests
    for number in numbers:
        *_, family = SERVICE_KEY.unpack(instance.services.get(number, "key"))
        for member in pools.read(instance, number).members():
            if _is_stranger(family, dests.get(member.dest, "family"), member.flags & _layout.CONN_METHOD):
                return STACK | OTHER
    return STACK


def _strangers() -> ModuleType:
    """Imported when it is needed, which is seldom: commands are to start quickly."""
    from pylvs.datapath import strangers

    return strangers


def demand(instance: "Instance", needs: int) -> None:
    """Something is to come that needs it. The caller holds the lock.

    Args:
        needs: of OWN, LOCAL, STACK, and OTHER, which comes with STACK; 0: nothing does.

    Raises:
        NotSupported: there cannot be a way to real servers of the other family (strangers.py).
    """
    known = instance.config.get(0, "egress")
    missing = needs & ~known
    if missing & OTHER:
        _strangers().lay()
    if missing & ~OTHER:
        instance.config.put(0, "egress", known | needs & ~OTHER)
        if not known:
            agree(instance)
    if missing & OTHER:
        agree(instance, needs)
        instance.config.put(0, "egress", known | needs)


def reconsider(instance: "Instance", numbers: Iterable[int]) -> None:
    """Something has gone that may have needed it. The caller holds the lock.

    Args:
        numbers: all services.
    """
    known = instance.config.get(0, "egress")
    if not known:
        return
    needed = _needed(instance, numbers, known)
    if needed != known:
        instance.config.put(0, "egress", needed)
        if known & ~needed & OTHER:
            _strangers().remove()
        agree(instance)


def _needed(instance: "Instance", numbers: Iterable[int], known: int) -> int:
    needed = known & (STACK | OTHER) if known & STACK and _stacked(instance) else 0
    for number in numbers:
        if not known & ~needed:
            break
        address, fwmark, _, _, family = SERVICE_KEY.unpack(instance.services.get(number, "key"))
        if known & ~needed & OWN:
            needed |= _of_address(family, "" if fwmark else unpack_address(address, family))
        if known & ~needed & LOCAL:
            needed |= _of_servers(instance, number)
    return needed


def _of_servers(instance: "Instance", number: int) -> int:
    from pylvs.datapath import pools

    flags = instance.dests
    for member in pools.read(instance, number).members():
        if member.flags & _layout.CONN_METHOD == MASQ and flags.get(member.dest, "flags") & _layout.DEST_LOCAL:
            return LOCAL
    return 0


def _stacked(instance: "Instance") -> bool:
    """Does the stack forward new connections, or any that there is?"""
    if instance.sysctls.get(0, "conntrack"):
        return True
    from pylvs.datapath.pieces import column, pieces

    flag = _layout.CONN_STACK << 8
    for piece in pieces(instance, None):
        statuses = column(piece.records, "status")
        if any(statuses[place] & flag for place in piece.places):
            return True
    return False


def directory(instance: "Instance") -> str:
    return f"{instance.path}/egress"


def agree(instance: "Instance", coming: int = 0) -> None:
    """Let it be where the packet path is, if it is needed, and else nowhere. `coming`: what will be needed."""
    where, needs = directory(instance), instance.config.get(0, "egress") | coming
    if not needs:
        if os.path.isdir(where):
            remove(where)
        return
    if not os.path.isdir(where):
        os.mkdir(where, 0o700)
    wanted, there = set(instance.attached()) - {_LO}, set(interfaces.attached(where))
    if needs & OTHER:
        wanted.add(_strangers().lay())
    interfaces.forget_others(where, wanted)
    for interface in netlink.interfaces() if wanted - there else ():
        if interface.ifindex in wanted - there:
            fd = instance.program(exit_of(interface))
            try:
                put(where, fd, interface.ifindex)
            finally:
                os.close(fd)


def exit_of(interface: netlink.Interface) -> str:
    """The program that packets which leave by an interface come to."""
    return f"egress{programs.LINKLESS}" if interface.linkless else "egress"


def put(where: str, program: int, ifindex: int) -> None:
    """Put it on an interface, or in the place of the one that is there; one that just went away needs none."""
    try:
        interfaces.attach(where, program, ifindex)
    except OSError as error:
        if error.errno not in (errno.ENODEV, errno.ENOLINK):
            raise


def replace(instance: "Instance", loaded: Mapping[str, int]) -> None:
    """Another build of it in the place of the one that runs. `loaded`: programs, as file descriptors."""
    where = directory(instance)
    if os.path.isdir(where):
        there = interfaces.attached(where)
        for interface in netlink.interfaces():
            if interface.ifindex in there:
                put(where, loaded[exit_of(interface)], interface.ifindex)


def remove(where: str) -> None:
    """Take it off every interface. `where`: its directory of pins, which may not be there."""
    if os.path.isdir(where):
        for ifindex in interfaces.attached(where):
            interfaces.detach(where, ifindex)
        bpffs.remove_tree(where)
