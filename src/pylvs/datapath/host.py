"""This host as a real server would be judged by it: its addresses, interfaces and settings (`realserver.Host`)."""

import os
from _socket import AF_INET, inet_ntop

from pylvs.datapath import decap, netlink
from pylvs.realserver import Host

_SETTINGS = ("rp_filter", "arp_ignore", "arp_announce")
_CONF = "/proc/sys/net/ipv4/conf"


def look(attached: tuple[str, ...] | None = None) -> Host:
    """What there is in our network namespace.

    Args:
        attached: the interfaces that tunnel packets are unwrapped on, if the caller knows.

    Raises:
        NotPermitted, DatapathError
    """
    names = {one.ifindex: one.name for one in netlink.interfaces()}
    ethernet = tuple(one.name for one in decap.ethernet())
    if attached is None:
        running = decap.find()
        attached = ()
        if running is not None:
            with running:
                attached = attached_names(running)
    return Host(
        tuple((names.get(one.ifindex, ""), inet_ntop(one.family, one.address)) for one in netlink.addresses()),
        ethernet,
        {(name, setting): _read(name, setting) for name in ("all", *ethernet) for setting in _SETTINGS},
        _default_ways(),
        attached,
    )


def attached_names(running: decap.Decap) -> tuple[str, ...]:
    """The interfaces that a program is attached to."""
    names = {one.ifindex: one.name for one in netlink.interfaces()}
    return tuple(names[number] for number in sorted(running.attached()) if number in names)


def lan_vips() -> tuple[str, ...]:
    """The addresses of hosts that are on lo and not the loopback's: what a real server's VIPs look like."""
    found = [one for one in netlink.addresses() if one.ifindex == 1 and one.globally]
    return tuple(inet_ntop(one.family, one.address) for one in sorted(found, key=lambda o: (o.family != AF_INET, o)))


def _read(name: str, setting: str) -> int:
    try:
        with open(os.path.join(_CONF, name, setting), encoding="ascii") as file:
            return int(file.read())
    except OSError:
        return 0  # the interface went away while we looked


def _default_ways() -> tuple[str, ...]:
    with open("/proc/thread-self/net/route", encoding="ascii") as file:
        rows = [line.split() for line in file][1:]
    return tuple(row[0] for row in rows if row[1] == row[7] == "00000000")
