"""The connection table under load: nearly full, under attack, and at the turns of its clock."""

import math
import random
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from socket import AF_INET
from types import SimpleNamespace
from typing import Any

import pytest

from pylvs.datapath.connections import entries
from pylvs.datapath.table import Hash, Spot, usage
from pylvs.protocols import tcp as tcp_states
from support.books import books
from support.crowd import Crowd, Flow
from support.harness import Harness, frame
from support.packets import TCP, UDP, address, tcp_packet
from support.talk import IPV4, Family, Talk

SLOTS = 1 << 14
LONG_LIVED, CHURNED, AT_ONCE = SLOTS * 9 // 10, 100_000, 500


def _flows(first: int, count: int) -> list[Flow]:
    """Clients of one LVS-DR service, each with an address and a port of its own."""
    return [
        Flow(f"10.1.{number >> 8 & 255}.{number & 255}", 1024 + number % 60_000, IPV4.vip, 80, IPV4.server, 80, False)
        for number in range(first, first + count)
    ]


def _direct(lvs: Harness) -> Talk:
    return Talk(lvs, IPV4, rport=80).serve(1, "-g")


# ---- nearly full -----------------------------------------------------------------------------------------------------


@pytest.fixture
def large(lvs: Harness) -> Iterator[Harness]:
    lvs.reload(14)
    try:
        yield lvs
    finally:
        lvs.reload()


