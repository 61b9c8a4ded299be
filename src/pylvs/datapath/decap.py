"""The program of a tunnel real server, `bpf/decap.bpf.c`: loaded, pinned, told what to do, removed.

    <bpffs>/pylvs-realserver/<namespace cookie>/            locked (flock) by whoever changes anything
                                                current/    the programs and their maps
                                                new/        being made: its last step is the renaming to current
                                                gone/       being removed
                                                links/      the interfaces that it is attached to
                                                egress/     those on which clients are told how long segments may be

It has nothing to do with a director: both may be on one host, and either goes without the other. What it does is said
in one word of its configuration, the last store of every change; a command that is killed leaves what was, or the new
state, and the next one tidies up.
"""

import errno
import os
import time
from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from collections.abc import Iterable

from pylvs.datapath import _layout, bpffs, interfaces, layout, netlink, syscall
from pylvs.datapath.instance import permit
from pylvs.datapath.interfaces import REALSERVER
from pylvs.datapath.maps import Hash, PerCpuArray, SharedArray
from pylvs.errors import DatapathError, InvalidValue
from pylvs.realserver import TUNNELS, Decapsulation

ROOT = "pylvs-realserver"
REASONS: tuple[str, ...] = _layout.DECAP_REASONS
MOST = _layout.DECAP_MEMBERS // 2
_BITS = {name: getattr(_layout, f"DECAP_{name.upper()}") for name in TUNNELS}
_THERE = b"\1\0\0\0"


