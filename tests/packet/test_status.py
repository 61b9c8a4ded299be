"""`pylvs status`: what it says of the connection table, and that Python computes its hash as the packet path does."""

import json
from collections import Counter

import pytest

from pylvs.cli import status
from pylvs.datapath import _layout
from pylvs.datapath.layout import CONN
from pylvs.datapath.table import GROUP_SLOTS, Hash, probes, usage, word_lengths
from support.harness import Harness, frame
from support.packets import UDP
from support.talk import IPV4, IPV6, Talk


def _fill(lvs: Harness, count: int) -> None:
    """So many slots of the 4096: of both families, of one side and of both. UDP: none of them gives way."""
    for family in (IPV4, IPV6):
        nat = Talk(lvs, family, UDP, port=53).serve(3)
        direct = Talk(lvs, family, UDP, port=443, rport=443).serve(2, "-g")
        sports = range(10_000, 10_000 + count // 6)
        lvs.pour(frame(talk.from_port(sport).question()) for talk in (nat, direct) for sport in sports)


def _run(capsys: pytest.CaptureFixture[str], words: str = "") -> str:
    capsys.readouterr()
    assert status.main(words.split()) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("slots", [600, 3600])
def test_everything_lies_where_python_says(lvs: Harness, slots: int) -> None:
    """Its group or the other one, and under its tag, however full the table is."""
    _fill(lvs, slots)
    own, where, spilled = Hash(lvs.instance), 0, 0
    astray: Counter[tuple[int, int]] = Counter()
    for place, spot in own.spots(lvs.instance.slots.memory[:]):
        assert place // GROUP_SLOTS in (spot.group, spot.other)
        assert spot.group != spot.other
        assert lvs.instance.tags.memory[place] == spot.tag
        where += 1
        spilled += place // GROUP_SLOTS != spot.group
        home = spot.group * GROUP_SLOTS + spot.place
        astray[spot.group, spot.place // 8] += place // 8 != home // 8
    assert where == slots
    for group in range(lvs.instance.groups.entries):
        counts = lvs.instance.groups.get(group, "astray").to_bytes(8, "little")
        assert list(counts) == [astray[group, word] for word in range(8)], "who is not where looking begins"
    assert usage(lvs.instance).spilled == spilled
    assert spilled == 0 if slots == 600 else spilled > 0


def test_the_hash_is_this_directors_own(lvs: Harness) -> None:
    """With other seeds, everything would lie elsewhere: the test above tells them apart."""
    _fill(lvs, 600)
    seeds = lvs.instance.config.get(0, "seeds")
    lvs.configure(seeds=tuple(seed ^ 1 << 40 for seed in seeds))
    assert probes(lvs.instance).lost > 300


def test_usage_is_what_is_there(lvs: Harness) -> None:
    _fill(lvs, 3000)
    lvs.director.flush()
    lvs.ipvsadm("-A -t 10.99.0.1:80 -s rr", "-a -t 10.99.0.1:80 -r 10.2.0.1:80 -g")
    talk = Talk(lvs, IPV4, rport=80)
    for sport in (2000, 2001, 2002):
        talk.from_port(sport).asks("S")
    found = usage(lvs.instance)
    tags = lvs.instance.tags.memory[:]
    assert found.used == 3003 == len(tags) - tags.count(_layout.TAG_FREE)
    assert found.connections == 2003
    assert (found.slots, found.size) == (4096, 4096 * 65 + 64 * 16)
    assert sum(found.fill) == 64
    by_hand = [GROUP_SLOTS - tags[at : at + GROUP_SLOTS].count(0) for at in range(0, 4096, GROUP_SLOTS)]
    assert found.fill == [by_hand.count(number) for number in range(GROUP_SLOTS + 1)]
    words = [8 - tags[at : at + 8].count(0) for at in range(0, 4096, 8)]
    assert word_lengths(lvs.instance) == [words.count(number) for number in range(9)]


def test_probes(lvs: Harness) -> None:
    _fill(lvs, 3600)
    whole = probes(lvs.instance)
    assert whole.groups == (64, 64)
    assert (sum(whole.found), whole.lost) == (3600, 0)
    assert sum(whole.found[8:]) == usage(lvs.instance).spilled
    assert whole.found[0] == max(whole.found)
    some = probes(lvs.instance, 16)
    assert some.groups == (16, 64)
    held = [number for number, record in enumerate(CONN.iterate(lvs.instance.slots.memory[:]))
            if record[0] & _layout.LIFE_KIND and number // GROUP_SLOTS % 4 == 0]  # fmt: skip
    assert sum(some.found) == len(held)


def test_what_it_says(lvs: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    _fill(lvs, 600)
    text = _run(capsys)
    assert "connections   400; so far 0 refused for want of room, 0 half-open ones gave way\n" in text
    assert "table         4096 slots (2^12, 0.3 MB), 600 used (14.6 %)\n" in text
    assert "fill          of 64 groups of 64 slots, how many have how many used:\n" in text
    assert "by all groups\n" in text
    assert "nearly full" not in text and "changed while" not in text


def test_an_empty_table(lvs: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    text = _run(capsys)
    assert "4096 slots (2^12, 0.3 MB), 0 used (0.0 %)" in text
    assert "\n                  0        64  100.0 %  ########################################\n" in text
    assert "lookups" not in text
    assert _run(capsys, "--proc") == "Conns:\t0\nConn buckets:\t512 (9 bits)\nServices:\t0\n"


def test_a_table_that_gets_full(lvs: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    _fill(lvs, 3270)
    assert "nearly full" not in _run(capsys), "79.8 %"
    for sport in range(4):
        Talk(lvs, IPV4, UDP, sport=9 + sport, port=53).asks()
    assert "\n              nearly full: pylvs load --conn-tab-bits 13 makes it twice as large\n" in _run(capsys)


def test_refusals_and_who_gave_way(lvs: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    talk = Talk(lvs, IPV4, rport=80).serve(1, "-g")
    lvs.pour(frame(talk.from_port(sport).question("S")) for sport in range(10_000, 14_500))
    reasons, gave_way = lvs.reasons(), lvs.instance.runtime.get(0, "gave_way")
    assert gave_way > 0
    assert f"so far {reasons['dropped_table_full']} refused for want of room, {gave_way} half-open" in _run(capsys)
    lvs.pour(frame(talk.from_port(sport).question("A")) for sport in range(10_000, 14_500))
    lvs.pour(frame(talk.from_port(sport).question("S")) for sport in range(15_000, 15_500))
    refused, gave_way = lvs.reasons()["dropped_table_full"], lvs.instance.runtime.get(0, "gave_way")
    assert refused > 0
    assert f"so far {refused} refused for want of room, {gave_way} half-open" in _run(capsys)


def test_all_numbers(lvs: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    _fill(lvs, 600)
    said = json.loads(_run(capsys, "--json"))
    table = said["table"]
    assert (table["slots"], table["bits"], table["used"], table["connections"]) == (4096, 12, 600, 400)
    assert sum(number * groups for number, groups in enumerate(table["groups_by_used_slots"])) == 600
    assert sum(table["slots_by_lookup_words"]) == 600 and table["slots_not_found"] == 0
    assert said["packets"] == lvs.reasons()
    assert said["attached"].keys() == {"lo", "d0", "d1"}
    assert (said["services"], said["real_servers"], said["max_services"]) == (4, 10, 64)


def test_the_kernels_lines(lvs: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    _fill(lvs, 600)
    lines = _run(capsys, "--proc").splitlines()
    assert lines[:2] == ["Conns:\t400", "Conn buckets:\t512 (9 bits)"]
    assert lines[-1] == "Services:\t4"
    lengths = word_lengths(lvs.instance)
    assert lines[2] == f"Conn buckets empty:\t{lengths[0]} ({100 * lengths[0] // 512}%)"
    shown = {int(line.split(":")[0][-1]): int(line.split()[3]) for line in lines[3:-1]}
    assert shown == {
        length: number for length in range(1, 8)
        if (number := lengths[length] if length < 7 else sum(lengths[7:]))
    }  # fmt: skip
    assert sum(shown.values()) == 512 - lengths[0]
