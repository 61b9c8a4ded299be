"""What a change of its real servers does to a scheduler, without any kernel: its numbers, and its table.

The choosing is in the packet path. Here the model chooses, and is itself held to the vectors of the kernel's own code;
after each choice its state, put as the packet path would leave it, is what `pylvs.schedulers` gets, and after each
change both must have come to the same.
"""

import importlib
import json
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from socket import AF_INET
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import schedulers as plain
from pylvs import schedulers
from pylvs.datapath import _layout
from pylvs.errors import InvalidValue, NoSuchScheduler
from pylvs.schedulers import hashing

VECTORS = json.loads((Path(__file__).parents[1] / "golden" / "scheduler-vectors.json").read_text())["cases"]
CASES = [case for case in VECTORS if case["scheduler"] in plain.SCHEDULERS]
VIP = "10.99.0.1"


class Server:
    def __init__(self, name: str, weight: int, address: str = "", port: int = 80):
        self.name, self.weight, self.last_weight = name, weight, weight
        self.address, self.port = address or f"10.0.0.{sum(name.encode())}", port
        self.overloaded = False
        self.active = self.inactive = 0


class Servers:
    """As the product's schedulers see them."""

    def __init__(self, servers: list[Server], family: int = AF_INET):
        self.servers, self.family = servers, family
        self.weights = [server.weight for server in servers]
        self.last_weights = [server.last_weight for server in servers]

    def __len__(self) -> int:
        return len(self.servers)

    def endpoint(self, place: int) -> tuple[bytes, int]:
        server = self.servers[place]
        return ip_address(server.address).packed.ljust(16, b"\0"), server.port


class Both:
    """A service as the model has it and as pylvs has it."""

    def __init__(self, name: str):
        self.servers: list[Server] = []
        self.plain = plain.SCHEDULERS[name]([])
        self.ours = schedulers.find(name)
        self.head = self.ours.start(Servers([]))
        self.table: list[int] = []
        self.retable()
        self.compare()

    def compare(self) -> None:
        assert self.head == self.as_head()
        if isinstance(self.plain, plain.Hashing):
            nobody = [schedulers.NOBODY] * len(self.plain.entries)
            wanted = [self.servers.index(server) if server else schedulers.NOBODY for server in self.plain.entries]
            assert (self.table or nobody) == wanted

    def retable(self) -> None:
        self.table = list(self.ours.table(Servers(self.servers), 0))

    def as_head(self) -> schedulers.Head:
        if isinstance(self.plain, plain.Rr):
            return schedulers.Head(self._place())
        if isinstance(self.plain, plain.Wrr):
            state = self.plain.current << schedulers.STATE_PLACE_BITS | self._place()
            return schedulers.Head(state, self.plain.step, self.plain.top)
        return schedulers.Head()

    def _place(self) -> int:
        return self.servers.index(self.plain.finger) + 1 if self.plain.finger else 0

    def named(self, name: str) -> Server:
        return next(server for server in self.servers if server.name == name)

    def pick(self, client: str = "10.1.0.1", port: int = 1024, destination: str = VIP) -> str:
        chosen = self.plain.chosen(self.servers, plain.Asked(client, port, destination))
        self.head = self.as_head()
        return chosen.name if chosen else "-"

    def add(self, name: str, weight: int, address: str = "", port: int = 80) -> None:
        self.servers.insert(0, Server(name, weight, address, port))
        self.plain.added(self.servers)
        self.head = self.ours.changed(self.head, Servers(self.servers), lambda place: place + 1)
        self.retable()
        self.compare()

    def edit(self, name: str, weight: int) -> None:
        server = self.named(name)
        before = Server(name, server.weight)
        before.last_weight = server.last_weight
        server.weight, server.last_weight = weight, weight or server.last_weight
        self.plain.edited(self.servers)
        if self.ours.weighs(before, server):
            self.head = self.ours.changed(self.head, Servers(self.servers), lambda place: place)
            self.retable()
        self.compare()

    def remove(self, name: str) -> None:
        server = self.named(name)
        at = self.servers.index(server)
        self.servers.remove(server)
        self.plain.removed(self.servers, server, self.servers[at - 1] if at else None)
        self.head = self.ours.changed(self.head, Servers(self.servers), lambda place: place - (place >= at))
        self.retable()
        self.compare()


@pytest.mark.parametrize("case", CASES, ids=[f"{case['scheduler']}-{i}" for i, case in enumerate(CASES)])
def test_vectors(case: dict[str, Any]) -> None:
    both = Both(case["scheduler"])
    if isinstance(both.plain, plain.Hashing):
        both.plain.fallback, both.plain.port = bool(case["flags"] & 8), bool(case["flags"] & 16)
    for op, *rest in case["ops"]:
        if op == "pick":
            count, wanted = rest
            assert "".join(both.pick() for _ in range(count)) == wanted
        elif op == "pick_for":
            client, port, destination, wanted = rest
            assert both.pick(client, port, destination) == wanted
        elif op == "add":
            name, address, port, weight = rest
            both.add(name, weight, address, port)
        elif op == "weight":
            both.edit(*rest)
        elif op == "del":
            both.remove(*rest)
        elif op == "active":
            both.named(rest[0]).active = rest[1]
        else:
            assert op == "overload"
            both.named(rest[0]).overloaded = bool(rest[1])


def test_what_is_played() -> None:
    assert {case["scheduler"] for case in CASES} == set(schedulers.NAMES) - {"twos"}
    assert len(CASES) == 289
    assert sum(op[0] == "pick" for case in CASES for op in case["ops"]) > 500


OPS = ("pick", "pick", "pick", "add", "edit", "remove", "switch")
STEPS = st.lists(st.tuples(st.sampled_from(OPS), st.integers(0, 5), st.integers(0, 6)), max_size=60)


