"""Nanoseconds per packet through the real program, by BPF_PROG_TEST_RUN.

    python -m bench packet [--rounds N] [--repeat N] [--flows N,N,...]

A small program puts a fresh frame of the next flow before every run (bench/packet.bpf.c); its own cost is measured
in the same rounds and subtracted. Rounds of all cases alternate; medians and spread are shown. No packet leaves the
namespace: TEST_RUN does not transmit.
"""

import argparse
import ctypes
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NamedTuple

from pylvs import MASQ, ROUTE, Director, real_server, virtual_service
from pylvs.datapath import instance as datapath
from pylvs.datapath import syscall
from pylvs.datapath.object import Object

SYN, ACK = 0x02, 0x10
IFINDEX_AT, CONTEXT_SIZE = 40, 192
SETUP = """link add d0 address 02:00:00:00:00:02 type veth peer name c0
link add d1 address 02:00:00:00:00:03 type veth peer name r0
link set lo up
link set c0 up
link set r0 up
link set d0 up
link set d1 up
addr add 10.0.1.1/24 dev d0
addr add 10.0.2.1/24 dev d1
neigh add 10.0.1.2 lladdr 02:00:00:00:00:01 dev d0
neigh add 10.0.2.2 lladdr 02:00:00:00:00:04 dev d1
route add 10.1.0.0/16 via 10.0.1.2
route add 10.2.0.0/16 via 10.0.2.2
"""


class Case(NamedTuple):
    """What is replayed: the fields of the frame, and whose service it belongs to."""

    name: str
    vip: str
    flags: int
    reply: bool = False
    new: bool = False


CASES = (
    Case("DR established", "10.99.0.1", ACK),
    Case("NAT request", "10.99.0.2", ACK),
    Case("NAT reply", "10.99.0.2", ACK, reply=True),
    Case("DR new connection", "10.99.0.3", SYN, new=True),
    Case("NAT new connection", "10.99.0.4", SYN, new=True),
)


def _ip(text: str) -> bytes:
    return bytes(map(int, text.split(".")))


class Bench:
    """A director in a namespace of its own, and the replaying program."""

    def __init__(self, conn_bits: int) -> None:
        subprocess.run(["ip", "-batch", "-"], input=SETUP, text=True, check=True)
        self.instance = datapath.load(conn_bits)
        with Director() as director:
            for number, method in ((1, ROUTE), (2, MASQ), (3, ROUTE), (4, MASQ)):
                service = virtual_service(f"10.99.0.{number}", 80, scheduler="rr")
                director.add_service(service)
                port = 8080 if method == MASQ else 80
                director.add_destination(service, real_server(f"10.2.0.{number}", port, method=method))
        sys.path.insert(0, str(Path(__file__).parent.parent))
        from hatch_build import compile_object

        with tempfile.TemporaryDirectory() as place:
            compile_object(Path(__file__).with_name("packet.bpf.c"), Path(place) / "packet.bpf.o")
            self.replayer = Object("packet", {}, {}, {}, place)
        self.ingress = self.instance.program("ingress")
        self.ifindex = {"d0": 0, "d1": 0}
        for name in self.ifindex:
            self.ifindex[name] = socket.if_nametoindex(name)

    def frame(self, case: Case) -> bytes:
        """The frame with an empty place for the client."""
        server = "10.2.0." + case.vip.rpartition(".")[2]
        source, destination = ("10.1.0.0", case.vip) if not case.reply else (server, "10.1.0.0")
        ports = (0, 80) if not case.reply else (8080, 0)
        ethernet = bytes.fromhex("020000000003020000000004" if case.reply else "020000000002020000000001") + b"\x08\0"
        header = struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0x4000, 64, 6, 0) + _ip(source) + _ip(destination)
        return ethernet + header + struct.pack("!HHIIBBHHH", *ports, 1, 1, 0x50, case.flags, 512, 0, 0)

    def run(self, case: Case, flows: int, repeat: int, program: int, scattered: bool = True) -> float:
        """Nanoseconds per packet, the replaying program included."""
        frame = self.frame(case)
        at = (30, 36) if case.reply else (26, 34)
        plan = frame.ljust(96, b"\0") + struct.pack("=IIIIIIQ", len(frame), flows, *at, 0x0A010000, scattered, 0)
        syscall.map_update(self.replayer.maps["plan"], bytes(4), plan)
        syscall.map_update(self.replayer.maps["target"], bytes(4), struct.pack("=I", program))
        context = bytearray(CONTEXT_SIZE)
        struct.pack_into("=I", context, IFINDEX_AT, self.ifindex["d1" if case.reply else "d0"])
        return syscall.run(self.replayer.programs["replay"], frame, bytes(context), repeat, room=64)[2]

    def open(self, case: Case, flows: int) -> None:
        """Bring every flow of a case to ESTABLISHED."""
        for flags in (SYN, ACK):
            self.run(case._replace(flags=flags, reply=False), flows, flows, self.ingress, False)

    def forget(self) -> None:
        """Let every connection's time be over."""
        config = self.instance.config
        config.put(0, "clock_offset", config.get(0, "clock_offset") + 1000 * 10**9)
        self.instance.run("catch_up")

    def conns(self) -> int:
        return int(self.instance.runtime.get(0, "conns"))


def measure(rounds: int, repeat: int, flow_counts: list[int], conn_bits: int) -> list[tuple[str, int, list[float]]]:
    """All cases with all numbers of flows: (case, flows, net nanoseconds of each round)."""
    bench = Bench(conn_bits)
    nothing = bench.replayer.programs["nothing"]
    results: dict[tuple[str, int], list[float]] = {}
    for flows in flow_counts:
        for _ in range(rounds):
            for case in CASES:
                bench.forget()
                if case.new:
                    runs = flows_new = 1 << (conn_bits - 2)
                else:
                    bench.open(case, flows)
                    if bench.conns() < flows:
                        raise SystemExit(f"{case.name}: {bench.conns()} of {flows} connections were made")
                    runs, flows_new = repeat, flows
                empty = bench.run(case, flows_new, runs, nothing, not case.new)
                full = bench.run(case, flows_new, runs, bench.ingress, not case.new)
                results.setdefault((case.name, 0 if case.new else flows), []).append(full - empty)
    return [(name, flows, values) for (name, flows), values in results.items()]


def in_namespace(arguments: argparse.Namespace) -> int:
    """The measurement proper, in a child with a network namespace of its own."""
    rows = measure(arguments.rounds, arguments.repeat, arguments.flows, arguments.conn_bits)
    print(f"{'case':<22}{'flows':>9}{'median ns':>11}{'min':>7}{'max':>7}")
    for name, flows, values in rows:
        print(f"{name:<22}{flows or 'new':>9}{statistics.median(values):>11.0f}{min(values):>7.0f}{max(values):>7.0f}")
    datapath.unload()
    return 0


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench packet", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeat", type=int, default=200_000)
    parser.add_argument("--flows", type=lambda text: [int(n) for n in text.split(",")], default=[1, 1024, 65536])
    parser.add_argument("--conn-bits", type=int, default=18)
    arguments = parser.parse_args(argv)
    child = os.fork()
    if child == 0:
        if ctypes.CDLL(None, use_errno=True).unshare(0x40000000):
            os._exit(1)
        status = 1
        try:
            status = in_namespace(arguments)
        except Exception:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
