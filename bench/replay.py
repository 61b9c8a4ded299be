"""Packets of many flows through one program, by BPF_PROG_TEST_RUN: frames, flows and the program that puts them there.

A small program (packet.bpf.c) puts a fresh frame of the next flow before every run; what it costs itself is measured
with a program that does nothing, and subtracted. No packet leaves the namespace: TEST_RUN does not transmit.
"""

import ctypes
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from pylvs import MASQ, ROUTE, Director, real_server, virtual_service
from pylvs.datapath import syscall
from pylvs.datapath.object import Object

SYN, ACK = 0x02, 0x10
_IFINDEX_AT, _CONTEXT_SIZE = 40, 192
_CLONE_NEWNET = 0x40000000
_NETWORK = """link add d0 address 02:00:00:00:00:02 type veth peer name c0
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
CLIENTS = 0x0A010000  # 10.1.0.0: 2**14 flows of each of its addresses
MOST_FLOWS = 1 << 30


class Case(NamedTuple):
    """What is replayed: the fields of the frame, and whose service it belongs to."""

    name: str
    vip: str
    flags: int
    reply: bool = False
    scattered: bool = False
    """Each flow is a client of its own."""

    @property
    def nat(self) -> bool:
        return self.vip == "10.99.0.2"


DR = Case("DR", "10.99.0.1", ACK)
NAT_REQUEST = Case("NAT request", "10.99.0.2", ACK)
NAT_REPLY = Case("NAT reply", "10.99.0.2", ACK, reply=True)


def enter_namespace(network: str = _NETWORK) -> None:
    """A network namespace of our own; with the interfaces and routes of a director, if nothing else is wanted."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")
    subprocess.run(["ip", "-batch", "-"], input=network, text=True, check=True)


def add_services() -> None:
    """10.99.0.1 by LVS-DR, 10.99.0.2 by LVS-NAT with port mapping, so that both checksum updates are paid for."""
    with Director() as director:
        for number, method, port in ((1, ROUTE, 80), (2, MASQ, 8080)):
            service = virtual_service(f"10.99.0.{number}", 80, scheduler="rr")
            director.add_service(service)
            director.add_destination(service, real_server(f"10.2.0.{number}", port, method=method))


def compiled(source: str, sizes: dict[str, int]) -> Object:
    """One of the benchmark's own programs, loaded."""
    sys.path.append(str(Path(__file__).parent.parent))
    from hatch_build import compile_object

    with tempfile.TemporaryDirectory() as place:
        compile_object(Path(__file__).with_name(f"{source}.bpf.c"), Path(place) / f"{source}.bpf.o")
        return Object(source, sizes, {}, {}, place)


def _ip(text: str) -> bytes:
    return bytes(map(int, text.split(".")))


def frame(case: Case) -> bytes:
    """The frame with an empty place for the client's address and port."""
    server = "10.2.0." + case.vip.rpartition(".")[2]
    source, destination = (server, "10.1.0.0") if case.reply else ("10.1.0.0", case.vip)
    ports = (8080, 0) if case.reply else (0, 80)
    ethernet = bytes.fromhex("020000000003020000000004" if case.reply else "020000000002020000000001") + b"\x08\0"
    header = struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0x4000, 64, 6, 0) + _ip(source) + _ip(destination)
    return ethernet + header + struct.pack("!HHIIBBHHH", *ports, 1, 1, 0x50, case.flags, 512, 0, 0)


class Replayer:
    """The replaying program, loaded."""

    def __init__(self) -> None:
        self._object = compiled("packet", {})
        self.nothing = self._object.programs["nothing"]
        self._ifindex = {name: socket.if_nametoindex(name) for name in ("d0", "d1")}

    def run(
        self, case: Case, program: int, flows: int, repeat: int, *, first: int = 0, at_random: bool = True
    ) -> float:
        """Nanoseconds per packet, the replaying included.

        Args:
            program: the file descriptor of what is measured.
            flows, first: how many flows, and the number of the first one.
            repeat: how many packets.
            at_random: of flows at random, another sequence every time; else of one flow after the other.
        """
        if not 0 <= first <= first + flows <= MOST_FLOWS:
            raise ValueError(f"{first} + {flows} flows do not fit into the client's addresses")
        self._plan(case, program, flows, first, random.getrandbits(64) if at_random else None)
        return self._replay(case, repeat)[1]

    def answer(self, case: Case, program: int, flow: int) -> int:
        """What a program answers to one packet of a flow."""
        self._plan(case, program, 1, flow, None)
        return self._replay(case, 1)[0]

    def _plan(self, case: Case, program: int, flows: int, first: int, start: int | None) -> None:
        content, places = frame(case), (30, 36) if case.reply else (26, 34)
        numbers = (len(content), first, flows, *places, CLIENTS, start is not None, case.scattered, start or 0)
        syscall.map_update(self._object.maps["plan"], bytes(4), struct.pack("=96sIIIIIIIIQ", content, *numbers))
        syscall.map_update(self._object.maps["target"], bytes(4), struct.pack("=I", program))

    def _replay(self, case: Case, repeat: int) -> tuple[int, int]:
        context = bytearray(_CONTEXT_SIZE)
        struct.pack_into("=I", context, _IFINDEX_AT, self._ifindex["d1" if case.reply else "d0"])
        program = self._object.programs["replay"]
        answer, _, duration, _ = syscall.run(program, frame(case), bytes(context), repeat, room=64)
        return answer, duration
