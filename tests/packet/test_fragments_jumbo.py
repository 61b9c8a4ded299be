"""Fragments of up to 9000 bytes, on wires that carry such: in order, and out of it."""

from collections.abc import Iterator

import pytest

from support.fragments import balanced, cut, join, serving, traffic
from support.harness import CLIENT, SERVER, Harness, ip
from support.packets import dissect, wrong_sums
from support.talk import IPV4, Family
from support.wires import Wires

MTU = 9000
PAYLOAD = bytes(range(256)) * 120
METHODS = pytest.mark.parametrize("method", ["-m", "-g", "-i"], ids=["nat", "dr", "tun"])


@pytest.fixture
def jumbo(lvs: Harness) -> Iterator[Harness]:
    """Both of the director's interfaces, and what is at their other ends, take packets of 9000 bytes."""
    _take(lvs, MTU)
    yield lvs
    _take(lvs, 1500)


def _take(lvs: Harness, mtu: int) -> None:
    with lvs.among_peers():
        ip(f"link set c0 mtu {mtu}\nlink set r0 mtu {mtu}")
    ip(f"link set d0 mtu {mtu}\nlink set d1 mtu {mtu}")


def _step(family: Family, room: int = MTU) -> int:
    """What fits into one fragment."""
    return (room - (20 if family.version == 4 else 48)) // 8 * 8


def test_the_first_one_comes_last(jumbo: Harness, family: Family) -> None:
    """The others wait, each as long as the wire takes."""
    talk = serving(jumbo, family)
    whole = talk.question(payload=PAYLOAD)
    parts = cut(whole, _step(family))
    assert len(parts) == 4 and max(map(len, parts)) > MTU - 8
    with Wires(jumbo) as wires:
        assert wires.send(CLIENT, parts[:0:-1]) == {"held_fragment": 3}
        assert wires.send(CLIENT, parts[:1]) == {"held_fragment": -3, "forwarded_nat_request": 4}
        came = wires.came(4)
    joined = join(one.packet for one in came)
    assert joined is not None and not wrong_sums(joined)
    assert (dissect(joined).destination, dissect(joined).payload) == ((talk.rs, 8080), PAYLOAD)
    assert balanced(jumbo) == 0
    assert traffic(jumbo)[3] == len(whole)


def test_replies(jumbo: Harness, family: Family) -> None:
    talk = serving(jumbo, family).opens()
    parts = cut(talk.answer(payload=PAYLOAD), _step(family))
    with Wires(jumbo) as wires:
        wires.send(SERVER, [parts[2], parts[0], parts[3], parts[1]])
        joined = join(one.packet for one in wires.came(4) if one.side == CLIENT)
    assert joined is not None and not wrong_sums(joined)
    assert (dissect(joined).source, dissect(joined).payload) == ((family.vip, 80), PAYLOAD)


@METHODS
def test_in_order(jumbo: Harness, family: Family, method: str) -> None:
    talk = serving(jumbo, family, method=method)
    room = MTU - (0 if method != "-i" else 20 if family.version == 4 else 40)
    parts = cut(talk.question(payload=PAYLOAD), _step(family, room))
    inner = slice(None) if method != "-i" else slice(20 if family.version == 4 else 40, None)
    with Wires(jumbo) as wires:
        wires.send(CLIENT, parts)
        joined = join(one.packet[inner] for one in wires.came(len(parts)))
    assert joined is not None and not wrong_sums(joined)
    assert dissect(joined).payload == PAYLOAD


def test_onto_a_wire_that_takes_less(jumbo: Harness) -> None:
    """IPv4: each fragment is cut once more."""
    talk = serving(jumbo, IPV4)
    ip("link set d1 mtu 1500")
    parts = cut(talk.question(payload=PAYLOAD), _step(IPV4))
    with Wires(jumbo) as wires:
        wires.send(CLIENT, parts)
        came = [one.packet for one in wires.came(24)]
    assert max(map(len, came)) <= 1500
    joined = join(came)
    assert joined is not None and not wrong_sums(joined)
    assert (dissect(joined).destination, dissect(joined).payload) == ((talk.rs, 8080), PAYLOAD)
