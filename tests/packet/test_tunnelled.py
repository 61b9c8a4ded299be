"""ignore_tunneled: what comes out of a tunnel on the director was sent to this very machine, and is left alone if that
is what the switch says (facts 6.2). What the interfaces' kinds are is asked in test_linkless.py."""

from typing import Any

import pytest

from pylvs.datapath.instance import entrance
from pylvs.datapath.netlink import Interface
from support.fragments import cut
from support.harness import CLIENT, SERVER, Harness, Result, frame
from support.packets import UDP, icmp_error
from support.talk import IPV4, Family, Talk

ENTRANCE = "tunnelled"


def _out(lvs: Harness, packet: bytes, interface: str = CLIENT, **context: Any) -> Result:
    """Let a packet come out of a tunnel."""
    return lvs.send(frame(packet, interface), interface, program=ENTRANCE, **context)


@pytest.mark.parametrize("method", ["-m", "-g", "-i"])
def test_it_is_balanced_or_not(lvs: Harness, family: Family, protocol: int, method: str) -> None:
    talk = Talk(lvs, family, protocol, rport=80).serve(method=method)
    question = talk.question("S")
    lvs.set(ignore_tunneled=1)
    assert _out(lvs, question).reason == "up_tunnelled"
    assert talk.entry is None
    lvs.set(ignore_tunneled=0)
    assert _out(lvs, question).forwarded
    lvs.set(ignore_tunneled=-1)
    assert _out(lvs, talk.question("A")).reason == "up_tunnelled", "though it has a connection by now"
    assert lvs.from_client(talk.question("A")).forwarded, "whoever comes without a tunnel goes on"


def test_it_is_all_that_comes_by_that_way(lvs: Harness, family: Family) -> None:
    """Replies, errors, fragments: whatever it is, the stack gets it."""
    talk = Talk(lvs, family, UDP).serve().opens()
    lvs.set(ignore_tunneled=1)
    assert _out(lvs, talk.answer(), SERVER).reason == "up_tunnelled"
    saw = lvs.from_client(talk.question()).frame[14:]
    kind = (3, 1) if family is IPV4 else (1, 3)
    assert _out(lvs, icmp_error(talk.rs, family.client, kind, saw), SERVER).reason == "up_tunnelled"
    for part in cut(talk.question(payload=bytes(3000)), 1000, 7):
        assert _out(lvs, part).reason == "up_tunnelled"


def test_by_which_interfaces() -> None:
    named = {number: entrance(Interface(7, "x", number)) for number in (1, 772, 0xFFFE, 512, 519)}
    assert named == {1: "ingress", 772: "ingress", **dict.fromkeys((0xFFFE, 512, 519), "ingress_linkless")}
    for tunnel in (768, 769, 776, 778, 823):
        assert entrance(Interface(7, "x", tunnel)) == "tunnelled_linkless"
