"""Weighted round robin after the heaviest real server has gone, was quiesced, or has got far less to do.

An old sorrow of LVS (its HOWTO tells it of 2004): of two real servers with weights 100 and 1000 the second one was
deleted, and from then on every client was refused, since the current weight was still the departed one's. Here the next
connection has somebody, and the next cycles are right.
"""

from collections import Counter

import pytest

from support.harness import Harness
from support.talk import IPV4, Talk

HEAVY, LIGHT, LIGHTER = IPV4.servers[:3]


@pytest.mark.parametrize("before", range(13))
def test_the_howtos_case(lvs: Harness, before: int) -> None:
    talk = Talk(lvs, IPV4)
    lvs.ipvsadm(f"-A {talk.key} -s wrr")
    talk.add(LIGHT, weight=100)
    talk.add(HEAVY, weight=1000)
    for port in range(2000, 2000 + before):
        talk.from_port(port).opens()
    talk.delete(HEAVY)
    assert {talk.from_port(port).opens().rs for port in range(3000, 3005)} == {LIGHT}


@pytest.mark.parametrize("before", range(8))
@pytest.mark.parametrize("change", ["deleted", "quiesced", "lightened"])
def test_wrr_heaviest_deleted(lvs: Harness, change: str, before: int) -> None:
    talk = Talk(lvs, IPV4)
    lvs.ipvsadm(f"-A {talk.key} -s wrr")
    for server, weight in ((HEAVY, 1000), (LIGHT, 2), (LIGHTER, 1)):
        talk.add(server, weight=weight)
    for port in range(2000, 2000 + before):
        talk.from_port(port).opens()
    if change == "deleted":
        talk.delete(HEAVY)
    else:
        talk.weigh(HEAVY, 0 if change == "quiesced" else 3)
    wanted = {LIGHT: 2, LIGHTER: 1} | ({HEAVY: 3} if change == "lightened" else {})
    cycle = sum(wanted.values())
    picks = [talk.from_port(port).opens().rs for port in range(3000, 3000 + 4 * cycle)]
    # the cycle that was under way may end first; from then on every one is right
    whole = next(i for i in range(cycle + 1) if Counter(picks[i : i + cycle]) == wanted)
    for start in range(whole, len(picks) - cycle + 1, cycle):
        assert Counter(picks[start : start + cycle]) == wanted
