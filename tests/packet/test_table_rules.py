"""The rules at the heads of bpf/table.h and bpf/conn.h, one test for each, staged step by step.

What one CPU sees while another one stands between two of its steps is made by hand: a slot that is held and not yet
published, one that is being filled with the same key, one that is just being given back, a life that is over.
"""

import struct
from collections.abc import Iterator

import pytest

from pylvs.datapath import _layout
from pylvs.protocols.tcp import STATES
from support.books import books, places
from support.harness import Harness
from support.packets import ACK, TCP, address
from support.rules import BACK, DEAD, FILLING, FREE, LIVE, TURN, Found, Steps
from support.talk import IPV4, IPV6, Family, Talk

NOTHING = -1
CROWDED, REST = 56, 16 << 20


@pytest.fixture
def steps(lvs: Harness) -> Iterator[Steps]:
    with Steps(lvs) as made:
        yield made


def _key(steps: Steps, sport: int = 1025):  # type: ignore[no-untyped-def]
    return steps.key((IPV4.client, sport), (IPV4.vip, 80))


def _life(steps: Steps, number: int) -> int:
    return int(steps.lvs.instance.slots.get(number, "life"))


def _used(steps: Steps, group: int) -> int:
    return int(steps.lvs.instance.groups.get(group, "used"))


# ---- taking and giving back ------------------------------------------------------------------------------------------


def test_a_slot_belongs_to_its_taker(steps: Steps) -> None:
    """All 64 of a group, each once, and none beyond."""
    taken = [steps.run("take_in_group", number=3, now=1) - 1 for _ in range(65)]
    assert sorted(taken[:64]) == list(range(192, 256)) and taken[64] == NOTHING
    assert _used(steps, 3) == 64
    assert {steps.lvs.instance.tags.memory[number] for number in taken[:64]} == {_layout.TAG_HELD}
    assert {_life(steps, number) for number in taken[:64]} == {TURN | FILLING}


def test_a_tag_is_published_last(steps: Steps) -> None:
    """Until then nobody finds the slot, whatever is in it."""
    key = _key(steps)
    number = steps.take(key)
    steps.fill(number, key)
    steps.become(number, LIVE)
    assert steps.find(key).number == NOTHING
    steps.publish(number, key)
    assert steps.find(key) == Found(number, TURN | LIVE)
    assert steps.find(key, but=number).number == NOTHING


@pytest.mark.parametrize("kind", [FREE, FILLING, DEAD, BACK])
def test_a_slot_is_found_as_what_it_is(steps: Steps, kind: int) -> None:
    """A tag may be a moment older than the slot: the life word decides."""
    key = _key(steps)
    number = steps.put(key, kind)
    assert steps.find(key).number == NOTHING
    assert steps.find(key, kind).number == number


def test_a_tag_is_not_a_key(steps: Steps) -> None:
    """Several keys of one tag in one group: each is found by its own."""
    first = _key(steps, 1)
    keys = [first, *(key for sport in range(2, 12_000) if (key := _key(steps, sport)).tag == first.tag)]
    alike = [key for key in keys if key.group == first.group] + [key for key in keys if key.group != first.group][:3]
    numbers = [steps.put(key, LIVE) for key in alike]
    assert len(set(numbers)) == len(alike) >= 4
    assert [steps.find(key).number for key in alike] == numbers


def test_what_is_given_back_is_free_and_rests(steps: Steps) -> None:
    key, now = _key(steps), 100 << 20
    number = steps.take(key, now=now)
    steps.fill(number, key)
    assert steps.run("give_back", number=number, flag=1, now=now)
    assert steps.free(number) and _used(steps, key.group) == 0
    assert steps.take(key, now=now + REST - 1) != number
    assert steps.take(key, now=now + REST) == number
    assert _life(steps, number) == 2 * TURN | FILLING, "another life"


def test_a_resting_slot_is_taken_if_there_is_no_other(steps: Steps) -> None:
    key, now = _key(steps), 100 << 20
    numbers = []
    for group in (key.group, key.other):
        numbers += [steps.run("take_in_group", number=group, now=now) - 1 for _ in range(64)]
    steps.fill(numbers[7], key)
    assert steps.run("give_back", number=numbers[7], flag=1, now=now)
    assert steps.take(key, now=now) == NOTHING
    assert steps.take(key, hurry=True, now=now) == numbers[7]