class Decap:
    """The program that runs in our network namespace, open for reading and changing."""

    def __init__(self, directory: str, part: str = "current"):
        """Open what is pinned under `directory`/`part`.

        Raises:
            FileNotFoundError: nothing is.
            DatapathError: another version of pylvs has made it.
        """
        self.directory = directory
        self.program = f"{directory}/{part}/decap"
        self.clamp = f"{directory}/{part}/clamp"
        self._fds: dict[str, int] = {}
        try:
            for name in ("config", "members", "reasons"):
                self._fds[name] = syscall.get(f"{directory}/{part}/{name}")
            try:
                self._config = SharedArray(self._fds["config"], layout.DECAP_CONFIG)
            except ValueError:
                raise DatapathError(
                    "what runs here was started by another version of pylvs; start it anew: pylvs realserver decap"
                ) from None
        except BaseException:
            self._close_fds()
            raise
        self._members, self._reasons = Hash(self._fds["members"]), PerCpuArray(self._fds["reasons"])

    def __enter__(self) -> "Decap":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the maps. The program goes on."""
        self._config.close()
        self._close_fds()

    def _close_fds(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    @property
    def links(self) -> str:
        return f"{self.directory}/links"

    @property
    def egress(self) -> str:
        return f"{self.directory}/egress"

    def current(self) -> bool:
        """Is it the program of this very build?"""
        return bool(self._config.get(0, "program") == fingerprint())

    def settings(self) -> Decapsulation:
        """What it does."""
        word: int = self._config.get(0, "settings")
        row = bool(word & _layout.DECAP_ROW)
        found: dict[int, list[bytes]] = {kind: [] for kind in range(3)}
        families: dict[bytes, int] = {}
        keys = self._members.keys()
        for address, its_row, kind, family, _ in map(layout.DECAP_MEMBER.unpack, keys):
            if its_row == row:
                found[kind].append(address)
                families[address] = family

        def texts(kind: int) -> tuple[str, ...]:
            pairs = sorted((families[raw], raw) for raw in found[kind])
            return tuple(inet_ntop(family, raw[: 4 if family == AF_INET else 16]) for family, raw in pairs)

        return Decapsulation(
            tuple(name for name in TUNNELS if word & _BITS[name]),
            tuple(sorted(int.from_bytes(raw[:2], "big") for raw in found[_layout.DECAP_PORT])),
            texts(_layout.DECAP_VIP),
            texts(_layout.DECAP_DIRECTOR),
            (word >> _layout.DECAP_MSS4_SHIFT & 0xFFFF, word >> _layout.DECAP_MSS6_SHIFT & 0xFFFF),
        )

    def prepare(self, wanted: Decapsulation) -> int:
        """Write down what belongs to `wanted` where no packet looks; the word that puts it in force.

        Raises:
            InvalidValue: there are too many addresses.
        """
        row = 0 if self._config.get(0, "settings") & _layout.DECAP_ROW else 1
        keys = list(_members(wanted, row))
        if len(keys) > MOST:
            raise InvalidValue(f"{len(keys)} addresses and ports are too many; there is room for {MOST}")
        self._forget(row)
        for key in keys:
            self._members.put(key, _THERE)
        word = sum(_BITS[name] for name in wanted.types) | row * _layout.DECAP_ROW
        word |= bool(wanted.vips) * _layout.DECAP_ONLY_VIPS
        word |= wanted.mss[0] << _layout.DECAP_MSS4_SHIFT | wanted.mss[1] << _layout.DECAP_MSS6_SHIFT
        return word | bool(wanted.directors) * _layout.DECAP_ONLY_DIRECTORS

    def put(self, word: int) -> None:
        """Have what was prepared in force, from one packet to the next."""
        self._config.put(0, "settings", word)
        syscall.wait_for_packets()  # who still goes by the former row
        self._forget(0 if word & _layout.DECAP_ROW else 1)

    def _forget(self, row: int) -> None:
        keys = self._members.keys()
        for key in keys:
            if layout.DECAP_MEMBER.get(key, 0, "row") == row:
                self._members.delete(key)

    def counters(self) -> dict[str, int]:
        """How many packets came to each end: a name of REASONS -> their number."""
        return {name: self._reasons.sums(number)[0] for number, name in enumerate(REASONS)}

    def attached(self) -> dict[int, str]:
        """Interface number -> how ("tcx" or "clsact")."""
        return interfaces.attached(self.links, REALSERVER)

    def clamps(self) -> dict[int, str]:
        """The same of those on which segments leave that tell clients how long theirs may be."""
        return interfaces.attached(self.egress, REALSERVER) if os.path.isdir(self.egress) else {}


def _members(wanted: Decapsulation, row: int) -> Iterable[bytes]:
    pack = layout.DECAP_MEMBER.pack
    for kind, texts in ((_layout.DECAP_VIP, wanted.vips), (_layout.DECAP_DIRECTOR, wanted.directors)):
        for text in texts:
            family = AF_INET6 if ":" in text else AF_INET
            yield pack(address=inet_pton(family, text).ljust(16, b"\0"), row=row, kind=kind, family=family)
    for port in wanted.ports if "gue" in wanted.types else ():
        yield pack(address=port.to_bytes(2, "big").ljust(16, b"\0"), row=row, kind=_layout.DECAP_PORT)


def fingerprint() -> bytes:
    """What tells one build of the program from another."""
    from hashlib import sha256

    from pylvs.datapath.object import DIRECTORY

    try:
        with open(os.path.join(DIRECTORY, "decap.bpf.o"), "rb") as file:
            return sha256(file.read()).digest()
    except FileNotFoundError:
        raise DatapathError("the eBPF objects are missing: pylvs was not built; run make setup") from None


def _directory(create: bool = False) -> str | None:
    root = bpffs.root(create, ROOT)
    return f"{root}/{bpffs.namespace_cookie()}" if root else None


def pinned() -> bool:
    """Is anything of ours left in this network namespace, whole or not?"""
    where = _directory()
    return where is not None and os.path.isdir(where)


def find() -> Decap | None:
    """What runs in our network namespace, if anything does.

    Raises:
        NotPermitted, DatapathError
    """
    permit()
    where = _directory()
    try:
        return Decap(where) if where else None
    except FileNotFoundError:
        return None


def run(wanted: Decapsulation, names: Iterable[str] = ()) -> Decap:
    """Have the outer headers of tunnel packets taken off in our network namespace, from now on as `wanted` says.

    Args:
        names: of the interfaces; none: every one with an Ethernet header but lo. From others it is taken off.

    Raises:
        InvalidValue: there is no such interface, or none at all, or there are too many addresses.
        NotPermitted, DatapathError
    """
    permit()
    chosen = choose(names)
    leaving = ethernet() if any(wanted.mss) else []
    where = _directory(create=True)
    assert where is not None
    _prune()
    with bpffs.locked(where):
        before = _running(where)
        try:
            if before is None or not before.current():
                _replace(where, wanted, chosen, leaving, before)
            else:
                word = before.prepare(wanted)
                _attach(before.program, before.links, chosen)
                _attach(before.clamp, before.egress, leaving)
                before.put(word)
            _detach(f"{where}/links", chosen)
            _detach(f"{where}/egress", leaving)
        except BaseException:
            if before is None:
                _remove(where)
            raise
        finally:
            if before is not None:
                before.close()
    return Decap(where)


def _running(where: str) -> Decap | None:
    try:
        return Decap(where)
    except (FileNotFoundError, DatapathError):
        return None


def _replace(
    where: str,
    wanted: Decapsulation,
    chosen: list[netlink.Interface],
    leaving: list[netlink.Interface],
    before: Decap | None,
) -> None:
    """A new program in the place of another build's, or of none. It knows what to do before any packet meets it, except
    where there was none: there all interfaces begin together."""
    from pylvs.datapath.object import Object

    new = f"{where}/new"
    for rest in ("new", "gone"):
        bpffs.remove_tree(f"{where}/{rest}")
    os.mkdir(new, 0o700)
    os.makedirs(f"{where}/links", 0o700, exist_ok=True)
    loaded = Object("decap", {}, {}, {})
    try:
        for name in ("config", "members", "reasons"):
            syscall.pin(loaded.maps[name], f"{new}/{name}")
        for name in ("decap", "clamp"):
            syscall.pin(loaded.programs[name], f"{new}/{name}")
        config = SharedArray(loaded.maps["config"], layout.DECAP_CONFIG)
        config.write(0, layout.DECAP_CONFIG.pack(program=fingerprint(), loaded=int(time.time())))
        config.close()
    finally:
        loaded.close()
    with Decap(where, "new") as fresh:
        word = fresh.prepare(wanted)
        if before is not None:
            fresh.put(word)
        _attach(fresh.program, fresh.links, chosen)
        _attach(fresh.clamp, fresh.egress, leaving)
        if os.path.isdir(f"{where}/current"):
            os.rename(f"{where}/current", f"{where}/gone")
        os.rename(new, f"{where}/current")
        fresh.put(word)
    bpffs.remove_tree(f"{where}/gone")


def ethernet() -> list[netlink.Interface]:
    """The interfaces with an Ethernet header but lo."""
    return [one for one in interfaces.wanted() if one.ethernet and one.hardware != netlink.ARPHRD_LOOPBACK]


def choose(names: Iterable[str]) -> list[netlink.Interface]:
    """The interfaces of these names; of no names: all that could be.

    Raises:
        InvalidValue: there is no such interface, or none at all.
    """
    chosen = [interfaces.find(name) for name in names] or ethernet()
    for one in chosen:
        if not one.ethernet:
            raise InvalidValue(f"{one.name} has no Ethernet header; tunnel packets are unwrapped on those that have")
    if not chosen:
        raise InvalidValue("there is no interface with an Ethernet header in this network namespace but lo")
    return chosen


def _detach(links: str, but: list[netlink.Interface]) -> None:
    if os.path.isdir(links):
        for ifindex in set(interfaces.attached(links, REALSERVER)) - {one.ifindex for one in but}:
            interfaces.detach(links, ifindex, REALSERVER)


def _attach(program: str, links: str, chosen: list[netlink.Interface]) -> None:
    if not chosen:
        return
    os.makedirs(links, 0o700, exist_ok=True)
    fd = syscall.get(program)
    try:
        for interface in chosen:
            try:
                interfaces.attach(links, fd, interface.ifindex, REALSERVER)
            except OSError as error:
                if error.errno != errno.ENODEV:  # it went away while we looked
                    raise DatapathError(f"cannot attach to {interface.name}: {error.strerror}") from None
    finally:
        os.close(fd)


def stop() -> bool:
    """Take the programs off all interfaces of our network namespace and forget them; False if there were none.

    Raises:
        NotPermitted
    """
    permit()
    where = _directory()
    if where is None or not os.path.isdir(where):
        return False
    with bpffs.locked(where, create=False):
        there = os.path.isdir(f"{where}/current")
        _remove(where)
    return there


def _remove(where: str) -> None:
    _detach(f"{where}/links", [])
    _detach(f"{where}/egress", [])
    bpffs.remove_tree(where)
    bpffs.remove_root(ROOT)


def _prune() -> None:
    """Remove the pins of namespaces that are gone: a namespace takes its interfaces along, and a tcx link knows that
    its interface is gone. Where no link says so (before Linux 6.6) nothing is removed."""
    root = bpffs.root(name=ROOT)
    mine = bpffs.namespace_cookie()
    for cookie in os.listdir(root) if root else ():
        where = f"{root}/{cookie}"
        if cookie == mine:
            continue
        try:
            with bpffs.locked(where, create=False, wait=False):
                pinned = [name for name in os.listdir(f"{where}/links") if not name.endswith("x")]
                known = pinned and all(name.isdecimal() for name in pinned)
                if known and not interfaces.attached(f"{where}/links", REALSERVER):
                    bpffs.remove_tree(where)
        except (BlockingIOError, FileNotFoundError):
            continue  # somebody else is at it
