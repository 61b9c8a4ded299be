"""Sequence numbers of an FTP control connection whose answers become longer or shorter (facts section 10)."""

import struct

import pytest

from support.books import books
from support.ftp import Control, numbers
from support.harness import SERVER, Harness, Result, frame
from support.packets import TCP, ip, tcp
from support.talk import IPV4, IPV6

WORD = 1 << 32
PASV = b"227 Entering Passive Mode (%s).\r\n"
# what a real server says, and what the client hears of it
LONGER = PASV % b"10,2,0,1,200,10", PASV % b"10,99,0,1,200,10"
SHORTER = PASV % b"010,002,000,001,200,010", PASV % b"10,99,0,1,200,10"
SAME = PASV % b"10,2,10,1,200,10", PASV % b"10,99,0,1,200,10"


@pytest.fixture(params=[5000, WORD - 120, WORD - 20], ids=["", "wraps later", "wraps soon"])
def control(lvs: Harness, request: pytest.FixtureRequest) -> Control:
    """The numbers of the real server may come to their end anywhere."""
    return Control(lvs, IPV4, answered=request.param, heard=request.param).serve().opens()


def asks_and_hears(control: Control, both: tuple[bytes, bytes]) -> None:
    control.says(b"PASV\r\n")
    assert control.hears(both[0]) == both[1]


def test_one_after_another(control: Control) -> None:
    """Each packet continues what its receiver has; `hears` and `says` see to that."""
    for number, both in enumerate((LONGER, SAME, SHORTER, LONGER, LONGER, SHORTER, SHORTER, SAME)):
        asks_and_hears(control, both)
        control.hears(b"150 data number %d\r\n" % number)
        control.says(b"NOOP\r\n")
        control.hears(b"226 done\r\n")
    books(control.lvs.instance)


def test_many(lvs: Harness) -> None:
    """A long evening with one control connection."""
    control = Control(lvs, IPV4, answered=WORD - 5000, heard=WORD - 5000).serve().opens()
    for _ in range(150):
        asks_and_hears(control, LONGER)
    assert control.heard - control.answered == 150


@pytest.mark.parametrize("both", [LONGER, SHORTER, SAME], ids=["longer", "shorter", "same"])
def test_what_is_sent_again(control: Control, both: tuple[bytes, bytes]) -> None:
    """The same bytes, as often as the real server sends them, and also later, when more has been said."""
    greeting = control.answered
    control.hears(b"331 who are you\r\n")
    control.says(b"PASV\r\n")
    seq = control.answered
    first = control.answers("P", both[0])
    assert first.packet.payload == both[1]
    again = control.answers("P", both[0])
    assert again.frame[14:] == first.frame[14:]
    control.hears(both[0])
    control.hears(b"150 here it comes\r\n")
    later = control.answers("P", both[0], seq=seq)
    assert later.frame[14:] == first.frame[14:]
    before = control.answers("P", b"331 who are you\r\n", seq=greeting)
    assert (numbers(before)[0], before.packet.payload) == (greeting % WORD, b"331 who are you\r\n")
    # two that have grown together, as they do when they are sent again
    merged = control.answers("P", b"331 who are you\r\n" + both[0], seq=greeting)
    assert (numbers(merged)[0], merged.packet.payload) == (greeting % WORD, b"331 who are you\r\n" + both[1])
    control.says(b"NOOP\r\n")
    control.hears(b"200 so what\r\n")
    books(control.lvs.instance)


def test_sent_again_before_the_next_one(control: Control) -> None:
    """The shift before the last answer is remembered, too."""
    asks_and_hears(control, LONGER)
    seq, heard = control.answered, control.heard
    control.hears(b"150 here it comes\r\n")
    control.says(b"PASV\r\n")
    assert control.answers("P", SHORTER[0]).packet.payload == SHORTER[1]
    again = control.answers("P", b"150 here it comes\r\n", seq=seq)
    assert numbers(again)[0] == heard % WORD
    control.hears(SHORTER[0])


def test_a_new_question_while_the_answer_is_sent_again(control: Control) -> None:
    control.says(b"PASV\r\n")
    seq = control.answered
    first = control.answers("P", LONGER[0])
    control.hears(LONGER[0])
    control.says(b"PASV\r\n")
    assert control.answers("P", LONGER[0], seq=seq).packet.payload == first.packet.payload
    assert control.hears(SHORTER[0]) == SHORTER[1], "and the new one has its own answer"


def _edges(result: Result) -> list[int]:
    options = result.packet.segment[20 : (result.packet.segment[12] >> 4) * 4]
    at = options.index(b"\x05")
    return list(struct.unpack_from(f"!{(options[at + 1] - 2) // 4}I", options, at + 2))