def test_lives_go_round(steps: Steps) -> None:
    """After the last turn comes the first, and a slot that was used rests in that one, too."""
    key, now = _key(steps), 100 << 20
    number = steps.take(key, now=now)
    steps.lvs.instance.slots.put(number, "life", 0xFFFF << 16 | FILLING)
    steps.fill(number, key)
    steps.run("give_back", number=number, flag=1, now=now)
    assert steps.take(key, now=now + REST) == number
    assert _life(steps, number) >> 16 in (0, 1), "the first turn"
    assert _life(steps, number) & 0xFFFF == FILLING


def test_a_slot_rests_after_its_last_turn_too(steps: Steps) -> None:
    """No turn is 0: with that it would pass for one that was never used, and needs no rest."""
    key, now = _key(steps), 100 << 20
    number = steps.take(key, now=now)
    steps.lvs.instance.slots.put(number, "life", 0xFFFF << 16 | FILLING)
    for at in (now, now + REST):
        steps.fill(number, key)
        steps.run("give_back", number=number, flag=1, now=at)
        assert steps.take(key, now=at + 1) != number
        assert steps.take(key, now=at + REST) == number
        assert _life(steps, number) >> 16


def test_a_crowded_group_sends_newcomers_to_the_other_one(steps: Steps) -> None:
    key, groups = _key(steps), steps.lvs.instance.groups
    for _ in range(CROWDED - 1):
        steps.run("take_in_group", number=key.group, now=1)
    assert steps.take(key) // 64 == key.group, "not crowded yet"
    assert groups.get(key.group, "spilled") == 0
    number = steps.take(key)
    assert number // 64 == key.other
    assert groups.get(key.group, "spilled") == 1, "so that lookups go on there"
    steps.fill(number, key)
    steps.publish(number, key)
    steps.become(number, LIVE)
    assert steps.find(key).number == number
    steps.run("give_back", number=number, flag=1)
    assert groups.get(key.group, "spilled") == 0
    for _ in range(CROWDED):
        steps.run("take_in_group", number=key.other, now=1)
    assert steps.take(key) // 64 == key.group, "the other one is no emptier"


# ---- two CPUs with one key -------------------------------------------------------------------------------------------


def test_alone(steps: Steps) -> None:
    key = _key(steps)
    number = steps.take(key)
    steps.fill(number, key)
    assert steps.settle(number, key) == Found(number, TURN | LIVE) == steps.find(key)


def test_who_comes_second_takes_the_first(steps: Steps) -> None:
    key = _key(steps)
    first = steps.put(key, LIVE)
    second = steps.take(key)
    steps.fill(second, key)
    assert steps.settle(second, key).number == first
    assert steps.free(second) and _used(steps, key.group) == 1


@pytest.mark.parametrize("lower", [True, False], ids=["the other is lower", "the other is higher"])
def test_two_unfinished(steps: Steps, lower: bool) -> None:
    """While the other one never ends, neither of the two is; this one leaves nothing behind."""
    key = _key(steps)
    numbers = sorted((steps.take(key), steps.take(key)))
    other, mine = numbers if lower else reversed(numbers)
    for number in numbers:
        steps.fill(number, key)
    steps.publish(other, key)
    assert steps.settle(mine, key).number == NOTHING
    assert steps.free(mine) and not steps.free(other) and _used(steps, key.group) == 1


def test_a_claim_that_is_in_the_way_leaves_nothing(lvs: Harness, steps: Steps) -> None:
    """Neither in the real server's load, nor in the number of connections, nor on the real server's side."""
    Talk(lvs, IPV4).serve()
    key = _key(steps)
    other = steps.put(key, FILLING)
    assert not steps.claim(key, (IPV4.server, 8080))
    steps.run("give_back", number=other, flag=1)
    assert books(lvs.instance) == (0, 0)
    assert not any(lvs.instance.tags.memory[:])
    assert steps.claim(key, (IPV4.server, 8080))
    assert books(lvs.instance) == (1, 0)


