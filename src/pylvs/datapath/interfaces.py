"""Attaching the packet path to interfaces: tcx links where the kernel has them (6.6), clsact filters elsewhere.

A tcx link lives in its pin, `links/<ifindex>`. Empty directories are notes beside it: `<ifindex>c` says that a clsact
filter lives with the interface, so that it can be found and replaced; `<ifindex>x` that somebody took the packet path
off it, and that it shall stay off. A note outlives its interface, and another interface may get its number: a note of
a filter is only believed when the filter is there. The same holds for programs on TC egress, in a directory `egress`.
`priority` is a filter's place on its interface: a director's is one, and other programs of ours have others.
"""

import errno
import os

from pylvs.datapath import netlink, syscall
from pylvs.errors import InvalidValue

_JOINING = ("bridge", "bond", "team", "openvswitch")
_LO = 1  # the loopback interface has this number in every namespace, and cannot be removed
DIRECTOR, REALSERVER = 0xC500, 0xC501  # priorities


def unfit(interface: netlink.Interface, there: list[netlink.Interface]) -> str:
    """Why the packet path does not run on an interface; "" if it can.

    What comes in by a part of a bridge or a bond comes again by the whole, and there it belongs: a bridge must see its
    frames to learn who is where.
    """
    if not interface.ethernet and not interface.linkless:
        return "neither Ethernet nor IP alone"
    for master in there:
        if interface.master and master.ifindex == interface.master and master.kind in _JOINING:
            return f"part of {master.name}"
    return ""


def wanted() -> list[netlink.Interface]:
    """The interfaces that the packet path runs on."""
    there = netlink.interfaces()
    return [interface for interface in there if not unfit(interface, there)]


def find(name: str) -> netlink.Interface:
    """The interface of a name.

    Raises:
        InvalidValue: there is none in this network namespace, its frames are neither Ethernet's nor plain IP packets,
            or it is a part of another one.
    """
    there = netlink.interfaces()
    for interface in there:
        if interface.name == name:
            why = unfit(interface, there)
            if why.startswith("part of "):
                raise InvalidValue(f"{name} is {why}, where its packets come again: that is where pylvs works")
            if why:
                raise InvalidValue(
                    f"{name} carries neither Ethernet frames nor plain IP packets; pylvs cannot work on it"
                )
            return interface
    raise InvalidValue(
        f"there is no interface {name}; there are {', '.join(sorted(i.name for i in there))}", errno.ENODEV
    )


def attach(directory: str, program: int, ifindex: int, priority: int = DIRECTOR) -> None:
    """Attach the program, or replace the one of ours that is there, in one step. `directory` holds the link pins."""
    path = f"{directory}/{ifindex}"
    _unnote(f"{path}x")
    if os.path.exists(path):
        link = syscall.get(path)
        try:
            if syscall.link_ifindex(link):
                syscall.link_update(link, program)
                return
        finally:
            os.close(link)
        os.unlink(path)  # a former interface of this number
    try:
        where = syscall.TCX_EGRESS if _is_egress(directory) else syscall.TCX_INGRESS
        link = syscall.link_create(program, ifindex, where)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        from pylvs.datapath import object as loader

        loader.clsact_attach(program, ifindex, priority, _is_egress(directory))
        _note(f"{path}c")
        return
    try:
        syscall.pin(link, path)
    finally:
        os.close(link)


def detach(directory: str, ifindex: int, priority: int = DIRECTOR) -> bool:
    """Take the packet path off an interface; False if it was not on it."""
    path = f"{directory}/{ifindex}"
    _note(f"{path}x")
    if os.path.exists(path):
        link = syscall.get(path)
        try:
            there = syscall.link_ifindex(link) != 0
            if there:
                syscall.link_detach(link)  # the kernel lets go of a removed pin only after a while
        finally:
            os.close(link)
        os.unlink(path)
        return there
    if os.path.isdir(f"{path}c"):
        from pylvs.datapath import object as loader

        _unnote(f"{path}c")
        return loader.clsact_detach(ifindex, priority, _is_egress(directory))
    return False


def attached(directory: str, priority: int = DIRECTOR) -> dict[int, str]:
    """Interface number -> "tcx" or "clsact", for all that the packet path is on."""
    found = {}
    for name in os.listdir(directory):
        if name.endswith("x"):
            continue
        if name.endswith("c"):
            if _clsact_attached(int(name[:-1]), priority, _is_egress(directory)):
                found[int(name[:-1])] = "clsact"
            continue
        link = syscall.get(f"{directory}/{name}")
        try:
            if syscall.link_ifindex(link):
                found[int(name)] = "tcx"
        finally:
            os.close(link)
    return found


def alive(directory: str) -> bool | None:
    """Does the network namespace of these links still exist? None if they cannot tell."""
    path = f"{directory}/{_LO}"
    if not os.path.exists(path):
        return None
    link = syscall.get(path)
    try:
        return syscall.link_ifindex(link) != 0
    finally:
        os.close(link)


def newcomers(directory: str) -> list[netlink.Interface]:
    """Interfaces that nobody has attached the packet path to, nor taken it off. The caller holds the lock.

    What is left here of interfaces that are gone is removed; and the packet path is taken off those that it no longer
    fits, for as long as it does not.
    """
    there = netlink.interfaces()
    fit = {interface.ifindex: not unfit(interface, there) for interface in there}
    known = set(attached(directory))
    for name in os.listdir(directory):
        number = int(name.rstrip("cx"))
        if number not in fit:
            _forget(f"{directory}/{name}")
        elif name.endswith("x"):
            known.add(number)
        elif not fit[number]:
            detach(directory, number)
            _unnote(f"{directory}/{number}x")
    return [interface for interface in there if fit[interface.ifindex] and interface.ifindex not in known]


def forget_others(directory: str, wanted: set[int]) -> None:
    """Take the program off all interfaces but these, and remove what is left here of interfaces that are gone."""
    for ifindex in set(attached(directory)) - wanted:
        detach(directory, ifindex)
    for name in os.listdir(directory):
        if int(name.rstrip("cx")) not in wanted:
            _forget(f"{directory}/{name}")


def _is_egress(directory: str) -> bool:
    return directory.endswith("/egress")


def _clsact_attached(ifindex: int, priority: int, egress: bool) -> bool:
    from pylvs.datapath import object as loader

    return loader.clsact_attached(ifindex, priority, egress)


def _note(path: str) -> None:
    try:
        os.mkdir(path)
    except FileExistsError:
        pass


def _unnote(path: str) -> None:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        pass


def _forget(path: str) -> None:
    """Remove a note, or the pin of a link."""
    if os.path.isdir(path):
        _unnote(path)
    else:
        os.unlink(path)
