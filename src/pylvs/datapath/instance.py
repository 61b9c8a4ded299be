"""One director's packet path in one network namespace: load it, find it, replace its programs, remove it.

The state is in the pins (see `bpffs.py`); an `Instance` is only a process's view of it. Making one is all or nothing:
everything is pinned and attached under `new/`, and the last step is a rename to `current/`.
"""

import errno
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pylvs import sysctl
from pylvs.datapath import _layout, bpffs, forwarding, interfaces, layout, netlink, programs, syscall
from pylvs.datapath.maps import Hash, PerCpuArray, SharedArray, possible_cpus
from pylvs.errors import DatapathError, InvalidValue, NotPermitted, NotSupported

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
}
TABLE = {"slots": layout.CONN, "tags": layout.TAG, "groups": layout.GROUP}
"""The connection table: maps that another set takes over from when it is resized. Pinned as slots_0 and so on."""
HASHES = ("service_index", "speakers", "own_addresses", "call_ids")
COUNTERS = ("counters", "reasons")
MAX_SERVICES, MAX_DESTS = 4096, 16384
CONN_BITS = range(12, 27)
_FRAME = bytes(64)
_CLOCK_MONOTONIC_COARSE = 6  # the clock of bpf_ktime_get_coarse_ns; the time module has no name for it


def sysctl_defaults() -> dict[str, sysctl.Value]:
    """What a new director's sysctls are on this machine: members of the shared structure."""
    return sysctl.defaults(possible_cpus(), os.sysconf("SC_PHYS_PAGES"))


def default_conn_bits() -> int:
    """The connection table has 2**this slots by default: at most a 128th of the machine's memory, and 2**20."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(14, min(20, (memory // 128 // layout.CONN.size).bit_length() - 1))


class Instance:
    """The pinned state of a director, open for reading and changing.

    Attributes:
        slots, tags, groups: the connection table that is in force now.
        config, runtime, sysctls, services, marks, pools, dests, dest_loads, estimates: the shared arrays.
        service_index, own_addresses, call_ids: hashes.
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
    service_index: Hash
    speakers: Hash
    own_addresses: Hash
    call_ids: Hash
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
            DatapathError: the director was unloaded meanwhile.
        """
        with bpffs.locked(self.directory, create=False):
            if not os.path.isdir(self.path):
                raise DatapathError("the director was unloaded by another command")
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
            return syscall.run(fd, _FRAME)[0]
        finally:
            os.close(fd)

    # ---- interfaces -------------------------------------------------------------------------------------------------

    def attach(self, interface: netlink.Interface) -> None:
        """Put the packet path on an interface."""
        fd = self.program("ingress")
        try:
            interfaces.attach(f"{self.path}/links", fd, interface.ifindex)
        finally:
            os.close(fd)
        self.learn_addresses()

    def attach_newcomers(self) -> None:
        """Put the packet path on interfaces that appeared since the last change, unless somebody took it off them."""
        for interface in interfaces.newcomers(f"{self.path}/links"):
            try:
                self.attach(interface)
            except OSError as error:
                if error.errno != errno.ENODEV:  # it went away while we looked
                    raise DatapathError(f"cannot attach to {interface.name}: {error.strerror}") from None

    def detach(self, interface: netlink.Interface) -> bool:
        """Take it off again; False if it was not there."""
        return interfaces.detach(f"{self.path}/links", interface.ifindex)

    def attached(self) -> dict[int, str]:
        """Interface number -> how ("tcx" or "clsact")."""
        return interfaces.attached(f"{self.path}/links")

    def learn_addresses(self) -> None:
        """Tell the packet path our IPv6 addresses, from which ICMPv6 errors are sent."""
        _learn_addresses(self.own_addresses)

    def learn_ports(self) -> None:
        """Tell the packet path which ports need no privilege: where FTP's data may come (facts 1.3)."""
        self.config.put(0, "unprivileged", _unprivileged())

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
            groups = syscall.map_size(maps["slots"])[2]
            constants = programs.table_constants(self.config.get(0, "table"), groups, self.config.get(0, "seeds"))
            taken_over, loaded = programs.load({}, maps, constants)
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
        links = f"{self.path}/links"
        for ifindex in interfaces.attached(links):
            try:
                interfaces.attach(links, loaded["ingress"], ifindex)
            except OSError as error:
                if error.errno not in (errno.ENODEV, errno.ENOLINK):  # it went away while we looked
                    raise
        for name, fd in loaded.items():
            fresh = f"{self.path}/programs/{name}_new"
            if os.path.exists(fresh):
                os.unlink(fresh)
            syscall.pin(fd, fresh)
            os.rename(fresh, f"{self.path}/programs/{name}")
        self.run("start")


