"""One director's packet path in one network namespace, as a process sees it: find it, open it, replace its programs.

The state is in the pins (see `bpffs.py`). How a director comes and goes is `loading.py`'s.
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pylvs import sysctl
from pylvs.datapath import _layout, bpffs, egress, interfaces, layout, netlink, programs, syscall
from pylvs.datapath.maps import Hash, PerCpuArray, SharedArray, possible_cpus
from pylvs.errors import DatapathError, NotPermitted, Unloaded

SHARED = {
    "config": layout.CONFIG,
    "runtime": layout.RUNTIME,
    "sysctls": layout.SYSCTLS,
    "services": layout.SERVICE,
    "marks": layout.MARK_RULE,
    "pools": layout.POOL_HEAD,
    "dests": layout.DEST,
    "dest_loads": layout.DEST_LOAD,
    "estimates": layout.ESTIMATE,
    "parties": layout.PARTIES,
}
TABLE = {"slots": layout.CONN, "tags": layout.TAG, "groups": layout.GROUP}
"""The connection table: maps that another set takes over from when it is resized. Pinned as slots_0 and so on."""
HASHES = ("service_index", "speakers", "nat_servers", "own_addresses", "call_ids", "ftp_talks")
COUNTERS = ("counters", "reasons")
FRAME = bytes(64)
_MAPPED = bytes(10) + b"\xff\xff" + bytes(4)  # ::ffff:0:0, which stands for IPv4
_CLOCK_MONOTONIC_COARSE = 6  # the clock of bpf_ktime_get_coarse_ns; the time module has no name for it


def sysctl_defaults() -> dict[str, sysctl.Value]:
    """What a new director's sysctls are on this machine: members of the shared structure."""
    return sysctl.defaults(possible_cpus(), os.sysconf("SC_PHYS_PAGES"))


