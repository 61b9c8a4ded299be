"""Fragments that come before their first one wait for it: so many, so long. And any fragments in any order."""

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pylvs.datapath import syscall
from pylvs.datapath.layout import REASONS
from pylvs.datapath.maps import possible_cpus
from support.fragments import PAYLOAD, Piece, balanced, cut, join, known, serving, traffic
from support.harness import CLIENT, SERVER, Harness, frame
from support.packets import UDP, dissect, ip, udp, wrong_sums
from support.talk import FAMILIES, Family
from support.wires import Wires

METHODS = pytest.mark.parametrize("method", ["-m", "-g"], ids=["nat", "dr"])
HELD, SET = 256, 64
"""How many can wait; in how large a set those of one datagram."""


@METHODS
def test_the_first_one_comes_last(lvs: Harness, family: Family, method: str) -> None:
    talk = serving(lvs, family, method=method)
    whole = talk.question(payload=PAYLOAD)
    parts = cut(whole, 1000)
    with Wires(lvs) as wires:
        assert wires.send(CLIENT, parts[:0:-1]) == {"held_fragment": 3}
        assert balanced(lvs) == 3
        counted = wires.send(CLIENT, parts[:1])
        assert counted == {"held_fragment": -3, f"forwarded_{'nat_request' if method == '-m' else 'route'}": 4}
        came = wires.came(4)
    assert balanced(lvs) == 0
    assert {one.side for one in came} == {SERVER} and len(came) == 4
    joined = join(one.packet for one in came)
    assert joined is not None and not wrong_sums(joined)
    assert Piece(came[0].packet).at == 0, "the first one goes first"
    assert lvs.director.totals()[1:5] == (1, 0, len(whole), 0)


def test_the_first_one_is_not_ours(lvs: Harness, family: Family) -> None:
    """The stack gets all of them, the first one first."""
    talk = serving(lvs, family)
    parts = cut(ip(family.client, family.vip, UDP, udp(talk.sport, 81, PAYLOAD)), 1000)
    with Wires(lvs) as wires:
        assert wires.send(CLIENT, parts[1:]) == {"held_fragment": 3}
        assert wires.send(CLIENT, parts[:1]) == {"held_fragment": -3, "up_no_service": 1, "up_fragment": 3}
    assert balanced(lvs) == 0


def test_what_one_cpu_counts_another_takes_back(lvs: Harness) -> None:
    """One has taken up what waits, another lets it go on: only their sum says how many wait."""
    number, reasons = REASONS.index("held_fragment"), lvs.instance.reasons
    cpus = possible_cpus()
    rows = struct.pack(f"={cpus}Q", *(3, 2**64 - 2, *[0] * cpus)[:cpus])
    syscall.map_update(reasons.fd, struct.pack("=I", number), rows)
    assert reasons.sums(number) == ((1,) if cpus > 1 else (3,))


def test_replies_out_of_order(lvs: Harness, family: Family) -> None:
    talk = serving(lvs, family)
    talk.opens()
    parts = cut(talk.answer(payload=PAYLOAD), 1000)
    with Wires(lvs) as wires:
        wires.send(SERVER, [parts[3], parts[1], parts[0], parts[2]])
        joined = join(one.packet for one in wires.came(4) if one.side == CLIENT)
    assert joined is not None and not wrong_sums(joined)
    assert dissect(joined).source == (family.vip, 80)
    assert balanced(lvs) == 0


def test_the_first_one_is_lost(lvs: Harness, family: Family) -> None:
    """What waits for it is forgotten after a second, by whom ever nothing else comes."""
    talk = serving(lvs, family)
    for part in cut(talk.question(payload=PAYLOAD), 1000)[1:]:
        assert lvs.from_client(part).reason == "held_fragment"
    lvs.advance(0.4)
    assert balanced(lvs) == 3
    lvs.advance(0.7)
    assert balanced(lvs) == 0
    assert lvs.reasons()["dropped_first_lost"] == 3
    assert known(lvs) == 0 and lvs.entries() == {}


