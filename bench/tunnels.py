"""What tunnels cost beside LVS-DR and LVS-NAT: nanoseconds of established packets and of new connections.

    python -m bench tunnels [--rounds N] [--packets N] [--quick] [--write]

BPF_PROG_TEST_RUN cannot repeat a tunnel: the kernel does not let a packet into a second one, and not out of the first
as it was before. So these packets are real ones: each is written to a tap device, goes through the program, and is lost
in another one; the kernel's own account of the program (run_time_ns) says how long it took: longer than for the same
packet repeated, since in between the kernel's other work has had the caches. The cases alternate; shown is the fastest
sixth of the rounds, since the machine's other work only ever adds. Beside them, programs that only make room for the
headers.
`--write`: into docs/performance.md.
"""

import argparse
import fcntl
import os
import random
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from bench.packet import in_child
from bench.page import replace
from bench.replay import ACK, SYN, compiled, enter_namespace
from pylvs import MASQ, ROUTE, Director, real_server, virtual_service
from pylvs.datapath import loading, syscall
from pylvs.model import TUN_CSUM, TUN_GRE, TUN_GUE, TUN_IPIP, TUNNEL

_SET_INTERFACE, _TAP_WITHOUT_HEADER = 0x400454CA, 0x1002
_ENABLE_STATISTICS = 32
_MACS = {"d0": "02:00:00:00:00:02", "d1": "02:00:00:00:00:03", "n0": "02:00:00:00:00:02"}
_NETWORK = """addr add 10.0.1.1/24 dev d0
addr add fd00:a1::1/64 dev d0 nodad
addr add 10.0.2.1/24 dev d1
addr add fd00:a2::1/64 dev d1 nodad
neigh add 10.0.2.2 lladdr 02:00:00:00:00:04 dev d1
neigh add fd00:a2::2 lladdr 02:00:00:00:00:04 dev d1
route add 10.2.0.0/16 via 10.0.2.2
route add fd00:2::/64 via fd00:a2::2
"""
FLOWS, WARM = 64, 400
BARE = ("nothing", "room_ipv4", "room_ipv6", "front_ipv4", "front_ipv6")
FASTEST = 6


class Way(NamedTuple):
    """How a real server is reached."""

    method: int
    tun_type: int = TUN_IPIP
    tun_flags: int = 0

    @property
    def port(self) -> int:
        return 6080 if self.tun_type == TUN_GUE else 0


WAYS = {
    "DR": Way(ROUTE),
    "NAT": Way(MASQ),
    "ipip": Way(TUNNEL),
    "gre": Way(TUNNEL, TUN_GRE),
    "gre, checksum": Way(TUNNEL, TUN_GRE, TUN_CSUM),
    "gue": Way(TUNNEL, TUN_GUE),
    "gue, checksum": Way(TUNNEL, TUN_GUE, TUN_CSUM),
}
MIXTURES = [(4, 4), (6, 4), (4, 6), (6, 6)]  # the client's packet, the outer one
Figures = dict[tuple[str, str], list[float]]


def _vip(number: int, version: int) -> str:
    return f"10.99.0.{number}" if version == 4 else f"fd00:99::{number}"


def frame(vip: str, flags: int, port: int) -> bytes:
    """A client's TCP packet without payload."""
    version = 6 if ":" in vip else 4
    segment = struct.pack("!HHIIBBHHH", port, 80, 1, 1, 0x50, flags, 512, 0, 0)
    if version == 6:
        client, to = (socket.inet_pton(socket.AF_INET6, text) for text in ("fd00:1::1", vip))
        header = struct.pack("!IHBB", 6 << 28, len(segment), 6, 64) + client + to
        return bytes.fromhex("02000000000202000000000186dd") + header + segment
    client, to = (socket.inet_aton(text) for text in ("10.1.0.1", vip))
    header = struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0x4000, 64, 6, 0) + client + to
    total = sum(struct.unpack("!10H", header))
    check = ~(total + (total >> 16)) & 0xFFFF
    return (
        bytes.fromhex("0200000000020200000000010800") + header[:10] + check.to_bytes(2, "big") + header[12:] + segment
    )