class Instance:
    """The pinned state of a director, open for reading and changing.

    Attributes:
        slots, tags, groups: the connection table that is in force now.
        config, runtime, sysctls, services, marks, pools, dests, dest_loads, estimates, parties: the shared arrays.
        service_index, own_addresses, call_ids, ftp_talks: hashes.
        counters, reasons: per-CPU counters.
    """

    config: SharedArray
    runtime: SharedArray
    sysctls: SharedArray
    services: SharedArray
    marks: SharedArray
    pools: SharedArray
    dests: SharedArray
    dest_loads: SharedArray
    estimates: SharedArray
    parties: SharedArray
    service_index: Hash
    speakers: Hash
    nat_servers: Hash
    own_addresses: Hash
    call_ids: Hash
    ftp_talks: Hash
    counters: PerCpuArray
    reasons: PerCpuArray

    def __init__(self, directory: str):
        """Open what is pinned under `directory`/current.

        Raises:
            FileNotFoundError: nothing is.
            DatapathError: it was made by a pylvs whose structures differ from ours.
        """
        self.directory = directory
        self._opened: dict[str, SharedArray | Hash | PerCpuArray] = {}
        self._fds: dict[str, int] = {}
        self._parts: dict[str, SharedArray] = {}
        self._table_number = -1
        try:
            self._open("config")
            version = self.config.get(0, "layout_version")
            if version != _layout.VERSION:
                raise ValueError(f"version {version}")
        except ValueError as error:
            self.close()
            raise DatapathError(
                f"the director that runs here was loaded by another version of pylvs ({error}, ours is version "
                f"{_layout.VERSION}); use that version, or start afresh: pylvs unload"
            ) from None
        except OSError:
            self.close()
            raise

    @property
    def path(self) -> str:
        return f"{self.directory}/current"

    def __getattr__(self, name: str) -> SharedArray | Hash | PerCpuArray:
        # a command opens the maps that it needs, and no others
        if name in SHARED or name in HASHES or name in COUNTERS:
            return self._open(name)
        raise AttributeError(name)

    def _open(self, name: str) -> SharedArray | Hash | PerCpuArray:
        fd = self._fds[name] = syscall.get(f"{self.path}/maps/{name}")
        opened: SharedArray | Hash | PerCpuArray
        if name in SHARED:
            opened = SharedArray(fd, SHARED[name])
        elif name in HASHES:
            opened = Hash(fd)
        else:
            opened = PerCpuArray(fd)
        self._opened[name] = opened
        setattr(self, name, opened)
        return opened

    def _table(self) -> dict[str, SharedArray]:
        while self._table_number != self.config.get(0, "table"):
            for part in self._parts.values():
                part.close()
            self._parts.clear()
            number = self.config.get(0, "table")
            try:
                for name, record in TABLE.items():
                    fd = syscall.get(f"{self.path}/maps/{name}_{number}")
                    try:
                        self._parts[name] = SharedArray(fd, record)
                    finally:
                        os.close(fd)  # the mapping keeps it
            except FileNotFoundError:
                continue  # another one has just taken over
            self._table_number = number
        return self._parts

    def table_pin(self, name: str, ahead: int = 0) -> str:
        """Where one of the connection table's maps is pinned; `ahead` 1: of the table that takes over from it."""
        return f"{self.path}/maps/{name}_{self.config.get(0, 'table') + ahead}"

    @property
    def slots(self) -> SharedArray:
        return self._table()["slots"]

    @property
    def tags(self) -> SharedArray:
        return self._table()["tags"]

    @property
    def groups(self) -> SharedArray:
        return self._table()["groups"]

    @contextmanager
    def settled(self) -> Iterator[None]:
        """While the connection table is read: nobody resizes it."""
        with bpffs.shared(f"{self.path}/maps"):
            yield

    def close(self) -> None:
        """Let go of the maps. The director goes on."""
        for part in self._parts.values():
            part.close()
        self._parts.clear()
        self._table_number = -1
        for opened in self._opened.values():
            if isinstance(opened, SharedArray):
                opened.close()
        for fd in self._fds.values():
            os.close(fd)
        self._opened.clear()
        self._fds.clear()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the namespace's lock while changing something.

        Raises:
            Unloaded: the director was, meanwhile.
        """
        with ExitStack() as held:
            try:
                held.enter_context(bpffs.locked(self.directory, create=False))
            except FileNotFoundError:
                raise Unloaded from None
            if not os.path.isdir(self.path):
                raise Unloaded
            yield

    def now(self) -> int:
        """The director's clock: nanoseconds."""
        offset: int = self.config.get(0, "clock_offset")
        return time.clock_gettime_ns(_CLOCK_MONOTONIC_COARSE) + offset

    def timeouts(self) -> list[int]:
        """The timeouts in force, in milliseconds: TCP's by state number, then UDP's, then SCTP's."""
        row, size = self.config.get(0, "timeouts_row"), _layout.TIMEOUTS
        return list(self.config.get(0, "timeouts")[row * size : (row + 1) * size])

    def set_timeouts(self, milliseconds: list[int]) -> None:
        """Put others in force, all in one store."""
        row, both = self.config.get(0, "timeouts_row"), list(self.config.get(0, "timeouts"))
        other = 1 - row
        both[other * _layout.TIMEOUTS : (other + 1) * _layout.TIMEOUTS] = milliseconds
        self.config.put(0, "timeouts", both)
        self.config.put(0, "timeouts_row", other)

    def program(self, name: str) -> int:
        """A new file descriptor for one of the programs: ingress, start, catch_up, decide, flush or purge."""
        return syscall.get(f"{self.path}/programs/{name}")

    def run(self, name: str) -> int:
        """Run `start`, `catch_up`, `decide` or `purge` once; 0 if it succeeded."""
        fd = self.program(name)
        try:
            return syscall.run(fd, FRAME)[0]
        finally:
            os.close(fd)

    # ---- interfaces -------------------------------------------------------------------------------------------------

    def attach(self, interface: netlink.Interface) -> None:
        """Put the packet path on an interface."""
        if interface.linkless and not self.works_linkless():
            self._load_linkless()
        fd = self.program(entrance(interface))
        try:
            interfaces.attach(f"{self.path}/links", fd, interface.ifindex)
        finally:
            os.close(fd)
        egress.agree(self)
        self.learn_addresses()

    def works_linkless(self) -> bool:
        """Are those programs loaded that work on interfaces without link-layer headers?"""
        return os.path.exists(f"{self.path}/programs/ingress{programs.LINKLESS}")

    def _load_linkless(self) -> None:
        maps = self.map_fds()
        try:
            loaded = programs.load_linkless(maps, self._table_constants(maps))
        finally:
            for fd in maps.values():
                os.close(fd)
        try:
            # the entrance at last: where it is, the others are
            for name, fd in sorted(loaded.items(), reverse=True):
                self._pin_program(name, fd)
        finally:
            for fd in loaded.values():
                os.close(fd)

    def _table_constants(self, maps: dict[str, int]) -> dict[str, bytes]:
        groups = syscall.map_size(maps["slots"])[2]
        return programs.table_constants(self.config.get(0, "table"), groups, self.config.get(0, "seeds"))

    def _pin_program(self, name: str, fd: int) -> None:
        """Pin it, or put it in the place of another one of this name."""
        path = f"{self.path}/programs/{programs.pin_name(name, fd)}"
        fresh = f"{path}_new"
        if os.path.exists(fresh):
            os.unlink(fresh)
        syscall.pin(fd, fresh)
        os.rename(fresh, path)

    def attach_newcomers(self) -> list[netlink.Interface]:
        """Put the packet path on interfaces that appeared since the last change, unless somebody took it off them.

        Returns:
            Which they were.
        """
        found = []
        for interface in interfaces.newcomers(f"{self.path}/links"):
            try:
                self.attach(interface)
                found.append(interface)
            except OSError as error:
                if error.errno != errno.ENODEV:  # it went away while we looked
                    raise DatapathError(f"cannot attach to {interface.name}: {error.strerror}") from None
        return found

    def detach(self, interface: netlink.Interface) -> bool:
        """Take it off again; False if it was not there."""
        found = interfaces.detach(f"{self.path}/links", interface.ifindex)
        egress.agree(self)
        return found

    def attached(self) -> dict[int, str]:
        """Interface number -> how ("tcx" or "clsact")."""
        return interfaces.attached(f"{self.path}/links")

    def learn_addresses(self) -> None:
        """Tell the packet path our IPv6 addresses, from which ICMPv6 errors are sent."""
        learn_addresses(self.own_addresses)

    def learn_ports(self) -> None:
        """Tell the packet path which ports need no privilege, where FTP's data may come (facts 1.3); and from which the
        director's own connections come, and so GUE's (facts 6.7)."""
        self.config.put(0, "unprivileged", unprivileged())
        self.config.put(0, "local_ports", local_ports())

    # ---- programs ---------------------------------------------------------------------------------------------------

    def outdated(self) -> bool:
        """Do other programs run than those of this pylvs?"""
        return bool(self.config.get(0, "programs") != programs.fingerprint())

    def replace_programs(self) -> None:
        """Put this pylvs's programs in the place of those that run. Connections and configuration stay, and no packet
        meets an interface without a program.

        Raises:
            DatapathError: the kernel refuses them; then the old ones go on.
        """
        maps = self.map_fds()
        try:
            constants = self._table_constants(maps)
            taken_over, loaded = programs.load({}, maps, constants, "", self.works_linkless())
        finally:
            for fd in maps.values():
                os.close(fd)
        try:
            self.put_in_place(loaded)
        finally:
            for fd in (*loaded.values(), *taken_over.values()):
                os.close(fd)
        self.config.put(0, "programs", programs.fingerprint())
        self.config.put(0, "loaded", int(time.time()))

    def map_fds(self) -> dict[str, int]:
        """A new file descriptor for each of the maps, under the name that the programs have for it."""
        number = self.config.get(0, "table")
        current, fds = {f"{name}_{number}": name for name in TABLE}, {}
        for pinned in os.listdir(f"{self.path}/maps"):
            name = current.get(pinned, pinned)
            if pinned in current or name.rpartition("_")[0] not in TABLE:
                fds[name] = syscall.get(f"{self.path}/maps/{pinned}")
        return fds

    def put_in_place(self, loaded: dict[str, int]) -> None:
        """Let these programs (name -> file descriptor) do the work from now on."""
        links, pins = f"{self.path}/links", f"{self.path}/programs"
        steps = {name: fd for name, fd in loaded.items() if name.startswith(programs.STEPS)}
        for name, fd in steps.items():
            if not os.path.exists(f"{pins}/{programs.pin_name(name, fd)}"):
                self._pin_program(name, fd)  # before anything that relies on it runs
        there = {interface.ifindex: interface for interface in netlink.interfaces()}
        for ifindex in interfaces.attached(links):
            if ifindex not in there:
                continue
            try:
                interfaces.attach(links, loaded[entrance(there[ifindex])], ifindex)
            except OSError as error:
                if error.errno not in (errno.ENODEV, errno.ENOLINK):  # it went away while we looked
                    raise
        egress.replace(self, loaded)
        for name in loaded.keys() - steps.keys():
            self._pin_program(name, loaded[name])
        syscall.wait_for_packets()
        kept = {programs.pin_name(name, fd) for name, fd in steps.items()}
        for name in os.listdir(pins):
            if name.startswith(programs.STEPS) and name not in kept:
                os.unlink(f"{pins}/{name}")
        self.run("start")