@settings(derandomize=True, deadline=None)
@given(name=st.sampled_from(sorted(plain.SCHEDULERS)), steps=STEPS)
def test_any_change(name: str, steps: list[tuple[str, int, int]]) -> None:
    both = Both(name)
    for op, which, weight in steps:
        there = {server.name for server in both.servers}
        if op == "pick":
            both.pick()
        elif op == "switch":  # to another one and back: both begin anew
            both.plain, both.head = type(both.plain)(both.servers), both.ours.start(Servers(both.servers))
            both.retable()
            both.compare()
        elif op == "add" and str(which) not in there:
            both.add(str(which), weight)
        elif op == "edit" and str(which) in there:
            both.edit(str(which), weight)
        elif op == "remove" and str(which) in there:
            both.remove(str(which))


def test_names() -> None:
    for number, name in enumerate(schedulers.NAMES, 1):
        scheduler = schedulers.find(name)
        assert (scheduler.name, scheduler.number, schedulers.name_of(number)) == (name, number, name)
        assert getattr(_layout, f"SCHED_{name.upper()}") == number
        assert getattr(importlib.import_module(f"pylvs.schedulers.{name}"), "__doc__", None), "no word about it"
    assert schedulers.find("none").number == _layout.SCHED_NONE == 0
    with pytest.raises(NoSuchScheduler, match="there is no scheduler 'x'; there are rr, wrr"):
        schedulers.find("x")


# ---- the kernel's own figures (facts 4.16) ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "port", "lookup", "step"),
    [
        ("10.0.0.1", 80, 0x439C0CBE, 0x97B3DC47),
        ("10.0.0.2", 80, 0xA1CF683B, 0xFA5D46DF),
        ("192.168.0.1", 0, 0x8334668E, 0x1683A1ED),
        ("0.0.0.0", 0, 0x1D5A77C2, 0xF882433F),
    ],
)
def test_siphash(address: str, port: int, lookup: int, step: int) -> None:
    value = hashing.fold(ip_address(address).packed.ljust(16, b"\0")) + port
    assert (hashing.siphash(value), hashing.siphash(value, hashing.MH_STEP)) == (lookup, step)


@pytest.mark.parametrize(
    ("address", "bucket", "bits_10", "with_port"),
    [("10.0.0.1", 39, 159, 203), ("10.0.0.2", 137, 550, 45), ("192.168.1.77", 144, 577, 52),
     ("203.0.113.9", 64, 257, 228)],
)  # fmt: skip
def test_buckets(address: str, bucket: int, bits_10: int, with_port: int) -> None:
    value = hashing.fold(ip_address(address).packed.ljust(16, b"\0"))
    assert (hashing.bucket(value), hashing.bucket(value, 10), hashing.bucket(value + 40000)) == (bucket, bits_10, with_port)


def test_ipv6_is_folded() -> None:
    value = hashing.fold(ip_address("2001:db8::1").packed)
    assert (value, hashing.bucket(value)) == (0x20010DB9, 63)
    assert hashing.fold(ip_address("2001:db8::1").packed, AF_INET) == 0x20010DB8, "of an IPv4 service, the first word"


def _abc(*weights: int) -> list[Server]:
    """A, B and C, added in this order: so C is at the head."""
    return [Server(name, weight, f"10.0.0.{i}") for i, (name, weight) in enumerate(zip("ABC", weights, strict=True), 1)][::-1]


@pytest.mark.parametrize(
    ("name", "weights", "counts", "digest"),
    [
        ("sh", (1, 1, 1), (1384, 1359, 1353), "54e883e14d11230a"),
        ("sh", (4, 3, 2), (1799, 1376, 921), "ae9f58b5f0203cfd"),
        ("mh", (1, 1, 1), (1378, 1354, 1364), "0844f2ec9f89f792"),
        ("mh", (4, 3, 2), (1809, 1366, 921), "3ed267297f9b418e"),
    ],
)
def test_how_4096_clients_are_spread(name: str, weights: tuple[int, ...], counts: tuple[int, ...], digest: str) -> None:
    servers = _abc(*weights)
    table = schedulers.find(name).table(Servers(servers), 0)
    index = (lambda value: hashing.siphash(value) % 4093) if name == "mh" else hashing.bucket
    picks = "".join(servers[table[index(0xC6330000 + number)]].name for number in range(4096))
    assert tuple(picks.count(letter) for letter in "ABC") == counts
    assert sha256(picks.encode()).hexdigest()[:16] == digest


def test_dh_buckets_go_round() -> None:
    servers = _abc(1, 0, 5)
    table = schedulers.find("dh").table(Servers(servers), 0)
    asked = [0x0A010000 + (k << 8) + 7 * k % 256 for k in range(32)]
    assert "".join(servers[table[hashing.bucket(value)]].name for value in asked) == "BBCCAABBBCCAABBCCAAABBCCAABBCCAA"


def test_mh_has_room_for_as_many_as_it_has_entries() -> None:
    many = [Server("x", 1, f"10.{i >> 8}.{i & 255}.1") for i in range(4094)]
    assert sorted(schedulers.find("mh").table(Servers(many[1:]), 0)) == list(range(4093))
    with pytest.raises(InvalidValue, match="mh has room for 4093 real servers, and these are 4094"):
        schedulers.find("mh").table(Servers(many), 0)


def test_mh_moves_few_when_one_goes() -> None:
    many = [Server("x", 1, f"10.0.0.{i}") for i in range(1, 51)]
    before = schedulers.find("mh").table(Servers(many), 0)
    after = schedulers.find("mh").table(Servers(many[:-1]), 0)
    moved = sum(then != now for then, now in zip(before, after, strict=True) if then != 49)
    assert 0 < moved < 4093 // 10