def tap(name: str) -> int:
    """A new tap device that is up: what is written to it comes in there."""
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, _SET_INTERFACE, struct.pack("16sH22x", name.encode(), _TAP_WITHOUT_HEADER))
    subprocess.run(["ip", "link", "set", name, "address", _MACS[name], "up"], check=True)
    return device


class Bench:
    """A director between two tap devices, and a third one for what it is compared to."""

    def __init__(self, conn_bits: int) -> None:
        enter_namespace("link set lo up\n")
        self._in, self._out = tap("d0"), tap("d1")
        subprocess.run(["ip", "-batch", "-"], input=_NETWORK, text=True, check=True)
        self.instance = loading.load(conn_bits)
        self._ingress = self.instance.program("ingress")
        self._beside, self._programs = tap("n0"), compiled("room", {}).programs
        self._statistics = syscall._bpf(_ENABLE_STATISTICS, syscall._buffer(bytes(64)))
        self.vips: dict[tuple[str, str], str] = {}

    def add_services(self) -> None:
        """One of each way in each mixture of families that it has."""
        with Director() as director:
            for number, (name, way) in enumerate(WAYS.items(), 1):
                for inner, outer in MIXTURES:
                    if way.method != TUNNEL and inner != outer:
                        continue
                    service = virtual_service(_vip(number + 20 * outer, inner), 80, scheduler="rr")
                    server = f"10.2.0.{number}" if outer == 4 else f"fd00:2::{number}"
                    director.add_service(service)
                    director.add_destination(
                        service,
                        real_server(
                            server, 80, method=way.method,
                            tun_type=way.tun_type, tun_flags=way.tun_flags, tun_port=way.port,
                        ),
                    )  # fmt: skip
                    self.vips[name, f"{inner} in {outer}"] = service.address

    def open_all(self) -> None:
        """Connections of every service; none is older than the next minute."""
        for vip in self.vips.values():
            for flags in (SYN, ACK):
                for number in range(FLOWS):
                    os.write(self._in, frame(vip, flags, 1024 + number))

    def _taken(self, program: int) -> tuple[int, int]:
        with open(f"/proc/self/fdinfo/{program}", encoding="ascii") as file:
            text = file.read()
        time, runs = (re.search(rf"^run_{what}:\s+(\d+)", text, re.M) for what in ("time_ns", "cnt"))
        assert time and runs
        return int(time[1]), int(runs[1])

    def _through(self, device: int, program: int, frames: list[bytes], count: int, warm: int) -> float:
        for number in range(warm):
            os.write(device, frames[number % len(frames)])
        before = self._taken(program)
        for number in range(count):
            os.write(device, frames[number % len(frames)])
        after = self._taken(program)
        if after[1] - before[1] != count:
            raise SystemExit(f"{count} packets became {after[1] - before[1]}")
        return (after[0] - before[0]) / count

    def bare(self, name: str, count: int) -> float:
        """Nanoseconds of one of the small programs."""
        program = self._programs[name]
        link = syscall.link_create(program, socket.if_nametoindex("n0"))
        try:
            return self._through(self._beside, program, [frame("10.99.0.1", ACK, 1024)], count, WARM)
        finally:
            os.close(link)

    def established(self, vip: str, count: int) -> float:
        """Nanoseconds of packets of connections that are there."""
        return self._through(self._in, self._ingress, [frame(vip, ACK, 1024 + n) for n in range(FLOWS)], count, WARM)

    def new(self, vip: str, count: int) -> float:
        """Nanoseconds of packets that make a connection each."""
        config = self.instance.config
        config.put(0, "clock_offset", config.get(0, "clock_offset") + 1000 * 10**9)  # the former ones are over
        self.instance.run("catch_up")
        config.put(0, "clock_offset", config.get(0, "clock_offset") + 10**9)
        return self._through(self._in, self._ingress, [frame(vip, SYN, 1024 + n) for n in range(count)], count, 0)