def entrance(interface: netlink.Interface) -> str:
    """The program that an interface's packets come to."""
    name = "tunnelled" if interface.tunnel else "ingress"
    return f"{name}{programs.LINKLESS}" if interface.linkless else name


def unprivileged() -> int:
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
        return int(file.read())


def local_ports() -> int:
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        first, last = map(int, file.read().split())
    return first | last << 16


def learn_addresses(own: Hash) -> None:
    wanted: dict[bytes, bytes] = {}
    pack = layout.OWN_ADDRESS.pack
    for address in netlink.addresses():
        ipv6 = len(address.address) == 16
        if ipv6:
            wanted[pack(ifindex=address.ifindex, address=address.address)] = address.address
        if address.globally:
            value = address.address.ljust(16, b"\0")
            for ifindex in (address.ifindex, 0):
                wanted.setdefault(pack(ifindex=ifindex, address=bytes(16) if ipv6 else _MAPPED), value)
    known = own.keys()
    for key in known:
        if key not in wanted:
            own.delete(key)
    for key, value in list(wanted.items())[: own.entries]:
        own.put(key, value)


def permit() -> None:
    """Without root even the question whether a director runs has no honest answer."""
    if os.geteuid():
        raise NotPermitted("permission denied; pylvs needs root")


def directory(create: bool = False) -> str | None:
    """The pin directory of our network namespace; None if there are no pins at all and none are to be made."""
    root = bpffs.root(create)
    return f"{root}/{bpffs.namespace_cookie()}" if root else None


def find() -> Instance | None:
    """The director of our network namespace, if one is loaded.

    Raises:
        NotPermitted, DatapathError
    """
    permit()
    where = directory()
    if where is None:
        return None
    try:
        return Instance(where)
    except FileNotFoundError:
        return None
    except PermissionError:
        raise NotPermitted("the director's maps cannot be opened: permission denied; pylvs needs root") from None