def test_a_claim_that_is_in_the_way_has_a_reason_of_its_own(lvs: Harness, steps: Steps) -> None:
    talk = Talk(lvs, IPV4).serve()
    steps.put(_key(steps), FILLING)
    assert talk.asks("S").reason == "dropped_contended"


def test_a_reply_side_that_is_just_given_back_is_not_joined(lvs: Harness, steps: Steps) -> None:
    """Its last connection has left it; the new one is refused, whole, and not counted."""
    talk = Talk(lvs, IPV4).serve()
    reply = steps.key((IPV4.server, 8080), (IPV4.client, 1025))
    back = steps.put(reply, BACK)
    lvs.instance.slots.memory[back * 64 + 8 : back * 64 + 16] = bytes(8)  # conns
    assert talk.asks("S").dropped
    steps.become(back, DEAD)
    steps.run("give_back", number=back, flag=1)
    assert books(lvs.instance) == (0, 0)
    assert not any(lvs.instance.tags.memory[:])
    assert talk.asks("S").forwarded
    assert books(lvs.instance) == (1, 1)


# ---- the end of a connection -----------------------------------------------------------------------------------------


def test_only_the_life_that_was_seen_ends(lvs: Harness, steps: Steps, family: Family) -> None:
    talk = Talk(lvs, family).serve()
    lvs.from_client(talk.question("S"), mark=3)
    number = places(lvs.instance)[address(family.client), talk.sport]
    life = _life(steps, number)
    for wrong in (life - TURN, life + TURN, life & ~0xFF | BACK, life & ~0xFF | DEAD, 0):
        assert not steps.release(number, wrong)
    assert books(lvs.instance) == (1, 1)
    assert steps.release(number, life)
    assert not steps.release(number, life), "once"
    assert books(lvs.instance) == (0, 0)
    assert not any(lvs.instance.tags.memory[:]), "its reply side and its rest have gone with it"
    lvs.shift(0.2)
    lvs.from_client(talk.question("S"), mark=3)
    assert number == places(lvs.instance)[address(family.client), talk.sport]
    assert not steps.release(places(lvs.instance)[address(family.client), talk.sport], life)


def test_a_status_is_changed_in_its_own_turn_only(lvs: Harness, steps: Steps) -> None:
    """A packet that has found a connection which ended then, and whose slot is another's now, moves nothing."""
    Talk(lvs, IPV4).serve().asks("S")
    number = places(lvs.instance)[address(IPV4.client), 1025]
    life = _life(steps, number)
    ack = steps.packet(TCP, ACK)
    for turn, state in ((life - TURN, "SYN_RECV"), (life + TURN, "SYN_RECV"), (life, "ESTABLISHED")):
        steps.run("transition", number=number, found=struct.pack("=IIII", number, turn, 0, 0), packet=ack)
        assert STATES[lvs.instance.slots.get(number, "status") & 0xFF] == state
    assert books(lvs.instance) == (1, 1)


def test_a_packet_that_comes_too_late_moves_no_load(lvs: Harness, steps: Steps) -> None:
    """It was found before its end: its state has been taken off the real server's load, and must not change after."""
    Talk(lvs, IPV4).serve().asks("S")
    number = places(lvs.instance)[address(IPV4.client), 1025]
    life = _life(steps, number)
    assert steps.release(number, life)
    fin = bytes(36) + bytes((6, 2)) + bytes(8) + bytes((0x11,)) + bytes(5)
    steps.run("transition", number=number, found=struct.pack("=IIII", number, life, 0, 0), packet=fin)
    assert books(lvs.instance) == (0, 0)


# ---- two connections of one reply side -------------------------------------------------------------------------------


