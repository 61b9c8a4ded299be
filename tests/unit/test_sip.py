"""The Call-ID of a SIP message: by the table of states, and by a plain reading of the same rules (facts 5.5)."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.helpers import sip
from support.recordings import GOLDEN

WORD = rb"[A-Za-z0-9!\"%()*+:<>?\[\\\]_`{}~\-./']"


def plainly(message: bytes) -> bytes | None:
    """As the rules say it, with an eye that may jump to and fro."""
    at = begin = 0
    while True:
        line = _header(message, at)
        if line is None:
            return None
        value = re.compile(rb"(%s+@%s+|%s+(?!@)|)" % (WORD, WORD, WORD)).match(message, line)
        assert value is not None
        text = value[0]
        whole = re.compile(rb"%s+" % WORD).match(message, line)
        if whole and message[whole.end() : whole.end() + 1] == b"@":
            domain = re.compile(rb"%s+" % WORD).match(message, whole.end() + 1)
            text = message[line : domain.end()] if domain else b""
        elif whole:
            text = whole[0]
        if text:
            end = line + len(text)
            return text if len(text) <= 255 and message[end : end + 1] in (b"\r", b"\n") else None
        begin += line
        at = begin


def _header(message: bytes, at: int) -> int | None:
    """Where the next header's value begins."""
    while at < len(message):
        if message[at : at + 1] not in (b"\r", b"\n"):
            at += 1
            continue
        at += 2 if message[at : at + 2] == b"\r\n" else 1
        name = re.compile(rb"call-id|i(?![a-z])", re.IGNORECASE).match(message, at)
        if name is None or (len(name[0]) == 1 and name.end() == len(message)):
            at += 1
            continue
        colon = _skip_blanks(message, name.end())
        if colon is None or message[colon : colon + 1] != b":":
            return None
        value = _skip_blanks(message, colon + 1)
        return value if value is not None and value < len(message) else None
    return None


def _skip_blanks(message: bytes, at: int) -> int | None:
    while message[at : at + 1] in (b" ", b"\t"):
        at += 1
    if message[at : at + 1] not in (b"\r", b"\n"):
        return at
    at += 2 if message[at : at + 2] == b"\r\n" else 1
    if message[at : at + 1] not in (b" ", b"\t"):
        return None
    while message[at : at + 1] in (b" ", b"\t"):
        at += 1
    return at


PIECES = st.sampled_from(
    [b"\r\n", b"\n", b"\r", b" ", b"\t", b"Call-ID", b"call-id", b"CALL-ID", b"Call-I", b"i", b"I", b"in", b":", b"@",
     b"a1", b"x.y", b"-", b";", b"\xe9", b"\0", b"d", b"Via: z", b"INVITE sip:a SIP/2.0"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=24).map(b"".join))
def test_both_read_the_same(message: bytes) -> None:
    assert sip.call_id(message) == plainly(message)


@given(st.binary(max_size=60))
def test_any_bytes(message: bytes) -> None:
    assert sip.call_id(message) == plainly(message)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (b"INVITE sip:a SIP/2.0\r\nCall-ID: abc@example.test\r\n", b"abc@example.test"),
        (b"INVITE sip:a SIP/2.0\ni:abc\n", b"abc"),
        (b"INVITE sip:a SIP/2.0\r\nCALL-ID \t: \r\n  abc\r\n", b"abc"),
        (b"Call-ID: abc\r\n", None),
        (b"x\r\nCall-ID: abc", None),
        (b"x\r\nCall-ID: abc;tag\r\n", None),
        (b"x\r\nCall-ID: abc@\r\nCall-ID: def\r\n", b"def"),
        (b"x\r\n Call-ID: abc\r\n", None),
        (b"x\n\nCall-ID: abc\n", None),
        (b"x\r\n\r\nCall-ID: abc\r\n", b"abc"),
        (b"x\r\nCall-Identity: abc\r\nCall-ID: def\r\n", None),
        (b"x\r\ni: " + b"a" * 255 + b"\r\n", b"a" * 255),
        (b"x\r\ni: " + b"a" * 256 + b"\r\n", None),
    ],
)
def test_messages(message: bytes, call: bytes | None) -> None:
    assert sip.call_id(message) == call


RECORDED = json.loads((GOLDEN / "sip.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", RECORDED, ids=[str(number) for number in range(len(RECORDED))])
def test_what_the_kernel_made_of_it(case: dict[str, str | None]) -> None:
    """Recorded: each message from another client, and then the Call-IDs in /proc/net/ip_vs_conn."""
    assert case["message"] is not None
    call = sip.call_id(case["message"].encode())
    assert (call.decode() if call else None) == case["call_id"]
