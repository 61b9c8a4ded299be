"""One subject of the table benchmark, in a process and a network namespace of its own: `python -m bench.worker KIND`.

It reads a request per line, a JSON list of a method of `Product` or `Plain` and its arguments, and answers each with
one line. KIND is the name of a table ("slots" is the product's own), of a step that is left out, or "plain". What is
imported as `pylvs` decides which packet path it is.
"""

import json
import mmap
import os
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from bench.replay import (
    DR,
    NAT_REPLY,
    NAT_REQUEST,
    SYN,
    Case,
    Replayer,
    add_services,
    compiled,
    enter_namespace,
)
from pylvs.datapath import _layout, loading, programs, syscall
from pylvs.datapath import instance as datapath

CASES = {
    "dr": DR,
    "nat-in": NAT_REQUEST,
    "nat-out": NAT_REPLY,
    "dr-new": DR._replace(flags=SYN),
    "nat-new": NAT_REQUEST._replace(flags=SYN),
}
_SECOND = 10**9
_LONG = 10 * 86400 * 1000  # milliseconds: what is established stays for the whole run
_NEVER = 1 << 62
_ENOUGH = 0.99  # of the packets; in a table that is nearly full a few connections find no room
_TABLE_MAPS = ("slots", "tags", "groups", "conn_index", "conn_free", "conn_hash")