class _Pair:
    """Two connections of one client port, to two ports of the VIP, that have the same real server."""

    def __init__(self, lvs: Harness, steps: Steps, family: Family = IPV4):
        self.lvs, self.steps = lvs, steps
        self.older, self.newer = Talk(lvs, family).serve(), Talk(lvs, family, port=443).serve()
        self.older.asks("S")
        [self.slot] = places(lvs.instance).values()
        self.newer.asks("S")
        self.slots = {80: self.slot, 443: next(n for n in self._live() if n != self.slot)}

    def _live(self) -> list[int]:
        slots = self.lvs.instance.slots
        return [n for n in range(slots.entries) if slots.get(n, "life") & _layout.LIFE_KIND == LIVE]

    def end(self, port: int) -> None:
        assert self.steps.release(self.slots[port], _life(self.steps, self.slots[port]))

    @property
    def replies_to(self) -> int:
        """The VIP's port whose connection a reply belongs to; 0: to none."""
        result = self.older.answers("SA")
        return result.packet.sport if result.forwarded else 0


@pytest.mark.parametrize("order", [(443, 80), (80, 443)], ids=["newer first", "older first"])
def test_replies_are_the_newest_ones(lvs: Harness, steps: Steps, family: Family, order: tuple[int, int]) -> None:
    pair = _Pair(lvs, steps, family)
    assert pair.replies_to == 443
    assert books(lvs.instance) == (2, 2)
    pair.end(order[0])
    assert pair.replies_to == order[1]
    assert books(lvs.instance) == (1, 1)
    pair.end(order[1])
    assert pair.replies_to == 0
    assert books(lvs.instance) == (0, 0)
    assert not any(lvs.instance.tags.memory[:])


def test_the_older_one_may_come_again_as_the_newest(lvs: Harness, steps: Steps) -> None:
    pair = _Pair(lvs, steps)
    pair.end(80)
    pair.older.asks("S")
    assert pair.replies_to == 80
    pair.end(443)
    assert pair.replies_to == 80
    assert books(lvs.instance) == (1, 1)


def test_one_that_is_just_ending_pushes_nobody_out(lvs: Harness, steps: Steps) -> None:
    """Its slot is dead, its place on the real server's side not yet given up: there, a third one meets two."""
    pair = _Pair(lvs, steps)
    slots, ending = lvs.instance.slots, pair.slots[443]
    steps.become(ending, DEAD)
    pair.newer.asks("S")
    slots.put(ending, "life", slots.get(ending, "life") & ~_layout.LIFE_KIND | LIVE)
    pair.end(443)
    assert pair.replies_to == 443, "the newest"
    [newest] = [n for n in pair._live() if n != pair.slots[80]]
    assert steps.release(newest, _life(steps, newest))
    assert pair.replies_to == 80, "and when that has ended, the one that was there all the time"


def test_what_is_past_has_no_replies(lvs: Harness, steps: Steps) -> None:
    """The newest one's time is over, and no sweep has been there: the older one has its replies at once."""
    pair = _Pair(lvs, steps)
    pair.older.asks("A")
    lvs.shift(61)
    assert pair.replies_to == 80


def test_a_reply_side_that_leads_to_another_life(lvs: Harness, steps: Steps) -> None:
    """Its connection has ended, and the slot is another client's now: that one's addresses are looked at first."""
    talk = Talk(lvs, IPV4).serve()
    talk.asks("S")
    other = talk.from_port(1026)
    other.asks("S")
    slots = lvs.instance.slots
    where = places(lvs.instance)
    [back] = [n for n in range(slots.entries) if slots.get(n, "life") & _layout.LIFE_KIND == BACK
              and slots.get(n, "vport") == slots.get(where[address(IPV4.client), 1025], "cport")]  # fmt: skip
    at = back * 64 + 8
    right = slots.memory[at : at + 8]
    slots.memory[at : at + 8] = struct.pack("=Q", 1 + where[address(IPV4.client), 1026])
    assert talk.answers("SA").handed_up
    slots.memory[at : at + 8] = right
    assert talk.answers("SA").forwarded


@pytest.mark.parametrize("family", [IPV4, IPV6], ids=["ipv4", "ipv6"])
def test_the_rest_of_a_connection_is_found_from_it(lvs: Harness, family: Family) -> None:
    talk = Talk(lvs, family).serve()
    for sport, mark in ((1025, 5), (1026, 0), (1027, 7)):
        lvs.from_client(talk.from_port(sport).question("S"), mark=mark)
    assert [talk.from_port(sport).entry.shown.fwmark for sport in (1025, 1026, 1027)] == [5, 0, 7]
    assert books(lvs.instance) == (3, 3)