def _unprivileged() -> int:
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
        return int(file.read())


def _learn_addresses(own: Hash) -> None:
    wanted: dict[bytes, bytes] = {}
    for address in netlink.addresses():
        if len(address.address) != 16:
            continue
        pack = layout.OWN_ADDRESS.pack
        wanted[pack(ifindex=address.ifindex, address=address.address)] = address.address
        if address.globally:
            wanted.setdefault(pack(ifindex=address.ifindex), address.address)
    known = own.keys()
    for key in known:
        if key not in wanted:
            own.delete(key)
    for key, value in list(wanted.items())[: own.entries]:
        own.put(key, value)


def _permit() -> None:
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
    _permit()
    where = directory()
    if where is None:
        return None
    try:
        return Instance(where)
    except FileNotFoundError:
        return None
    except PermissionError:
        raise NotPermitted("the director's maps cannot be opened: permission denied; pylvs needs root") from None


def load(conn_bits: int | None = None, max_services: int = MAX_SERVICES, max_dests: int = MAX_DESTS) -> Instance:
    """The director of our network namespace, loaded and attached to every interface if there was none.

    Args:
        conn_bits: the connection table has 2**this slots; None for what suits the machine's memory.
        max_services, max_dests: how many virtual services and real servers fit.

    Raises:
        InvalidValue: a size is out of range.
        NotPermitted, DatapathError
    """
    if conn_bits is not None and conn_bits not in CONN_BITS:
        raise InvalidValue(
            f"the connection table's size 2^{conn_bits} is out of range; "
            f"it may be 2^{CONN_BITS[0]} to 2^{CONN_BITS[-1]}"
        )
    for what, number, most in (("services", max_services, 1 << 20), ("real servers", max_dests, 1 << 22)):
        if not 1 <= number <= most:
            raise InvalidValue(f"room for {number} {what} is out of range; it may be 1 to {most}")
    _permit()
    where = directory(create=True)
    assert where is not None
    _prune()  # a container that comes and goes must not leave a table behind each time
    try:
        with bpffs.locked(where):
            if not os.path.isdir(f"{where}/current"):
                closed = _left_to_undo(f"{where}/new") | forwarding.closed()
                try:
                    _make(where, closed, conn_bits or default_conn_bits(), max_services, max_dests)
                except BaseException:
                    bpffs.remove_tree(where)
                    bpffs.remove_root()
                    with suppress(PermissionError):  # then it could not be opened up either
                        forwarding.close(closed)
                    raise
    except PermissionError as error:
        raise NotPermitted(
            f"{error.filename or where}: permission denied; pylvs needs root (CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN)"
        ) from None
    return Instance(where)


def _make(where: str, closed: int, conn_bits: int, max_services: int, max_dests: int) -> None:
    new = f"{where}/new"
    for rest in ("new", "gone"):
        bpffs.remove_tree(f"{where}/{rest}")
    for path in (new, f"{new}/maps", f"{new}/programs", f"{new}/links"):
        os.mkdir(path, 0o700)
    slots, objects = 1 << conn_bits, 1 + max_services + max_dests
    groups = slots // _layout.GROUP_SLOTS
    seeds = struct.unpack(f"={_layout.TABLE_SEEDS}Q", os.urandom(8 * _layout.TABLE_SEEDS))
    sizes = {
        "slots": groups,
        "tags": groups,
        "groups": groups,
        "call_ids": slots // 4,
        "services": max_services,
        "service_index": max_services,
        "speakers": max_dests,
        "dests": max_dests,
        "dest_loads": max_dests,
        "caches": max_services,
        "pools": _pool_slots(max_services, max_dests),
        "counters": objects,
        "estimates": objects,
    }
    maps, loaded = programs.load(sizes, {}, programs.table_constants(0, groups, seeds))
    try:
        for name, fd in maps.items():
            syscall.pin(fd, f"{new}/maps/{name}" + ("_0" if name in TABLE else ""))
        for name, fd in loaded.items():
            syscall.pin(fd, f"{new}/programs/{name}")
        config = SharedArray(maps["config"], layout.CONFIG)
        settings = layout.CONFIG.pack(
            layout_version=_layout.VERSION,
            conn_slots=slots,
            seeds=seeds,
            max_services=max_services,
            max_dests=max_dests,
            timeouts=2 * programs.timeouts_ms(),
            pool_next=1,  # 0 means no pool
            sysctl_saved=closed,
            unprivileged=_unprivileged(),
            programs=programs.fingerprint(),
            loaded=int(time.time()),
        )
        config.write(0, settings)
        config.close()
        sysctls = SharedArray(maps["sysctls"], layout.SYSCTLS)
        sysctls.write(0, layout.SYSCTLS.pack(**sysctl_defaults()))
        sysctls.close()
        forwarding.open_up(closed)
        _learn_addresses(Hash(maps["own_addresses"]))
        for interface in interfaces.wanted():
            try:
                interfaces.attach(f"{new}/links", loaded["ingress"], interface.ifindex)
            except OSError as error:
                if error.errno != errno.ENODEV:  # it went away while we looked
                    raise DatapathError(f"cannot attach to {interface.name}: {error.strerror}") from None
        # if the timer will not start, passing packets carry the sweep; `pylvs status` says so
        for _ in range(3):
            if syscall.run(loaded["start"], _FRAME)[0] == 0:
                break
    finally:
        for fd in (*maps.values(), *loaded.values()):
            os.close(fd)
    os.rename(new, f"{where}/current")