def test_there_is_so_much_room(lvs: Harness, family: Family) -> None:
    """One datagram takes a set of slots and no more, and after a second all of it is free again."""
    talk = serving(lvs, family)
    parts = cut(talk.question(payload=bytes(20 * 1400)), 400)
    assert len(parts) > SET + 2
    lvs.pour(frame(part) for part in parts[1 : SET + 3])
    assert balanced(lvs) == SET and lvs.reasons()["dropped_hold_full"] == 2
    # whose slots are another set's can still wait
    others = [lvs.from_client(cut(talk.question(payload=PAYLOAD), 1000, ident=n)[1]).reason for n in range(2, 12)]
    assert "held_fragment" in others
    # room is made when it is needed, too
    lvs.shift(1.1)
    lvs.from_client(parts[1])  # counted under "lost" for the one in whose place it waits
    assert lvs.reasons()["dropped_first_lost"] == 1 and balanced(lvs) <= 2 * SET
    lvs.advance(1.1)
    assert balanced(lvs) == 0


def test_a_flood_of_them(lvs: Harness, family: Family) -> None:
    """Takes what there is, and neither what has begun nor what comes in order suffers from it."""
    talk = serving(lvs, family)
    begun = cut(talk.question(payload=PAYLOAD), 1000, ident=1)
    assert lvs.from_client(begun[0]).forwarded
    noise = talk.question(payload=PAYLOAD)
    lvs.pour(frame(cut(noise, 1000, ident)[1]) for ident in range(1000, 1600))
    assert 200 < balanced(lvs) <= HELD
    assert lvs.reasons()["dropped_hold_full"] > 200
    assert all(lvs.from_client(part).forwarded for part in begun[1:])
    assert all(lvs.from_client(part).forwarded for part in cut(noise, 1000, ident=2))
    assert known(lvs) == 2, "and nothing is remembered of those"
    lvs.advance(1.1)
    assert balanced(lvs) == 0


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), family=st.sampled_from(FAMILIES), method=st.sampled_from(["-m", "-g"]))
def test_however_it_comes(lvs: Harness, data: st.DataObject, family: Family, method: str) -> None:
    """Any datagrams, cut anywhere, in any order, with losses and duplicates: what comes out, put together, is what NAT
    makes of the whole; nothing goes to anybody else; and all of it is accounted for."""
    lvs.reset()
    talk = serving(lvs, family, method=method)
    talk.asks()
    number = data.draw(st.integers(1, 3))
    wholes, sent = [], []
    for ident in range(number):
        reply = method == "-m" and data.draw(st.booleans())
        payload = data.draw(st.binary(min_size=1, max_size=300)) * data.draw(st.integers(1, 12))
        whole = talk.answer(payload=payload) if reply else talk.question(payload=payload)
        sizes = data.draw(st.lists(st.integers(1, 120).map(lambda n: 8 * n), min_size=1, max_size=6))
        sizes[0] = min(sizes[0], (len(payload) + 7) // 8 * 8)  # or there would be nothing to cut
        parts = cut(whole, sizes, ident)
        if len(parts) == 1:
            continue
        kept = [part for part in parts for _ in range(data.draw(st.sampled_from([1, 1, 1, 1, 0, 2])))]
        wholes.append((ident, reply, whole))
        sent += [(reply, part) for part in kept]
    order = data.draw(st.permutations(sent))
    with Wires(lvs) as wires:
        before = traffic(lvs)
        for reply, part in order:
            wires.send(SERVER if reply else CLIENT, [part])
        waiting = balanced(lvs)
        came = wires.came(len(order) - waiting)
    assert len(came) == len(order) - waiting
    for ident, reply, whole in wholes:
        mine = [one for one in came if Piece(one.packet).key[2] == ident and (one.side == CLIENT) == reply]
        pieces = [part for was_reply, part in order if was_reply == reply and Piece(part).key[2] == ident]
        if not any(Piece(part).at == 0 for part in pieces):
            assert not mine, "without its first one nothing goes anywhere"
            continue
        assert len(mine) == len(pieces)
        joined, expected = join(one.packet for one in mine), join(pieces)
        assert (joined is None) == (expected is None)
        source = (family.vip, 80) if reply else (family.client, talk.sport)
        for one in mine:
            after = Piece(one.packet)
            assert after.key[:2] == (source[0], family.client if reply else talk.rs if method == "-m" else family.vip)
        if joined is not None:
            assert not wrong_sums(joined)
            assert dissect(joined).segment[8:] == dissect(whole).segment[8:]
            assert dissect(joined).source == source
    lvs.advance(1.1)
    assert balanced(lvs) == 0
    assert traffic(lvs) != before or not came
