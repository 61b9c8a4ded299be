"""Network namespaces: making them, wiring them, being in them. Nothing here touches the machine's own network.

Both ends of every veth pair are born inside their namespaces, so no interface ever appears outside.
"""

import ctypes
import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pylvs.lab.topology import Host, Topology, addressing, sysctls
from pylvs.lab.waiting import wait_for

CLONE_NEWNET = 0x40000000
NETNS = Path("/run/netns")


class LabError(Exception):
    """The lab could not be built, found, or used."""


def path(namespace: str) -> str:
    return f"{NETNS}/{namespace}"


def command(namespace: str, argv: Sequence[str]) -> list[str]:
    """The command line that runs argv inside; it replaces nsenter, so the process id is argv's own.

    Not `ip netns exec`: that also mounts a fresh /sys, which hides the bpffs with the director's pinned maps.
    """
    return ["nsenter", f"--net={path(namespace)}", "--", *argv]


def setns(fd: int) -> None:
    """Move the calling thread into the namespace behind a file descriptor."""
    if hasattr(os, "setns"):
        os.setns(fd, CLONE_NEWNET)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


@contextmanager
def entered(namespace: str) -> Iterator[None]:
    """Run the body inside a namespace.

    The kernel moves the calling *thread* only: sockets opened and processes started by other threads in the meantime
    belong elsewhere, and threads started in the body stay inside for good. Open what you need, then leave: a socket
    keeps the namespace in which it was opened.
    """
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(path(namespace), os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            setns(here)
    finally:
        os.close(here)


def ip_batch(lines: Iterable[str], *options: str, force: bool = False) -> None:
    """One `ip` process for many commands; with force it goes on after a failure and complains of none."""
    text = "".join(f"{line}\n" for line in lines)
    argv = ["ip", *options, *(["-force"] if force else []), "-batch", "-"]
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0 and not force:
        raise LabError(f"ip -batch: {done.stderr.strip()}\n{text}")


def namespace_of(lab: str, host: str) -> str:
    return f"{lab}-{host}"


def namespaces_of(lab: str, topology: Topology) -> list[str]:
    """Every namespace of a lab: hosts, then switches."""
    return [namespace_of(lab, name) for name in (*(h.name for h in topology.hosts), *topology.switches)]


def wiring(lab: str, topology: Topology) -> list[str]:
    """Lines for `ip -batch` that make the namespaces and the cables between them."""
    lines = [f"netns add {namespace}" for namespace in namespaces_of(lab, topology)]
    for position, network in enumerate(topology.networks):
        # Interfaces whose peer has the same number are taken for hardware by the kernel, which then lets their "link
        # is up" wait for a second: one end of each cable is numbered out of the way.
        index = 100 * (position + 1)
        ends = [(namespace_of(lab, host.name), interface.name) for host, interface in topology.members(network.name)]
        if network.name not in topology.switches:
            (a, a_port), (b, b_port) = ends
            lines.append(f"link add {a_port} index {index} netns {a} type veth peer name {b_port} netns {b}")
            continue
        switch = namespace_of(lab, network.name)
        lines.append(f"link add br0 netns {switch} type bridge forward_delay 0 stp_state 0 mcast_snooping 0")
        lines += [
            f"link add {port} index {index + number} netns {namespace} type veth peer name p{number} netns {switch}"
            for number, (namespace, port) in enumerate(ends)
        ]
    return lines


def build(lab: str, topology: Topology) -> None:
    """Make every namespace of the lab, cable it, give it its settings and addresses."""
    ip_batch(wiring(lab, topology))
    for name in topology.switches:
        ports = [f"p{number}" for number in range(len(topology.members(name)))]
        with entered(namespace_of(lab, name)):
            # A switch has no business of its own on the network.
            write_sysctls([("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")])
            ip_batch(["link set br0 up", *(f"link set {port} master br0 up" for port in ports)])
    for host in topology.hosts:
        with entered(namespace_of(lab, host.name)):
            write_sysctls(sysctls(host))
            ip_batch(addressing(topology, host))
            if host.routing6:
                ip_batch(host.routing6, "-6")
    for host in topology.hosts:
        with entered(namespace_of(lab, host.name)):
            wait_for(partial(links_are_ready, host), f"the links of {host.name} to come up")


def links_are_ready(host: Host) -> bool:
    """Whether IPv6 uses every link: until the kernel has noticed that a link is up, packets find no route.

    The link-local address comes last in that, so it is what to look for.
    """
    with open("/proc/thread-self/net/if_inet6", encoding="ascii") as file:
        rows = [line.split() for line in file]
    ready = {name for address, _, _, _, flags, name in rows if address.startswith("fe80") and not int(flags, 16) & 0x40}
    return ready.issuperset(interface.name for interface in host.interfaces)


def write_sysctls(settings: Iterable[tuple[str, str]]) -> None:
    """Write below /proc/sys/net, which shows each thread its own namespace's values."""
    for name, value in settings:
        try:
            Path("/proc/sys/net", name).write_text(value)
        except OSError as error:
            raise LabError(f"sysctl net/{name}={value}: {error.strerror}") from None


def remove(namespaces: Iterable[str]) -> None:
    """Delete those of the namespaces that exist."""
    existing = [namespace for namespace in namespaces if (NETNS / namespace).exists()]
    if existing:
        ip_batch((f"netns delete {namespace}" for namespace in existing), force=True)