def figures(bench: Bench, rounds: int, packets: int) -> tuple[Figures, Figures]:
    """Nanoseconds, each round's: of established packets, and of new connections; by way and mixture of families."""
    found: Figures = {}
    new: Figures = {}
    for turn in range(rounds):
        bench.open_all()
        todo: list[tuple[Figures, tuple[str, str], Callable[[], float]]] = [
            (found, (name, ""), partial(bench.bare, name, packets)) for name in BARE
        ]
        todo += [(found, case, partial(bench.established, vip, packets)) for case, vip in bench.vips.items()]
        random.shuffle(todo)  # who follows whom matters to the caches
        last = [(new, case, partial(bench.new, vip, packets)) for case, vip in bench.vips.items()]
        random.shuffle(last)
        for table, case, figure in todo + (last if not turn % 2 else []):
            table.setdefault(case, []).append(figure())
        print(f"round {turn + 1} of {rounds}", file=sys.stderr)
    return found, new


def _net(found: Figures, case: tuple[str, str], nothing: float) -> float:
    values = sorted(found[case])
    return values[len(values) // FASTEST] - nothing


def _cells(found: Figures, way: str, nothing: float) -> list[str]:
    cells = []
    for inner, outer in MIXTURES:
        case, plain = (way, f"{inner} in {outer}"), ("DR", f"{inner} in {inner}")
        if case not in found:
            cells += ["–", "–"]
            continue
        taken = _net(found, case, nothing)
        cells += [f"{taken:.0f}", f"{_net(found, plain, nothing) / taken:.2f}"]
    return cells


def page(found: Figures, new: Figures, arguments: argparse.Namespace) -> str:
    """The tables, as markdown."""
    nothing = _net(found, ("nothing", ""), 0)
    room, front = (
        [_net(found, (f"{where}_{ip}", ""), nothing) for ip in ("ipv4", "ipv6")] for where in ("room", "front")
    )
    lines = [
        f"    {' '.join(arguments.command)}",
        "",
        f"{arguments.rounds} rounds of {arguments.packets} packets, {FLOWS} flows, Linux "
        f"{os.uname().release.split('-')[0]}, {os.cpu_count()} CPUs. Ratios: LVS-DR's time to it.",
        "",
        "A program that only makes room for the headers before the frame (bpf_skb_change_head) takes "
        f"{front[0]:.0f} ns, of IPv6 {front[1]:.0f}. With it alone, the ratio would be "
        f"{_bound(found, 4, nothing, front[0]):.2f} for IPv4, {_bound(found, 6, nothing, front[1]):.2f} for IPv6. "
        f"Behind the Ethernet header (bpf_skb_adjust_room) it takes {room[0]:.0f} and {room[1]:.0f} ns: "
        f"{_bound(found, 4, nothing, room[0]):.2f}, {_bound(found, 6, nothing, room[1]):.2f}.",
    ]
    for title, table in (("established, ns", found), ("new connection, ns", new)):
        mixtures = [f"{inner} in {outer}" for inner, outer in MIXTURES]
        lines += ["", f"| {title} | " + " | ".join(f"{mixture} | ratio" for mixture in mixtures) + " |"]
        lines.append("|---|" + "---:|" * 2 * len(mixtures))
        lines += [f"| {way} | " + " | ".join(_cells(table, way, nothing)) + " |" for way in WAYS]
    return "\n".join(lines)


def _bound(found: Figures, version: int, nothing: float, room: float) -> float:
    plain = _net(found, ("DR", f"{version} in {version}"), nothing)
    return plain / (plain + room)


def measure(arguments: argparse.Namespace) -> int:
    """The measurement proper, in a child with a network namespace of its own."""
    bench = Bench(arguments.conn_bits)
    try:
        bench.add_services()
        text = page(*figures(bench, arguments.rounds, arguments.packets), arguments)
    finally:
        loading.unload()
    print(text)
    if arguments.write:
        replace({"tunnels": text})
    return 0


def main(argv: list[str]) -> int:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(prog="python -m bench tunnels", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--packets", type=int, default=2000, help="of each case in each round")
    parser.add_argument("--conn-bits", type=int, default=16)
    parser.add_argument("--quick", action="store_true", help="12 rounds")
    parser.add_argument("--write", action="store_true", help="into docs/performance.md")
    arguments = parser.parse_args(argv)
    arguments.rounds = 12 if arguments.quick else arguments.rounds
    arguments.command = ["python -m bench tunnels", *(word for word in argv if word != "--write")]
    return in_child(measure, arguments)
