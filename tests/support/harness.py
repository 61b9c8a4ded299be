"""One director in a network namespace of its own, and packets put through its real program, one at a time.

    client 10.1/16, fd00:1::/64  -- c0 | d0 director d1 | r0 --  real servers 10.2/16, fd00:2::/64

The director is the one of the recorded conversations: 10.0.1.1/24 and fd00:a1::1 towards the clients, 10.0.2.1/24 and
fd00:a2::1 towards the real servers, all of 10.99/16 and fd00:99::/64 are its VIPs, MTU 1500.

    with Harness() as lvs:
        lvs.ipvsadm("-A -t 10.99.0.1:80 -s rr", "-a -t 10.99.0.1:80 -r 10.2.0.1:8080 -m")
        result = lvs.from_client(tcp_packet("10.1.0.1", 1025, "10.99.0.1", 80, "S"))
        assert result.reason == "forwarded_nat_request"
        assert result.packet.destination == ("10.2.0.1", 8080)

A packet goes through the pinned program by BPF_PROG_TEST_RUN: the kernel's own code, lookups and all, only nothing
leaves on a wire. So the first packet of a connection, which the program leaves to the kernel's neighbour code, keeps
the Ethernet addresses that it came with; what counts is the IP packet.

The namespaces have no name: they are gone when the process is, however it ends. `Harness` holds them open and is
"in" the director's between enter() and leave().
"""

import io
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from pylvs import sysctl
from pylvs.datapath import _layout, bpffs, loading, syscall
from pylvs.datapath.connections import Reader, entries
from pylvs.datapath.instance import Instance
from pylvs.datapath.layout import REASONS
from pylvs.datapath.services import ServiceTable
from pylvs.director import Director
from pylvs.ipvsadm.commands import Shell
from pylvs.lab.waiting import wait_for
from pylvs.model import Connection, Service, VirtualService, real_server
from support import packets
from support.hosts import TestResolver
from support.mapstate import MapState
from support.netns import ip, set_proc, setns, unshare_net
from support.results import REDIRECT, SHOT, STAYING, UP, Entry, Result, Sent

CLIENT, SERVER = "d0", "d1"
"""The director's interfaces, named for who is behind them."""
MACS = {name: packets.mac(f"02:00:00:00:00:0{number}") for number, name in enumerate(("c0", "d0", "d1", "r0"), 1)}
INDEX = {"d0": 100, "d1": 200}
"""Their numbers. Pairs with equal numbers are taken for hardware by the kernel, which lets "link is up" wait."""
_PEER = {"d0": "c0", "d1": "r0"}
DEFENCES = frozenset(sysctl.DEFENCES)
HOSTS = {"10.99.0.1": "vip1.example.test", "10.1.0.1": "client1.example.test", "10.2.0.1": "rs1.example.test"}
"""Whom the director's /etc/hosts knew when the conversations were recorded."""

_ALL_PROTOCOLS = 3
_SO_RCVBUFFORCE = 33
_CONTEXT = 192  # sizeof(struct __sk_buff)
_RECEIVED, _ANSWERS = REASONS.index("received"), ("answered_icmp", "answered_icmp_limited")

_ADDRESSES = """
link set lo up
link set d0 up
link set d1 up
addr add 10.0.1.1/24 dev d0
addr add 10.0.2.1/24 dev d1
addr add fd00:a1::1/64 dev d0 nodad
addr add fd00:a2::1/64 dev d1 nodad
neigh add 10.0.1.2 lladdr 02:00:00:00:00:01 dev d0
neigh add fd00:a1::2 lladdr 02:00:00:00:00:01 dev d0
neigh add 10.0.2.2 lladdr 02:00:00:00:00:04 dev d1
neigh add fd00:a2::2 lladdr 02:00:00:00:00:04 dev d1
route add local 10.99.0.0/16 dev lo
route add local fd00:99::/64 dev lo
route add 10.1.0.0/16 via 10.0.1.2
route add fd00:1::/64 via fd00:a1::2
route add 10.2.0.0/16 via 10.0.2.2
route add fd00:2::/64 via fd00:a2::2
"""


