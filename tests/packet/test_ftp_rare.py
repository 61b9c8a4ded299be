"""FTP's control connections in packets that are rarely seen: in fragments, merged, urgent, without a link header (facts
section 10).
"""

import struct

import pytest

from support.books import books
from support.fragments import balanced, cut, join
from support.ftp import Control, listed, numbers
from support.harness import CLIENT, SERVER, Harness, Result
from support.packets import TCP, Packet, dissect, ip, tcp, wrong_sums
from support.talk import IPV4, Family
from support.tuns import Tun
from support.wires import Wires

PASV = b"227 Entering Passive Mode (10,2,0,1,200,10).\r\n"
LONGER = b"227 Entering Passive Mode (10,99,0,1,200,10).\r\n"
EPSV = b"229 Entering Extended Passive Mode (|||51210|)\r\n"
LINES = b"".join(b"211-%03d lines of help\r\n" % number for number in range(50))


def _asked(control: Control, payload: bytes, flags: str = "P") -> bytes:
    """The client's next packet."""
    segment = tcp(control.sport, 21, flags, payload=payload, seq=control.asked, ack=control.heard)
    return ip(control.family.client, control.family.vip, TCP, segment)


def _answered(control: Control, payload: bytes, flags: str = "P", df: bool = False) -> bytes:
    """The real server's next packet."""
    segment = tcp(21, control.sport, flags, payload=payload, seq=control.answered, ack=control.asked)
    return ip(control.server, control.family.client, TCP, segment, df=df)


def _numbers(packet: Packet) -> tuple[int, int]:
    return struct.unpack_from("!II", packet.segment, 4)  # type: ignore[return-value]


def _together(results: list[Result]) -> bytes:
    joined = join(result.packet.raw for result in results)
    assert joined is not None and not wrong_sums(joined)
    return joined


@pytest.fixture
def control(either: Harness, family: Family) -> Control:
    return Control(either, family).serve().opens()


@pytest.fixture
def shifted(either: Harness) -> Control:
    """The client has heard a byte more than the real server has said."""
    control = Control(either, IPV4).serve().opens()
    control.says(b"PASV\r\n")
    assert control.hears(PASV) == LONGER
    return control


# ---- fragments -------------------------------------------------------------------------------------------------------


def test_what_is_said_in_fragments(control: Control) -> None:
    """Both sides get all of it; and the helper, which has not seen it in one piece, knows of nothing."""
    lvs = control.lvs
    for payload in (LINES, b"PASV\r\n" * 100):
        came = [lvs.from_client(part) for part in cut(_asked(control, payload), 400)]
        assert {result.reason for result in came} == {"forwarded_nat_request"} and len(came) > 1
        assert dissect(_together(came)).payload == payload
        control.asked += len(payload)
        came = [lvs.from_server(part) for part in cut(_answered(control, payload), 400)]
        assert {result.reason for result in came} == {"forwarded_nat_reply"} and len(came) > 1
        assert dissect(_together(came)).payload == payload
        control.answered += len(payload)
        control.heard += len(payload)
    assert not control.expected
    assert control.hears(EPSV) == EPSV and not control.expected
    control.says(b"EPSV\r\n")
    control.hears(EPSV)
    assert control.expected
    assert balanced(lvs) == 0
    books(lvs.instance)


def test_fragments_of_what_is_shifted(shifted: Control) -> None:
    came = [shifted.lvs.from_server(part) for part in cut(_answered(shifted, LINES), 400)]
    after = _together(came)
    assert dissect(after).payload == LINES
    assert _numbers(dissect(after))[0] == shifted.heard
    shifted.answered += len(LINES)
    shifted.heard += len(LINES)
    came = [shifted.lvs.from_client(part) for part in cut(_asked(shifted, LINES), 400)]
    after = _together(came)
    assert dissect(after).payload == LINES
    assert _numbers(dissect(after))[1] == shifted.answered


def test_fragments_in_any_order(lvs: Harness, family: Family) -> None:
    control = Control(lvs, family).serve().opens()
    parts = cut(_asked(control, LINES), 400)
    with Wires(control.lvs) as wires:
        assert wires.send(CLIENT, parts[:0:-1]) == {"held_fragment": len(parts) - 1}
        wires.send(CLIENT, parts[:1])
        came = wires.came(len(parts))
    joined = join(one.packet for one in came)
    assert joined is not None and not wrong_sums(joined)
    assert dissect(joined).payload == LINES and {one.side for one in came} == {SERVER}


