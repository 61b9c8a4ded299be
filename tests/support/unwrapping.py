"""Tunnel packets as directors send them (facts 6.7), and a real server that unwraps them.

    director 10.0.9.1, fd00:9::1  --  p0 | e0  real server 10.2.0.1, fd00:2::1, VIPs 10.99/16 and fd00:99::/64 on lo

The real server is in a network namespace without a name; packets go through its program by BPF_PROG_TEST_RUN.
"""

import os
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

from pylvs.datapath import decap, syscall
from pylvs.realserver import GUE_PORT, TUNNELS, Decapsulation, decapsulation
from support import packets
from support.netns import ip, set_proc, setns, unshare_net
from support.packets import UDP, address, checksum, ones_sum, pseudo

IPIP, IPV6, GRE = 4, 41, 47
DIP, DIP6, RIP, RIP6 = "10.0.9.1", "fd00:9::1", "10.2.0.1", "fd00:2::1"
MAC, OTHER_MAC = packets.mac("02:00:00:00:00:11"), packets.mac("02:00:00:00:00:12")
INDEX = 100
OK, SHOT, UNSPEC = 0, 2, -1
_CONTEXT = 192  # sizeof(struct __sk_buff)


def version(inner: bytes) -> int:
    return inner[0] >> 4


def protocol(inner: bytes) -> int:
    """What an IP packet is called that another one carries."""
    return IPIP if version(inner) == 4 else IPV6


def outer(inner: bytes, number: int, segment: bytes, v6: bool = False, **of_ip: Any) -> bytes:
    """The outer IP packet from the director to the real server."""
    ends = (DIP6, RIP6) if v6 else (DIP, RIP)
    return packets.ip(of_ip.pop("src", ends[0]), of_ip.pop("dst", ends[1]), number, segment, check=False, **of_ip)


def ipip(inner: bytes, v6: bool = False, **of_ip: Any) -> bytes:
    return outer(inner, protocol(inner), inner, v6, **of_ip)


def gre(inner: bytes, v6: bool = False, check: bool = False, flags: int | None = None, **of_ip: Any) -> bytes:
    """`flags`: instead of what is right."""
    kind = packets.ETH_IPV4 if version(inner) == 4 else packets.ETH_IPV6
    said = (0x8000 if check else 0) if flags is None else flags
    head = struct.pack("!HH", said, kind) + (bytes(4) if check else b"")
    if check:
        head = head[:4] + struct.pack("!HH", checksum(head + inner), 0)
    return outer(inner, GRE, head + inner, v6, **of_ip)


