"""A director's life: loaded into a network namespace, and removed from it.

Making one is all or nothing: everything is pinned and attached under `new/`, and the last step is a rename to
`current/`.
"""

import errno
import os
import struct
import time
from contextlib import suppress

from pylvs.datapath import _layout, bpffs, egress, forwarding, ftpports, interfaces, layout, programs, syscall
from pylvs.datapath.instance import (
    FRAME,
    TABLE,
    Instance,
    directory,
    entrance,
    learn_addresses,
    local_ports,
    permit,
    sysctl_defaults,
    unprivileged,
)
from pylvs.datapath.maps import Hash, SharedArray, possible_cpus
from pylvs.errors import DatapathError, InvalidValue, NotPermitted, NotSupported

MAX_SERVICES, MAX_DESTS = range(1, (1 << 20) + 1), range(1, (1 << 22) + 1)
LEAST_SERVICES, LEAST_DESTS = 4096, 16384
MOST_SERVICES, DESTS_PER_SERVICE = 16384, 8
CONN_BITS = range(12, 27)
_HASH_ENTRY = 64  # bytes


def default_conn_bits() -> int:
    """The connection table has 2**this slots by default: at most a 128th of the machine's memory, and 2**20."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(14, min(20, (memory // 128 // layout.CONN.size).bit_length() - 1))


def default_room() -> tuple[int, int]:
    """How many virtual services and real servers fit by default: as many as a 64th of the machine's memory has room
    for, between 4,096 and 16,384 services. From about 8 GB on that is enough for 10,000 services with 10 real servers
    each; the arrays cannot grow afterwards."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    services, dests = LEAST_SERVICES, LEAST_DESTS
    while services < MOST_SERVICES:
        more = 2 * services, 2 * services * DESTS_PER_SERVICE
        if _room_bytes(*more) > memory // 64:
            break
        services, dests = more
    return services, dests


def _room_bytes(services: int, dests: int) -> int:
    """What the arrays of services and real servers take, about; what hashes need for an entry is estimated."""
    counter = layout.ESTIMATE.size + layout.COUNTERS.size * possible_cpus()
    of_service = layout.SERVICE.size + _HASH_ENTRY
    of_dest = layout.DEST.size + layout.DEST_LOAD.size + _HASH_ENTRY
    pools = _pool_slots(services, dests) * layout.POOL_HEAD.size
    return services * (of_service + counter) + dests * (of_dest + counter) + pools


def load(conn_bits: int | None = None, max_services: int | None = None, max_dests: int | None = None) -> Instance:
    """The director of our network namespace, loaded and attached to every interface if there was none.

    Args:
        conn_bits: the connection table has 2**this slots; None for what suits the machine's memory.
        max_services, max_dests: how many virtual services and real servers fit; None for what suits the machine's
            memory (`default_room`).

    Raises:
        InvalidValue: a size is out of range.
        NotPermitted, DatapathError
    """
    if conn_bits is not None and conn_bits not in CONN_BITS:
        raise InvalidValue(
            f"the connection table's size 2^{conn_bits} is out of range; "
            f"it may be 2^{CONN_BITS[0]} to 2^{CONN_BITS[-1]}"
        )
    services, dests = default_room()
    services = services if max_services is None else max_services
    dests = dests if max_dests is None else max_dests
    for what, number, allowed in (("services", services, MAX_SERVICES), ("real servers", dests, MAX_DESTS)):
        if number not in allowed:
            raise InvalidValue(f"room for {number} {what} is out of range; it may be {allowed[0]} to {allowed[-1]}")
    permit()
    where = directory(create=True)
    assert where is not None
    _prune()  # a container that comes and goes must not leave a table behind each time
    try:
        with bpffs.locked(where):
            if not os.path.isdir(f"{where}/current"):
                closed = _left_to_undo(f"{where}/new") | forwarding.closed()
                try:
                    _make(where, closed, conn_bits or default_conn_bits(), services, dests)
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
        "ftp_talks": slots // 4,
        "services": max_services,
        "service_index": max_services,
        "speakers": max_dests,
        "nat_servers": max_dests,
        "dests": max_dests,
        "dest_loads": max_dests,
        "caches": max_services,
        "pools": _pool_slots(max_services, max_dests),
        "counters": objects,
        "estimates": objects,
    }
    places = interfaces.wanted()
    linkless = any(interface.linkless for interface in places)
    maps, loaded = programs.load(sizes, {}, programs.table_constants(0, groups, seeds), "", linkless)
    try:
        for name, fd in maps.items():
            syscall.pin(fd, f"{new}/maps/{name}" + ("_0" if name in TABLE else ""))
        for name, fd in loaded.items():
            syscall.pin(fd, f"{new}/programs/{programs.pin_name(name, fd)}")
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
            unprivileged=unprivileged(),
            ftp_ports=2 * ftpports.row(ftpports.DEFAULT),
            local_ports=local_ports(),
            programs=programs.fingerprint(),
            loaded=int(time.time()),
        )
        config.write(0, settings)
        config.close()
        sysctls = SharedArray(maps["sysctls"], layout.SYSCTLS)
        sysctls.write(0, layout.SYSCTLS.pack(**sysctl_defaults()))
        sysctls.close()
        forwarding.open_up(closed)
        learn_addresses(Hash(maps["own_addresses"]))
        for interface in places:
            try:
                interfaces.attach(f"{new}/links", loaded[entrance(interface)], interface.ifindex)
            except OSError as error:
                if error.errno != errno.ENODEV:  # it went away while we looked
                    raise DatapathError(f"cannot attach to {interface.name}: {error.strerror}") from None
        # if the timer will not start, passing packets carry the sweep; `pylvs status` says so
        for _ in range(3):
            if syscall.run(loaded["start"], FRAME)[0] == 0:
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
    permit()
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
            egress.remove(f"{where}/current/egress")
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