def test_a_first_packet_for_data_in_fragments(control: Control) -> None:
    """It takes what waits for it, like any other."""
    control.says(b"EPSV\r\n")
    control.hears(EPSV)
    whole = ip(control.family.client, control.family.vip, TCP, tcp(5000, 51210, "P", payload=LINES))
    came = [control.lvs.from_client(part) for part in cut(whole, 400)]
    assert dissect(_together(came)).destination == (control.server, 51210)
    assert listed(control, 5000).daddr == control.server
    books(control.lvs.instance)


# ---- merged ----------------------------------------------------------------------------------------------------------


def test_merged(shifted: Control) -> None:
    """Segments that a network card, or the sender's machine, has not told apart: an answer is what they begin with."""
    lvs = shifted.lvs
    for said, heard in ((LINES + PASV, LINES + PASV), (PASV + LINES, LONGER + LINES)):
        shifted.says(b"PASV\r\n")
        result = lvs.from_server(_answered(shifted, said), gso_size=536, gso_segs=3)
        assert result.reason == "forwarded_nat_reply"
        assert numbers(result) == (shifted.heard, shifted.asked)
        assert (result.packet.payload, wrong_sums(result.packet.raw)) == (heard, [])
        shifted.answered += len(said)
        shifted.heard += len(heard)
    result = lvs.from_client(_asked(shifted, LINES), gso_size=536, gso_segs=3)
    assert (result.packet.payload, numbers(result)) == (LINES, (shifted.asked, shifted.answered))


def test_merged_and_longer_than_the_path_takes(shifted: Control) -> None:
    """What becomes longer is one segment then, and too long: the real server sends it again, and shorter."""
    shifted.says(b"PASV\r\n")
    merged = _answered(shifted, PASV + LINES + LINES[:700], df=True)
    result = shifted.lvs.from_server(merged, gso_size=1000, gso_segs=2)
    assert result.reason in ("dropped_by_helper", "sent_failed")
    assert shifted.hears(PASV) == LONGER


# ---- urgent ----------------------------------------------------------------------------------------------------------


def test_urgent(shifted: Control) -> None:
    """ABOR, as it is meant to be sent: the urgent byte stays where it is."""
    said = b"\xff\xf4\xff\xf2ABOR\r\n"
    segment = tcp(shifted.sport, 21, 0x38, payload=said, seq=shifted.asked, ack=shifted.heard)
    segment = segment[:18] + b"\0\4" + segment[20:]
    result = shifted.lvs.from_client(ip(IPV4.client, IPV4.vip, TCP, segment))
    assert result.forwarded and not wrong_sums(result.packet.raw)
    assert result.packet.segment[18:20] == b"\0\4"
    assert numbers(result) == (shifted.asked, shifted.answered)


# ---- without a link header -------------------------------------------------------------------------------------------


def test_from_tun_to_tun(tuns: tuple[Harness, Tun, Tun], family: Family) -> None:
    """Answers that change, what is shifted then, and both kinds of connections for data."""
    lvs, client, server = tuns
    control = Control(lvs, family).serve()
    control.server = family.server

    def asks(payload: bytes = b"", flags: str = "P") -> Packet:
        client.comes(_asked(control, payload, flags))
        got = server.gets()
        assert (got.dst, wrong_sums(got.raw)) == (control.server, [])
        assert _numbers(got) == (control.asked, control.answered)
        control.asked += len(payload) + (flags == "S")
        return got

    def answers(payload: bytes = b"", flags: str = "P") -> Packet:
        server.comes(_answered(control, payload, flags))
        got = client.gets()
        assert (got.src, wrong_sums(got.raw)) == (family.vip, [])
        assert _numbers(got) == (control.heard, control.asked)
        control.answered += len(payload) + (flags == "SA")
        control.heard += len(got.payload) + (flags == "SA")
        return got

    asks(flags="S")
    answers(flags="SA")
    asks(flags="A")
    said, heard = (PASV, LONGER) if family is IPV4 else (EPSV.replace(b"|||", b"|2|fd00:2::1|"), EPSV)
    asks(b"PASV\r\n" if family is IPV4 else b"EPSV\r\n")
    assert answers(said).payload == heard
    asks(b"NOOP\r\n")
    answers(LINES)
    client.comes(ip(family.client, family.vip, TCP, tcp(5000, 51210, "S")))
    assert server.gets().destination == (control.server, 51210)
    asks(b"PORT 10,1,0,1,200,11\r\n" if family is IPV4 else b"EPRT |2|fd00:1::1|51211|\r\n")
    server.comes(ip(control.server, family.client, TCP, tcp(20, 51211, "S")))
    assert client.gets().source == (family.vip, 20)
    books(lvs.instance)