def gue(
    inner: bytes, v6: bool = False, check: bool = False, options: bytes = b"", port: int = GUE_PORT, **of_ip: Any
) -> bytes:
    """`options`: what follows the four bytes of GUE's header, whose flag for them is set then."""
    head = struct.pack("!BBH", len(options) // 4, protocol(inner), 1 if options else 0)
    return gue_of(inner, head + options, v6, check, port, **of_ip)


def gue_of(
    inner: bytes, head: bytes, v6: bool = False, check: bool = False, port: int = GUE_PORT, **of_ip: Any
) -> bytes:
    """GUE with a header of one's own."""
    segment = packets.udp(40000, port, head + inner)
    if check:
        src, dst = (DIP6, RIP6) if v6 else (DIP, RIP)
        segment = packets.with_checksum(UDP, address(of_ip.get("src", src)), address(of_ip.get("dst", dst)), segment)
    return outer(inner, UDP, segment, v6, **of_ip)


def remcsum(inner: bytes, v6: bool = False, check: bool = True, **of_ip: Any) -> bytes:
    """GUE with remote checksum offload: the inner checksum is to be made by who unwraps it."""
    p = packets.dissect(inner)
    options = struct.pack("!IHH", 0x80000000, p.head, p.head + sum_place(inner))
    return gue(pending(inner), v6, check, options, **of_ip)


def sum_place(inner: bytes) -> int:
    """Where the checksum is in the transport header."""
    return 6 if packets.dissect(inner).protocol == UDP else 16


def pending(inner: bytes) -> bytes:
    """The packet with the sum of the pseudo header where its checksum is to be: a device would do the rest."""
    p = packets.dissect(inner)
    at = p.head + sum_place(inner)
    half = ones_sum(pseudo(address(p.src), address(p.dst), p.protocol, len(p.segment)))
    return inner[:at] + struct.pack("!H", half) + inner[at + 2 :]


WRAPPINGS = {
    "ipip": (ipip, {}),
    "gre": (gre, {}),
    "gre-csum": (gre, {"check": True}),
    "gue": (gue, {}),
    "gue-csum": (gue, {"check": True}),
    "gue-remcsum": (remcsum, {}),
}
"""All that a director may put around a packet: a function and its arguments."""


def wrap(name: str, inner: bytes, v6: bool = False, **of_ip: Any) -> bytes:
    build, arguments = WRAPPINGS[name]
    wrapped: bytes = build(inner, v6, **arguments, **of_ip)  # type: ignore[operator]
    return wrapped


def frame(packet: bytes, mac: bytes = MAC) -> bytes:
    """A packet as it comes to the real server."""
    kind = packets.ETH_IPV4 if version(packet) == 4 else packets.ETH_IPV6
    return mac + OTHER_MAC + struct.pack("!H", kind) + packet


class Unwrapped(NamedTuple):
    """What became of a frame."""

    verdict: int
    frame: bytes
    reason: str

    @property
    def packet(self) -> bytes:
        """The IP packet after it; the EtherType must be that of the packet."""
        (kind,) = struct.unpack_from("!H", self.frame, 12)
        assert kind == (packets.ETH_IPV4 if version(self.frame[14:]) == 4 else packets.ETH_IPV6)
        return self.frame[14:]


class RealServer:
    """See the file's head. As a context manager one is in its namespace in the body."""

    def __init__(self) -> None:
        self._outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._network = unshare_net()
        self._program = self._clamp = -1
        own, other = MAC.hex(":"), OTHER_MAC.hex(":")
        # forwarding: so that it is not the stack's own refusal which keeps the host from being a relay
        set_proc("ipv4/ip_forward", "1")
        set_proc("ipv6/conf/all/forwarding", "1")
        set_proc("ipv6/conf/default/accept_dad", "0")
        ip(f"link add e0 index {INDEX} address {own} type veth peer name p0 address {other}\n")
        set_proc("ipv6/conf/p0/disable_ipv6", "1")  # or it would say things of its own, which would be counted
        ip(f"""
            link set lo up
            link set e0 up
            link set p0 up
            addr add {RIP}/24 dev e0
            addr add {RIP6}/64 dev e0 nodad
            route add default via 10.2.0.254
            route add default via fd00:2::254
            route add local 10.99.0.0/16 dev lo
            route add local fd00:99::/64 dev lo
            """)
        self.set()
        self.leave()

    def enter(self) -> None:
        setns(self._network)

    def leave(self) -> None:
        setns(self._outside)

    def set(
        self,
        types: Iterable[str] = TUNNELS,
        ports: Iterable[int] = (),
        vips: Iterable[str] = (),
        directors: Iterable[str] = (),
        mss: int | None = None,
    ) -> Decapsulation:
        """Have tunnel packets unwrapped."""
        wanted = decapsulation(types, ports, vips, directors, mss)
        with decap.run(wanted, ["e0"]) as running:
            if self._program >= 0:
                os.close(self._program)
                os.close(self._clamp)
            self._program = syscall.get(running.program)
            self._clamp = syscall.get(running.clamp)
            self._decap = running.directory
        return wanted

    def counters(self) -> dict[str, int]:
        with decap.Decap(self._decap) as running:
            return running.counters()

    def send(self, wrapped: bytes, *, gso_size: int = 0) -> Unwrapped:
        """Let a frame arrive. It must be counted under exactly one reason, and go on unchanged if it is not taken."""
        before = self.counters()
        context = bytearray(_CONTEXT)
        struct.pack_into("=II", context, 36, INDEX, INDEX)
        struct.pack_into("=I", context, 176, gso_size)
        verdict, after, _, _ = syscall.run(self._program, wrapped, bytes(context), room=64)
        changed = {name: now - before[name] for name, now in self.counters().items() if now != before[name]}
        assert changed.pop("received", 0) == 1, "a packet that was not counted as received"
        assert len(changed) == 1 and set(changed.values()) == {1}, f"counted under {changed}, not under one reason"
        reason = next(iter(changed))
        assert verdict == {"unwrapped": OK, "dropped": SHOT, "up": UNSPEC}[reason.partition("_")[0]]
        if verdict == UNSPEC:
            assert after == wrapped, f"handed up under {reason}, but not as it came"
        return Unwrapped(verdict, after, reason)

    def leave_by(self, packet: bytes, *, forwarded: bool = False, kind: int | None = None) -> bytes:
        """Let an IP packet leave by e0, of the host's own or one that it forwards: what leaves then."""
        before = self.counters()
        context = bytearray(_CONTEXT)
        struct.pack_into("=II", context, 36, INDEX * forwarded, INDEX)
        verdict, after, _, _ = syscall.run(self._clamp, packets.ether(packet, OTHER_MAC, MAC, kind), bytes(context))
        assert verdict == UNSPEC
        changed = {name: now - before[name] for name, now in self.counters().items() if now != before[name]}
        assert changed == ({"clamped": 1} if after[14:] != packet else {})
        return after[14:]

    def close(self) -> None:
        self.enter()
        try:
            decap.stop()
        finally:
            self.leave()
            for fd in (self._program, self._clamp, self._network, self._outside):
                os.close(fd)