def _pool_slots(services: int, dests: int) -> int:
    """Room for every service with a table of 256 entries, for every real server three times (a change writes a new pool
    beside the old one, and the one before may have left a gap that is too small), for a table of mh for one service in
    16, but 256 at least, and a quarter more: they do not fit without gaps."""
    table, maglev = 256 // _layout.POOL_TABLE_SLOT, 4096 // _layout.POOL_TABLE_SLOT
    tables = max(services // 16, min(services, 256))
    return 1024 + (services * (4 + table) + 3 * dests + tables * maglev) * 5 // 4


def _left_to_undo(new: str) -> int:
    """What a loading that was killed has changed in lo's forwarding."""
    try:
        fd = syscall.get(f"{new}/maps/config")
    except OSError:
        return 0
    try:
        config = SharedArray(fd, layout.CONFIG)
        saved: int = config.get(0, "sysctl_saved")
        config.close()
        return saved
    except ValueError:
        return 0  # another version's
    finally:
        os.close(fd)


def unload() -> bool:
    """Remove the director of our network namespace with all its connections; False if there was none.

    Raises:
        NotPermitted, DatapathError
    """
    _permit()
    where = directory()
    if where is None or not os.path.isdir(where):
        return False
    with bpffs.locked(where, create=False):
        there = os.path.isdir(f"{where}/current")
        if there:
            saved = 0
            try:
                instance = Instance(where)
                saved = instance.config.get(0, "sysctl_saved")
                instance.close()
            except DatapathError:
                pass  # another version's: it can still be removed
            from pylvs.datapath import detour

            detour.clear()
            links = f"{where}/current/links"
            for ifindex in interfaces.attached(links):
                interfaces.detach(links, ifindex)
            bpffs.remove_tree(f"{where}/gone")
            os.rename(f"{where}/current", f"{where}/gone")
            forwarding.close(saved)
        for rest in ("new", "gone"):
            bpffs.remove_tree(f"{where}/{rest}")
        os.rmdir(where)
    bpffs.remove_root()
    return there


def _prune() -> tuple[list[str], list[str]]:
    """Remove the pins of namespaces that are gone. Returns the cookies of those, and of those of which it cannot be
    told."""
    root, removed, unknown = bpffs.root(), [], []
    mine = bpffs.namespace_cookie()
    try:
        cookies = os.listdir(root) if root else []
    except FileNotFoundError:
        cookies = []  # the last director was just unloaded
    for cookie in cookies:
        where = f"{root}/{cookie}"
        if cookie == mine:
            continue
        try:
            # looked at under the lock: meanwhile it could be unloaded and loaded anew, and would be taken for dead
            with bpffs.locked(where, create=False, wait=False):
                alive = interfaces.alive(f"{where}/current/links")
                if not os.path.isdir(f"{where}/current"):
                    # a loading that was killed; kept if it may live and the next one has something to undo
                    left = bool(_left_to_undo(f"{where}/new"))
                    alive = left and interfaces.alive(f"{where}/new/links") is not False
                if alive is None:
                    unknown.append(cookie)
                elif not alive:
                    bpffs.remove_tree(where)
                    removed.append(cookie)
        except (BlockingIOError, FileNotFoundError):
            continue  # somebody else is at it
    if removed:
        bpffs.remove_root()
    return removed, unknown


def prune() -> list[str]:
    """Remove the pins of network namespaces that are gone. Returns their cookies.

    A namespace takes its interfaces along, lo too: if the link to lo has lost it, the namespace is gone. Where there is
    no such link (before Linux 6.6, or after `pylvs detach lo`) that cannot be seen, and nothing is removed.

    Raises:
        NotSupported: there are directors of which it cannot be told.
    """
    removed, unknown = _prune()
    if unknown and not removed:
        raise NotSupported(
            "whether their namespaces are gone cannot be told without a tcx link to lo (Linux 6.6): "
            + ", ".join(unknown)
        )
    return removed