def test_nine_tenths_full(large: Harness) -> None:
    """Connections come and go beside those that stay: hardly any finds no room, and nobody is lost."""
    _direct(large)
    with Crowd(large, _flows(0, LONG_LIVED + 4 * AT_ONCE)) as crowd:
        stay = range(LONG_LIVED)
        crowd.plan(0, "S", 4, shared=stay, in_turn=True)
        crowd.run(0, LONG_LIVED, 4)
        touches = 0
        for batch in range(CHURNED // AT_ONCE):
            if batch % 40 == 0:
                crowd.plan(0, "A", 4, shared=stay, in_turn=True)
                crowd.run(0, LONG_LIVED, 4)
                touches += 1
            first = LONG_LIVED + batch % 4 * AT_ONCE
            for event in "SAR":
                crowd.plan(1, event, 4, shared=range(first, first + AT_ONCE), in_turn=True)
                crowd.run(1, AT_ONCE, 4)
            large.advance(11)  # CLOSE lasts for 10 s
    assert large.reasons()["dropped_table_full"] <= CHURNED // 1000
    assert large.instance.runtime.get(0, "gave_way") == 0
    assert large.director.totals().conns >= LONG_LIVED + CHURNED - CHURNED // 1000
    found = {(entry.addresses[:4], entry.cport): entry.packets for entry in entries(large.instance)}
    assert found == {(address(flow.client), flow.sport): 1 + touches for flow in _flows(0, LONG_LIVED)}
    assert books(large.instance) == (LONG_LIVED, LONG_LIVED)
    assert usage(large.instance).fill[64] <= 3, "full groups, of 256"


# ---- keys that meet --------------------------------------------------------------------------------------------------


def _spot(own: Hash, client: int, sport: int, vip: str = IPV4.vip, port: int = 80) -> Spot:
    words = (int.from_bytes(client.to_bytes(4, "big"), sys.byteorder), int.from_bytes(address(vip), sys.byteorder))
    return own.spot(words, int.from_bytes(struct.pack("!HH", sport, port), sys.byteorder), TCP, AF_INET)


def test_an_attack_by_who_knows_the_seeds(lvs: Harness) -> None:
    """They fill two groups, and that is all they can: 128 are in, the others are refused, and others notice nothing."""
    talk = _direct(lvs)
    before = [talk.from_port(sport) for sport in range(100, 400)]
    for one in before:
        lvs.pour([frame(one.question("S")), frame(one.question("A"))])
    own, client = Hash(lvs.instance), int.from_bytes(address("10.1.9.9"), "big")
    meeting: dict[frozenset[int], list[tuple[int, int]]] = {}
    for number in range(400_000):
        at = client + (number >> 15), 1024 + (number & 0x7FFF)
        spot = _spot(own, *at)
        met = meeting.setdefault(frozenset((spot.group, spot.other)), [])
        met.append(at)
        if len(met) == 210:
            break
    pair, attackers = next((pair, met) for pair, met in meeting.items() if len(met) == 210)
    there = sum(lvs.instance.groups.get(group, "used") for group in pair)
    for host, sport in attackers:
        source = ".".join(map(str, host.to_bytes(4, "big")))
        lvs.pour(frame(tcp_packet(source, sport, IPV4.vip, 80, flags)) for flags in "SA")
    assert lvs.reasons()["dropped_table_full"] == 210 - (128 - there)
    assert sum(lvs.instance.groups.get(group, "used") for group in pair) == 128
    assert all(one.asks("A").forwarded for one in before)
    late, met = 0, 0
    for sport in range(400, 700):
        spot = _spot(own, int.from_bytes(address(IPV4.client), "big"), sport)
        full = {spot.group, spot.other} == pair
        assert talk.from_port(sport).asks("S").forwarded != full
        late, met = late + (not full), met + full
    assert books(lvs.instance) == (428 - there + late, 428 - there + late)
    assert late > 290


PATTERNS: dict[str, Callable[[int], tuple[int, int]]] = {
    "random": lambda n: (random.Random(n).getrandbits(32), random.Random(~n).getrandbits(16)),
    "ports in a row": lambda n: (0x0A010001 + (n >> 16), n & 0xFFFF),
    "addresses in a row": lambda n: (0x0A010000 + n, 1025),
    "the same low bits": lambda n: (n << 17 & 0xFFFFFFFF | 0x10001, 1025),
    "the same high bits of both": lambda n: (0x0A010000 | n & 0xFF, n >> 8 << 8 & 0xFFFF | 1),
    "one address and port both in step": lambda n: (0x0A010000 + n, 1024 + n & 0xFFFF),
}


def _most(mean: float, tries: float) -> int:
    """What none of so many groups of random keys exceeds, but with a probability below 1e-9."""
    most, term = int(mean), 1.0
    while tries * term > 1e-9:
        most += 1
        # of a Poisson distribution: the tail from `most` on is less than twice its first term
        term = 2 * math.exp(most * math.log(mean) - mean - math.lgamma(most + 1))
    return most


@pytest.mark.parametrize("name", PATTERNS)
def test_keys_that_do_not_know_the_seeds(name: str) -> None:
    """However alike they are, they spread over the groups as random ones do."""
    groups, keys, seeds = 256, 8192, 4
    for seed in range(seeds):
        secrets = tuple(random.Random(f"{name} {seed}").getrandbits(64) for _ in range(11))
        config: dict[str, Any] = {"seeds": secrets, "conn_slots": groups * 64}
        own = Hash(SimpleNamespace(config=SimpleNamespace(get=lambda _, what, of=config: of[what])))  # type: ignore[arg-type]
        distinct = {PATTERNS[name](n) for n in range(keys)}
        spots = [_spot(own, *key) for key in distinct]
        limit = _most(len(distinct) / groups, groups * seeds * len(PATTERNS) * 2)
        assert max(Counter(spot.group for spot in spots).values()) <= limit
        assert max(Counter(spot.other for spot in spots).values()) <= limit
        assert max(Counter(spot.tag for spot in spots).values()) <= 2 * _most(len(distinct) / 254, 1e5)


def test_one_bit_of_difference() -> None:
    """Any two keys that differ in a bit meet in a group as rarely as two random ones."""
    groups, met, pairs = 256, 0, 0
    for seed in range(200):
        secrets = tuple(random.Random(seed).getrandbits(64) for _ in range(11))
        config: dict[str, Any] = {"seeds": secrets, "conn_slots": groups * 64}
        own = Hash(SimpleNamespace(config=SimpleNamespace(get=lambda _, what, of=config: of[what])))  # type: ignore[arg-type]
        base = _spot(own, 0x0A010001, 1025)
        for bit in range(48):
            client, sport = 0x0A010001 ^ (1 << bit if bit < 32 else 0), 1025 ^ (1 << bit - 32 if bit >= 32 else 0)
            met += _spot(own, client, sport).group == base.group
            pairs += 1
    assert met <= _most(pairs / groups, 1)


# ---- a flood of SYNs -------------------------------------------------------------------------------------------------

FLOOD = 12_000


def _flood(lvs: Harness, crowd: Crowd) -> Callable[[int], None]:
    crowd.plan(0, "S", 4, shared=range(FLOOD), in_turn=True)
    return lambda packets: crowd.run(0, packets, 4)


def test_a_flood_takes_nothing_from_who_is_there(lvs: Harness) -> None:
    talk = Talk(lvs, IPV4).serve()
    Talk(lvs, IPV4, port=8080, rport=8080).serve(1, "-g")
    there = [talk.from_port(sport).opens() for sport in range(100, 200)]
    flows = [flow._replace(port=8080, rport=8080) for flow in _flows(0, FLOOD)]
    with Crowd(lvs, flows) as crowd:
        flood = _flood(lvs, crowd)
        flood(FLOOD)
        for number, one in enumerate(there):
            flood(1000)
            assert one.asks("A").forwarded and one.answers("A").forwarded
            talk.from_port(1000 + number).opens()
    found = {entry.cport: (entry.state, entry.packets) for entry in entries(lvs.instance) if entry.vport == 80}
    established = tcp_states.STATES.index("ESTABLISHED")
    assert found == {**dict.fromkeys(range(100, 200), (established, 3)),
                     **dict.fromkeys(range(1000, 1100), (established, 2))}  # fmt: skip
    assert lvs.instance.runtime.get(0, "gave_way") > 50_000
    assert lvs.reasons()["dropped_table_full"] == 0
    books(lvs.instance)


@pytest.mark.xfail(strict=True, reason="of each group the same four slots give way again and again")
def test_a_newcomer_outlasts_the_flood_for_a_while(lvs: Harness) -> None:
    """Half-open itself while its client's ACK is on the way: an eighth of a table of SYNs later it is still there."""
    talk = _direct(lvs)
    with Crowd(lvs, _flows(0, FLOOD)) as crowd:
        flood, lost = _flood(lvs, crowd), 0
        flood(FLOOD)
        for sport in range(100, 200):
            newcomer = Talk(lvs, IPV4._replace(client="10.1.200.1"), sport=sport, rport=80)
            assert newcomer.asks("S").forwarded
            flood(512)
            lost += not newcomer.asks("A").forwarded
    assert talk.family is IPV4 and lost <= 10


# ---- the clock -------------------------------------------------------------------------------------------------------

TICKS = 1 << 52  # ns: where the 32 bits of a tick begin anew


@pytest.mark.parametrize("turn", [TICKS, TICKS // 2, 3 * TICKS // 2], ids=["wrap", "sign", "second sign"])
@pytest.mark.parametrize("before", [0.5, 30, 59.5, 200, 899])
def test_the_turns_of_the_clock(lvs: Harness, family: Family, turn: int, before: float) -> None:
    """Connections made so many seconds before the ticks turn end in their time, no sooner and no later."""
    lvs.shift((turn - lvs.instance.now()) / 1e9 - before)
    half, whole = Talk(lvs, family).serve(), Talk(lvs, family, port=443).serve()
    datagram = Talk(lvs, family, UDP, port=53, rport=53).serve()
    half.asks("S")
    whole = whole.from_port(2000).opens()
    datagram.from_port(3000).asks()
    for seconds, left in ((59, 3), (2, 2), (238, 2), (2, 1), (598, 1), (2, 0)):
        lvs.advance(seconds)
        assert len(lvs.entries()) == left == lvs.instance.runtime.get(0, "conns")
    assert books(lvs.instance) == (0, 0)
    lvs.shift(0.1)
    assert half.asks("S").forwarded


def test_a_clock_that_is_set_back(lvs: Harness, family: Family) -> None:
    """What is there stays for its time by the new clock after its next packet, and is never gone too soon."""
    lvs.shift(100)
    talk = Talk(lvs, family).serve().opens()
    half = Talk(lvs, family, sport=2000)
    half.asks("S")
    lvs.advance(-50)
    assert len(lvs.entries()) == 2
    assert half.asks("S").forwarded
    lvs.advance(59)
    assert half.entry.shown.expires <= 1100
    lvs.advance(2)
    assert half.entry is None and talk.entry is not None
    assert talk.asks("A").forwarded
    lvs.advance(tcp_states.TIMEOUTS["ESTABLISHED"] + 1)
    assert books(lvs.instance) == (0, 0)