@pytest.mark.parametrize("padding", [b"\1\1", b"\1", b"", b"\1\1\x08\x0a" + bytes(8) + b"\1\1"])
@pytest.mark.parametrize("both", [LONGER, SHORTER], ids=["longer", "shorter"])
def test_selective_acknowledgements(control: Control, both: tuple[bytes, bytes], padding: bytes) -> None:
    """A client that misses the answer, and has what comes after it: edges are numbers, wherever they stand."""
    asks_and_hears(control, both)
    blocks = [(0, 10), (20, 30), (40, 50)][: 3 if len(padding) < 9 else 2]
    heard = [(control.heard + edge) % WORD for block in blocks for edge in block]
    options = padding + b"\x05" + bytes([2 + 4 * len(heard)]) + struct.pack(f"!{len(heard)}I", *heard)
    result = control.asks(options=options)
    assert _edges(result) == [(control.answered + edge) % WORD for block in blocks for edge in block]


@pytest.mark.parametrize(
    "options",
    [b"\x05", b"\x05\x00", b"\x05\x01\1\1", b"\x05\x22", b"\x05\x0a\0\0", b"\x03\xff", b"\0\x05\x0a" + bytes(8)],
)
def test_options_that_make_no_sense(control: Control, options: bytes) -> None:
    asks_and_hears(control, LONGER)
    result = control.asks(options=options)
    assert result.packet.segment[20 : 20 + len(options)] == options, "they stay as they are"
    assert numbers(result) == (control.asked % WORD, control.answered % WORD)


def test_epsv_over_ipv6(lvs: Harness) -> None:
    control = Control(lvs, IPV6, answered=WORD - 100, heard=WORD - 100).serve().opens()
    for form in (b"|2|fd00:2::1|51210|", b"|||00051210|", b"!!!51210!"):
        control.says(b"EPSV\r\n")
        assert control.hears(b"229 go (" + form + b")\r\n") == b"229 go (|||51210|)\r\n"
        control.says(b"NOOP\r\n")
    books(lvs.instance)


@pytest.mark.parametrize("rest", [0, 1, 500, 1200, 1400])
def test_whatever_follows_is_moved(lvs: Harness, rest: int) -> None:
    control = Control(lvs, IPV4).serve().opens()
    for said, heard in (LONGER, SHORTER):
        tail = bytes(number % 251 for number in range(rest))
        control.says(b"PASV\r\n")
        assert control.hears(said + tail) == heard + tail


def test_longer_than_the_path_takes(lvs: Harness) -> None:
    """Not sent in pieces: the real server sends less when it sends it again."""
    control = Control(lvs, IPV4).serve().opens()
    control.says(b"PASV\r\n")
    full = tcp(
        21,
        control.sport,
        "P",
        payload=LONGER[0] + bytes(1460 - len(LONGER[0])),
        seq=control.answered,
        ack=control.asked,
    )
    assert lvs.from_server(ip(control.server, IPV4.client, TCP, full, df=True)).dropped
    assert control.hears(LONGER[0]) == LONGER[1]
    books(lvs.instance)


def test_shorter_than_can_be(lvs: Harness) -> None:
    """An address padded with a hundred zeros is left alone."""
    control = Control(lvs, IPV4).serve().opens()
    control.says(b"PASV\r\n")
    for zeros, heard in ((50, None), (49, LONGER[1]), (100, None)):
        wide = PASV % (b"0" * zeros + b"10,2,0,1,200,10")
        assert control.hears(wide) == (heard or wide)
        control.says(b"PASV\r\n")


def test_a_reply_that_is_handed_up_is_as_it_came(lvs: Harness) -> None:
    """`send` looks at that."""
    control = Control(lvs, IPV4).serve().opens()
    control.says(b"PASV\r\n")
    segment = tcp(21, control.sport, "P", payload=LONGER[0], seq=control.answered, ack=control.asked)
    assert lvs.from_server(ip(control.server, IPV4.client, TCP, segment, ttl=1)).reason == "up_reply_ttl"
    assert control.hears(LONGER[0]) == LONGER[1]


def test_padding_of_a_short_frame(lvs: Harness) -> None:
    """What stands behind the IP packet on an Ethernet frame is not part of it."""
    control = Control(lvs, IPV4).serve().opens()
    for said, heard in (LONGER, SHORTER):
        control.says(b"PASV\r\n")
        segment = tcp(21, control.sport, "P", payload=said, seq=control.answered, ack=control.asked)
        result = lvs.send(frame(ip(control.server, IPV4.client, TCP, segment), SERVER) + b"\xff" * 9, SERVER)
        assert result.packet.payload == heard
        control.hears(said)
