"""Many packets per system call, from many threads: a crowd that talks through a director's real program.

    crowd = Crowd(lvs, flows)
    crowd.plan(0, shared=range(0, 64), own=range(64, 128), events="S A A F r", family=4)
    crowd.run(0, 100_000)
    crowd.log(0) -> [(flow, event), ...]

Every thread has a plan of its own (crowd.bpf.c). ctypes lets other threads run during a system call, so that packets
really pass on all CPUs at once.
"""

import functools
import mmap
import os
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import NamedTuple

from pylvs.datapath import syscall
from pylvs.datapath.object import Object
from support.harness import CLIENT, INDEX, SERVER, Harness, frame
from support.packets import TCP, UDP, ip, tcp, udp

FRAME, EVENTS, LOG = 74, 32, 1 << 16
FROM_SERVER = 0x80
_FLOW = struct.Struct(f"={FRAME}s{FRAME}sI")
_PLAN = struct.Struct(f"=Q8I{EVENTS}s")
_LOGGED = struct.Struct("=8x7I").size
_CONTEXT, _PRIORITY, _IFINDEX = 192, 32, 36
_FLAGS = {"S": 2, "A": 16, "F": 17, "R": 4, "s": 18, "a": 16, "f": 17, "r": 4}
"""Events by a letter: capitals of the client, small ones of the real server."""


class Flow(NamedTuple):
    """One client's port of one service.

    Attributes:
        payload: of a datagram; None: it is TCP.
    """

    client: str
    sport: int
    vip: str
    port: int
    rs: str
    rport: int
    nat: bool
    mark: int = 0
    payload: bytes | None = None

    def _packet(self, src: str, sport: int, dst: str, dport: int) -> bytes:
        if self.payload is None:
            return ip(src, dst, TCP, tcp(sport, dport, "S"))
        return ip(src, dst, UDP, udp(sport, dport, self.payload))

    @property
    def packed(self) -> bytes:
        request = self._packet(self.client, self.sport, self.vip, self.port)
        source = (self.rs, self.rport) if self.nat else (self.vip, self.port)
        reply = self._packet(*source, self.client, self.sport)
        both = (frame(request, CLIENT), frame(reply, SERVER))
        return _FLOW.pack(*(one.ljust(FRAME, b"\0") for one in both), self.mark)


_built = tempfile.TemporaryDirectory(prefix="pylvs-tests-")  # gone with this process


@functools.cache
def built(name: str) -> str:
    """The directory with a compiled program of the tests, from the source beside this file; or it is there already."""
    if Path(__file__).with_name(f"{name}.bpf.o").exists():
        return str(Path(__file__).parent)
    at = Path(__file__).parent.parent.parent / "hatch_build.py"
    spec = spec_from_file_location("hatch_build", at)
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.compile_object(Path(__file__).with_name(f"{name}.bpf.c"), Path(_built.name) / f"{name}.bpf.o")
    return _built.name


@contextmanager
def together(*bodies: Callable[[], object]) -> Iterator[list[threading.Thread]]:
    """Run functions in threads; what one of them raises is raised here."""
    raised: list[BaseException] = []

    def guarded(body: Callable[[], object]) -> None:
        try:
            body()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        for thread in threads:
            thread.join()
    if raised:
        raise raised[0]


class Crowd:
    """See the file's head. Use as a context manager."""

    def __init__(self, lvs: Harness, flows: Sequence[Flow]):
        self._object = Object("crowd", {"flows": len(flows)}, {}, {}, built("crowd"))
        self._program = self._object.programs["replay"]
        maps = self._object.maps
        self._flows, self._plans, self._journal = (
            mmap.mmap(maps[name], -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
            for name, size in (("flows", len(flows) * 152), ("plans", 8 * 72), ("journal", 8 * LOG * 8))
        )
        packed = b"".join(flow.packed for flow in flows)
        self._flows[: len(packed)] = packed
        self.aim(lvs)
        self._seed = 1

    def aim(self, lvs: Harness) -> None:
        """Send what comes to this director's program, as it is now."""
        program = lvs.instance.program("ingress")
        try:
            syscall.map_update(self._object.maps["target"], bytes(4), struct.pack("=I", program))
        finally:
            os.close(program)

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *_: object) -> None:
        for memory in (self._flows, self._plans, self._journal):
            memory.close()
        self._object.close()

    def plan(
        self,
        number: int,
        events: str,
        version: int,
        *,
        shared: range = range(0),
        own: range = range(0),
        own_of_8: int = 0,
        in_turn: bool = False,
        datagrams: bool = False,
        seed: int | None = None,
    ) -> None:
        """What a thread does from now on: which events, of which flows, of which IP version.

        in_turn: the shared flows one after the other, so that threads with the same plan meet at each.
        """
        letters = events.replace(" ", "")
        every = bytes(_FLAGS[letter] | (FROM_SERVER if letter.islower() else 0) for letter in letters)
        assert len(every) <= EVENTS
        self._seed += 1
        random = (self._seed if seed is None else seed) * 0x9E3779B97F4A7C15 & (1 << 64) - 1
        record = _PLAN.pack(
            random, shared.start, len(shared), own.start, len(own), own_of_8, int(in_turn),
            0 if datagrams else 47 if version == 4 else 67, 0, bytes(every[i % len(every)] for i in range(EVENTS)),
        )  # fmt: skip
        self._plans[number * 72 : number * 72 + len(record)] = record

    def run(self, number: int, packets: int, version: int) -> None:
        """So many packets of a thread's plan, in one system call."""
        context = bytearray(_CONTEXT)
        struct.pack_into("=I", context, _PRIORITY, number)
        struct.pack_into("=II", context, _IFINDEX, INDEX[CLIENT], INDEX[CLIENT])
        some = self._flows[:FRAME]
        first = some[:12] + (b"\x08\0" if version == 4 else b"\x86\xdd") + some[14:]
        syscall.run(self._program, first, bytes(context), packets, room=128)

    def log(self, number: int) -> list[tuple[int, int]]:
        """(flow, event: TCP flags, and FROM_SERVER) of what was chosen of the thread's own flows; forgotten then."""
        at = number * 72 + _LOGGED
        (count,) = struct.unpack_from("=I", self._plans, at)
        assert count <= LOG, "the journal is too short for that many packets"
        self._plans[at : at + 4] = bytes(4)
        words = struct.unpack_from(f"={count}Q", self._journal, number * LOG * 8)
        return [(word >> 8, word & 0xFF) for word in words]