class Harness:
    """See the file's head.

    Attributes:
        director: the Director under test; replaced by every load().
        instance: its packet path.
    """

    director: Director
    instance: Instance

    def __init__(self, conn_bits: int = 12, max_services: int = 64, max_dests: int = 512):
        """Make the namespaces and load the packet path into the director's."""
        self._sizes = (conn_bits, max_services, max_dests)
        self._outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._loaded = False
        self._program = self._egress = -1
        self._maps: MapState | None = None
        try:
            self._peers = unshare_net()
            self._network = unshare_net()
            self._build()
            self.load()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        for interface, number in INDEX.items():
            peer = _PEER[interface]
            own, other = MACS[interface].hex(":"), MACS[peer].hex(":")
            # not into the other namespace's name, but through our descriptor of it: names would have to be unique
            ip(f"link add {interface} index {number} address {own} type veth peer name {peer} address {other} "
               f"netns /proc/{os.getpid()}/fd/{self._peers}\n")  # fmt: skip
        setns(self._peers)
        # nobody there may say anything of his own: it would be counted among the packets of the tests
        set_proc("ipv6/conf/all/disable_ipv6", "1")
        set_proc("ipv6/conf/default/disable_ipv6", "1")
        ip("link set lo up\nlink set c0 up\nlink set r0 up\n")
        setns(self._network)
        set_proc("ipv4/ip_forward", "1")
        set_proc("ipv6/conf/all/forwarding", "1")
        for name in ("all", "default", "lo", "d0", "d1"):
            set_proc(f"ipv4/conf/{name}/rp_filter", "0")
            set_proc(f"ipv6/conf/{name}/accept_dad", "0")
        ip(_ADDRESSES)
        wait_for(self._links_ready, "d0 and d1 to come up")

    @staticmethod
    def _links_ready() -> bool:
        # IPv6 uses a link from when the kernel has noticed that it is up; the link-local address comes last in that
        with open("/proc/thread-self/net/if_inet6", encoding="ascii") as file:
            rows = [line.split() for line in file]
        return {"d0", "d1"} <= {row[5] for row in rows if row[0].startswith("fe80")}

    def __enter__(self) -> "Harness":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unload, leave the namespaces and let them go."""
        try:
            if self._loaded:
                self.enter()
                self.unload()
        finally:
            setns(self._outside)
            for name in ("_network", "_peers", "_outside"):
                fd = getattr(self, name, -1)
                if fd >= 0:
                    os.close(fd)
                setattr(self, name, -1)

    # ---- where we are ----

    def enter(self) -> None:
        """Go into the director's namespace."""
        setns(self._network)

    def leave(self) -> None:
        """Go back to where the process came from."""
        setns(self._outside)

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Be out of the director's namespace for a while."""
        self.leave()
        try:
            yield
        finally:
            self.enter()

    # ---- the director's life ----

    def load(self, conn_bits: int | None = None) -> None:
        """Load the packet path, small, unless it is loaded."""
        bits, services, dests = self._sizes
        loading.load(conn_bits or bits, services, dests).close()
        self._loaded = True
        self._open()
        self._program = self.instance.program("ingress")
        self._egress = self.instance.program("egress")

    def _open(self) -> None:
        self.director = Director()
        assert self.director.instance is not None
        self.instance = self.director.instance

    def unload(self) -> None:
        """Remove it with all that it knew."""
        self._let_go()
        if self._maps is not None:
            self._maps.close()
            self._maps = None
        loading.unload()
        self._loaded = False

    def _let_go(self) -> None:
        if self._program >= 0:
            os.close(self._program)
            os.close(self._egress)
            self._program = self._egress = -1
            self.director.close()

    def reset(self) -> None:
        """A director that knows nothing of what was before: the same programs, and what the maps held after loading."""
        if self._maps is None:
            self.reload()
            self._maps = MapState(f"{self.instance.path}/maps")
            return
        self.advance(2)  # so that the timer has nothing in hand, and gives up no fragment while counters are cleared
        self._maps.put_back()
        self.director.close()
        self._open()

    def reload(self, conn_bits: int | None = None) -> None:
        """A director that knows nothing of what was before."""
        self.unload()
        self.load(conn_bits)

    def reopen(self) -> None:
        """Look at the running director afresh, as another process would."""
        self._let_go()
        self.load()

    # ---- configuration ----

    def ipvsadm(self, *lines: str) -> str:
        """Command lines of ipvsadm, without its name; what they print. Any complaint fails the test."""
        out, err = io.StringIO(), io.StringIO()
        for line in lines:
            code = Shell((), out, err, resolver=TestResolver(HOSTS)).run(line.split())
            assert code == 0 and not err.getvalue(), f"ipvsadm {line} answered {code}: {err.getvalue()}"
        return out.getvalue()

    def restore(self, rules: str) -> None:
        """Add services and real servers from the lines of `ipvsadm -S`."""
        err = io.StringIO()
        code = Shell(io.StringIO(rules), io.StringIO(), err, resolver=TestResolver(HOSTS)).run(["-R"])
        assert code == 0 and not err.getvalue(), f"ipvsadm -R answered {code}: {err.getvalue()}"

    def configure(self, **values: int | tuple[int, ...]) -> None:
        """Set members of the configuration."""
        for name, value in values.items():
            self.instance.config.put(0, name, value)

    def set(self, **values: int) -> None:
        """Set sysctls, such as conn_reuse_mode."""
        for name, value in values.items():
            self.instance.sysctls.put(0, name, value)
        if not DEFENCES.isdisjoint(values):
            self.instance.run("decide")  # or they would be on a second later

    # ---- time ----

    def advance(self, seconds: float) -> None:
        """Move the director's clock forward and let the sweep and the estimator see it."""
        self.shift(seconds)
        self.sweep()

    def shift(self, seconds: float) -> None:
        """Move the clock forward and do nothing else: what is past is still in the table."""
        self.configure(clock_offset=self.instance.config.get(0, "clock_offset") + int(seconds * 1_000_000_000))
        # or the next packet would find the sweep late, and do its work
        self.instance.runtime.put(0, "swept", self.instance.now())

    def sweep(self) -> None:
        """Do at once what the timer does bit by bit."""
        assert self.instance.run("catch_up") == 0

    # ---- packets ----

    def send(
        self,
        frame: bytes,
        interface: str = CLIENT,
        *,
        gso_size: int = 0,
        gso_segs: int = 0,
        mark: int = 0,
        room: int = 128,
        flags: int = 0,
        program: str = "",
    ) -> Result:
        """Let a frame arrive on an interface. It must be counted under exactly one reason. `flags`: of syscall.run;
        `program`: that it comes to, if it is not `ingress`."""
        before = self.reasons()
        context = bytearray(_CONTEXT)
        ifindex = INDEX.get(interface) or socket.if_nametoindex(interface)
        struct.pack_into("=I", context, 8, mark)
        struct.pack_into("=II", context, 36, ifindex, ifindex)
        struct.pack_into("=I", context, 164, gso_segs)
        struct.pack_into("=I", context, 176, gso_size)
        fd = self.instance.program(program) if program else self._program
        try:
            verdict, after, _, _ = syscall.run(fd, frame, bytes(context), room=room, flags=flags)
        finally:
            if program:
                os.close(fd)
        changed = {
            name: now - then
            for name, now, then in zip(REASONS, self.reasons().values(), before.values(), strict=True)
            if now != then
        }
        assert changed.pop("received", 0) == 1, "a packet that was not counted as received"
        answers = tuple(name for name in _ANSWERS if changed.pop(name, 0) == 1)
        assert len(changed) == 1 and set(changed.values()) == {1}, f"counted under {changed}, not under one reason"
        reason = next(iter(changed))
        wanted = UP if reason.startswith("up_") else SHOT
        if reason in STAYING and verdict == UP:
            return Result(verdict, after, reason, answers)
        if reason.startswith("forwarded_") or "answered_icmp" in answers:
            wanted = REDIRECT
        assert verdict == wanted, f"counted under {reason}, but the verdict is {verdict}"
        if verdict == UP:
            assert after == frame, f"handed up under {reason}, but not as it came"
        return Result(verdict, after, reason, answers)

    def leave_by(
        self, interface: str, packet: bytes, came_in: str = "", mark: int = 0, *, gso_size: int = 0, gso_segs: int = 0
    ) -> Sent:
        """Let an IP packet leave by an interface, of the stack's own or (`came_in`) one that it forwards."""
        before = self.reasons()
        context = bytearray(_CONTEXT)
        struct.pack_into("=I", context, 8, mark)
        came = (INDEX.get(came_in) or socket.if_nametoindex(came_in)) if came_in else 0
        struct.pack_into("=II", context, 36, came, INDEX[interface])
        struct.pack_into("=I", context, 164, gso_segs)
        struct.pack_into("=I", context, 176, gso_size)
        verdict, after, _, _ = syscall.run(self._egress, frame(packet, interface), bytes(context), room=128)
        now = self.reasons()
        changed = [name for name, then in before.items() if now[name] != then]
        if {"received", "up_not_ip"} <= {*changed}:  # an ARP message of the stack's, or of the others', meanwhile
            changed = [name for name in changed if name not in ("received", "up_not_ip")]
        assert len(changed) < 2, f"counted under {changed}"
        return Sent(verdict, after, changed[0] if changed else "")

    def pour(self, frames: Iterable[bytes], interface: str = CLIENT, mark: int = 0) -> None:
        """Let many frames arrive, and look at none of them: to fill a table."""
        context = bytearray(_CONTEXT)
        struct.pack_into("=I", context, 8, mark)
        struct.pack_into("=II", context, 36, INDEX[interface], INDEX[interface])
        for one in frames:
            syscall.run(self._program, one, bytes(context), room=128)

    def wire(self, frames: Sequence[bytes], interface: str = CLIENT) -> dict[str, int]:
        """Let frames really arrive from the other end of the cable; how many were counted under each reason.

        For what BPF_PROG_TEST_RUN refuses: a frame that ends within the IP header.
        """
        before = self.reasons()
        with self.cable(interface) as cable:
            for one in frames:
                cable.send(one)
        wait_for(lambda: self.reasons()["received"] - before["received"] == len(frames), "the frames to arrive")
        now = self.reasons()
        return {name: now[name] - before[name] for name in now if now[name] != before[name] and name != "received"}

    def cable(self, interface: str, kind: int = 0) -> socket.socket:
        """The other end of an interface's cable: a socket for frames, which hears those of an Ethernet type, too."""
        with self.among_peers():
            cable = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            cable.bind((_PEER[interface], kind))
        return cable

    @contextmanager
    def among_peers(self) -> Iterator[None]:
        """In the network namespace of those who are at the other ends of the cables."""
        setns(self._peers)
        try:
            yield
        finally:
            self.enter()

    @contextmanager
    def beyond(self, interface: str = SERVER) -> Iterator[Callable[[int], list[bytes]]]:
        """What reaches the other end of a cable meanwhile: a function that waits for so many frames and gives them.

        Of a packet that leaves in pieces, all but the last one do so at once.
        """
        with self.among_peers():
            cable = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
            cable.bind((_PEER[interface], _ALL_PROTOCOLS))
            # a piece counts as much as the whole packet whose memory it shares
            cable.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 26)
        cable.settimeout(5)

        def arrived(count: int) -> list[bytes]:
            found: list[bytes] = []
            while len(found) < count:
                frame, (_, _, kind, *_) = cable.recvfrom(1 << 16)
                if kind == 0:  # to that host, not from it
                    found.append(frame)
            return found

        with cable:
            yield arrived

    def reasons(self) -> dict[str, int]:
        """How many packets were counted under each reason."""
        return {name: self.instance.reasons.sums(number)[0] for number, name in enumerate(REASONS)}

    def from_client(self, packet: bytes, **context: int) -> Result:
        """Let an IP packet arrive from the clients' side."""
        return self.send(frame(packet, CLIENT), CLIENT, **context)

    def from_server(self, packet: bytes, **context: int) -> Result:
        """Let an IP packet arrive from the real servers' side."""
        return self.send(frame(packet, SERVER), SERVER, **context)

    # ---- what the director knows ----

    def connections(self) -> dict[tuple[str, int], Connection]:
        """Every connection, by the client's address and port."""
        return {(c.caddr, c.cport): c for c in self.director.connections()}

    def entries(self) -> dict[tuple[str, int], Entry]:
        """Every connection with the numbers behind the listing, by the client's address and port."""
        reader = Reader(self.instance)
        return {
            (connection.caddr, connection.cport): Entry(
                connection, entry.timeout, entry.dest, bool(entry.flags & _layout.CONN_INACTIVE)
            )
            for entry, connection in ((entry, reader.read(entry)) for entry in entries(self.instance))
        }

    def service(self, words: str) -> Service:
        """The only service whose printed name ends like this, e.g. "10.99.0.1:80"."""
        found = [service for service in self.director.services() if str(service.service).endswith(words)]
        assert len(found) == 1, f"{len(found)} services {words}"
        return found[0]

    def number_of(self, service: VirtualService, address: str, port: int) -> int:
        """The number of a real server's record."""
        table = ServiceTable(self.instance)
        found = table.find_dest(table.number(service), real_server(address, port))
        assert found is not None, f"{service} has no real server {address}:{port}"
        return found

    def loads(self) -> dict[str, tuple[int, int]]:
        """(ActiveConn, InActConn) of every real server, by address and port as listings show them."""
        return {
            str(destination.server): (destination.active, destination.inactive)
            for service in self.director.services()
            for destination in service.destinations
        }


def frame(packet: bytes, interface: str = CLIENT) -> bytes:
    """The frame in which an IP packet arrives on one of the director's interfaces."""
    return packets.ether(packet, MACS[interface], MACS[_PEER[interface]])


def by_lo(lvs: Harness, packet: bytes) -> Result:
    """Let the director say an IP packet to itself."""
    return lvs.send(packets.ether(packet, bytes(6), bytes(6)), "lo")


def pins() -> set[str]:
    """The directories of all directors' pins."""
    root = bpffs.root()
    return set(os.listdir(root)) if root else set()