def sizes(table: str, slots: int, sides: int) -> dict[str, int]:
    """How many entries the maps of a table have whose capacity is to be `slots`, `sides` of them for a connection."""
    groups = slots // _layout.GROUP_SLOTS
    if table == "index":
        # both sides lead to one record
        records = {"slots": groups // sides, "conn_free": slots // sides}
        return records | {"tags": 1, "groups": 1, "conn_index": slots}
    if table == "hash":
        return {"slots": 1, "tags": 1, "groups": 1, "conn_hash": slots}
    return {"slots": groups, "tags": groups, "groups": groups}


def memlock(fd: int) -> int:
    """Bytes that a map takes, as the kernel reckons them."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("memlock:"))


class Product:
    """A director with the table `kind`, its heartbeat stopped: the sweep is measured by itself."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.instance: datapath.Instance | None = None
        self.replayer = Replayer()
        self._load = programs.load
        self._memory: dict[str, int] = {}

    def load(self, slots: int, sides: int) -> int:
        """A new director with a table of so many slots, empty; its connections take `sides` slots."""
        self.unload()

        def load(wanted: dict[str, int], *rest: Any) -> tuple[dict[str, int], dict[str, int]]:
            maps, loaded = self._load(wanted | sizes(self.kind, slots, sides), *rest)
            self._memory = {name: memlock(maps[name]) for name in _TABLE_MAPS if name in maps}
            os.close(loaded["start"])
            loaded["start"] = os.dup(loaded["catch_up"])  # the heartbeat's timer is not started
            return maps, loaded

        programs.load = load  # type: ignore[assignment]
        self.instance = loading.load(slots.bit_length() - 1)
        self.instance.runtime.put(0, "swept", _NEVER)  # nor do packets sweep
        timeouts = self.instance.timeouts()
        timeouts[1] = _LONG
        self.instance.set_timeouts(timeouts)
        add_services()
        self.ingress = self.instance.program("ingress")
        return slots

    def unload(self) -> None:
        if self.instance is not None:
            os.close(self.ingress)
            self.instance.close()
            self.instance = None
            loading.unload()

    def fill(self, case: str, first: int, flows: int) -> int:
        """Establish flows, one after the other; how many connections there are."""
        for flags in (SYN, CASES[case].flags):
            one = CASES[case]._replace(flags=flags, reply=False)
            self._replay(one, self.ingress, flows, flows, first, at_random=False)
        return self.conns()

    def _replay(self, case: Case, program: int, flows: int, repeat: int, first: int, at_random: bool) -> float:
        return self.replayer.run(case, program, flows, repeat, first=first, at_random=at_random)

    def packets(self, case: str, program: str, flows: int, repeat: int) -> float:
        """Net nanoseconds of packets of established flows at random."""
        return self._net(CASES[case], flows, repeat, 0, at_random=True)

    def _net(self, case: Case, flows: int, repeat: int, first: int, at_random: bool) -> float:
        nothing = self._replay(case, self.replayer.nothing, flows, repeat, first, at_random)
        before = self._forwarded()
        figure = self._replay(case, self.ingress, flows, repeat, first, at_random) - nothing
        forwarded = self._forwarded() - before
        if forwarded < repeat * _ENOUGH and self.kind != "note" and not self.kind.startswith("until_"):
            raise SystemExit(f"{self.kind}: {case.name}: {forwarded} of {repeat} packets were forwarded")
        return figure

    def _forwarded(self) -> int:
        """How many packets were, up to now."""
        assert self.instance is not None
        sums = self.instance.reasons.sums
        return sum(sums(number)[0] for number, name in enumerate(_layout.REASONS) if name.startswith("forwarded"))

    def births(self, case: str, first: int, flows: int) -> float:
        """Net nanoseconds of packets that each open a connection, which is gone again afterwards."""
        before = self.conns()
        figure = self._net(CASES[case], flows, flows, first, at_random=False)
        if self.conns() < before + flows * _ENOUGH:
            raise SystemExit(f"{self.kind}: {case}: {self.conns() - before} of {flows} connections were made")
        self._forward_clock(100)
        assert self.instance is not None
        self.instance.run("catch_up")
        if self.conns() > before:
            raise SystemExit(f"{self.kind}: {case}: {self.conns() - before} connections have not ended")
        self._forward_clock(1)  # the slots have rested
        return figure

    def _forward_clock(self, seconds: int) -> None:
        assert self.instance is not None
        config = self.instance.config
        config.put(0, "clock_offset", config.get(0, "clock_offset") + seconds * _SECOND)

    def sweep(self, repeat: int) -> float:
        """Nanoseconds of one walk over the whole table."""
        assert self.instance is not None
        fd = self.instance.program("catch_up")
        try:
            return syscall.run(fd, bytes(64), repeat=repeat)[2]
        finally:
            os.close(fd)

    def conns(self) -> int:
        assert self.instance is not None
        return int(self.instance.runtime.get(0, "conns"))

    def memory(self) -> dict[str, int]:
        """Bytes of each of the table's maps."""
        return self._memory


class Plain:
    """The baseline programs of baseline.bpf.c, over one map of targets."""

    def __init__(self, kind: str) -> None:
        self.replayer = Replayer()
        with open("/proc/sys/net/ipv4/conf/lo/forwarding", "w", encoding="ascii") as file:
            file.write("1")
        self._object: Any = None
        self._lines = 1

    def load(self, entries: int, wide: bool, lines: int) -> int:
        """Room for so many entries; `wide`: for floor_of, too; `lines`: for one_line, a power of two."""
        self.unload()
        self._lines = lines
        sizes = {"targets": entries, "entries": entries if wide else 1, "lines": lines, "counters": 3}
        self._object = compiled("baseline", sizes)
        return entries

    def unload(self) -> None:
        if self._object:
            self._object.close()
            self._object = None

    def fill(self, case: str, first: int, flows: int) -> int:
        """Tell the programs where the packets of a case go, by the case's own packets."""
        kinds = {"dr": ("d1", 0, 0, 0), "nat-in": ("d1", 0x0A020002, 8080, 1), "nat-out": ("d0", 0x0A630002, 80, 2)}
        device, address, port, method = kinds[case]
        hop = {"dr": 0x0A020001, "nat-in": 0x0A020002, "nat-out": 0}[case]
        dmac, smac = ("020000000004", "020000000003") if device == "d1" else ("020000000001", "020000000002")
        import socket

        target = struct.pack(">II", address, hop) + struct.pack("=I", socket.if_nametoindex(device))
        target += struct.pack(">HBB", port, method, 0) + bytes.fromhex(dmac + smac)
        entry = target + struct.pack("=IIIII12x", 1, 0, _LONG, 0, self._lines - 1)
        syscall.map_update(self._object.maps["template"], bytes(4), entry)
        learn = self._object.programs["learn"]
        self.replayer.run(CASES[case], learn, flows, flows, first=first, at_random=False)
        return flows

    def packets(self, case: str, program: str, flows: int, repeat: int) -> float:
        """Net nanoseconds of packets of known flows at random."""
        nothing = self.replayer.run(CASES[case], self.replayer.nothing, flows, repeat)
        return self.replayer.run(CASES[case], self._object.programs[program], flows, repeat) - nothing

    def verdict(self, case: str, program: str, flow: int) -> int:
        """What a program answers to one packet of a known flow: 7 if it was sent on."""
        return self.replayer.answer(CASES[case], self._object.programs[program], flow)

    def memory(self) -> dict[str, int]:
        return {name: memlock(self._object.maps[name]) for name in ("targets", "entries")}

    def bandwidth(self, megabytes: int) -> float:
        """Gigabytes that one CPU copies per second, for comparison: read and written, both counted."""
        size = megabytes << 20
        source, target = mmap.mmap(-1, size), mmap.mmap(-1, size)
        source.write(bytes(size))
        target.write(bytes(size))
        begin = time.perf_counter()
        memoryview(target)[:] = memoryview(source)
        return 2 * size / (time.perf_counter() - begin) / 1e9


def main(kind: str) -> None:
    """Answer requests until there are no more."""
    # answers have a descriptor of their own: nothing that prints by mistake gets between them
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    enter_namespace()
    subject: Product | Plain = Plain(kind) if kind == "plain" else Product(kind)
    try:
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            method: Callable[..., Any] = getattr(subject, name)
            print(json.dumps(method(*arguments)), file=answers, flush=True)
    finally:
        subject.unload()


if __name__ == "__main__":
    main(sys.argv[1])
