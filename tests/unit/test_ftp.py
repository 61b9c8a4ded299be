"""What is said on FTP control connections, read by pylvs.helpers.ftp (facts section 10)."""

import pytest

from pylvs.datapath import ftpports
from pylvs.errors import InvalidValue
from pylvs.helpers.ftp import Announced, Asked, announced, asked, rewritten

LINES: list[tuple[bytes, bool, Asked | None]] = [
    (b"PASV\r\n", False, Asked("PASV")),
    (b"pAsV\r\n", False, Asked("PASV")),
    (b"PASV\r\n", True, None),
    (b"PASV\n", False, None),
    (b"PASV \r\n", False, None),
    (b"NOOP\r\nPASV\r\n", False, Asked("PASV")),
    (b"EPSV\r\n", False, Asked("EPSV")),
    (b"EPSV\r\n", True, Asked("EPSV")),
    (b"EPSV 1\r\n", False, Asked("EPSV")),
    (b"EPSV 1\r\n", True, None),
    (b"EPSV 2\r\n", True, Asked("EPSV")),
    (b"EPSV ALL\r\n", False, None),
    (b"EPSV\n", False, None),
    (b"EPSVX PASV\r\n", False, Asked("PASV")),
    (b"EPSV ALL\r\nPASV\r\n", False, None),
    (b"PORT 10,1,0,1,200,11\r\n", False, Asked("PORT", "10.1.0.1", 51211)),
    (b"PORT 10,1,0,1,200,11\r\n", True, None),
    (b"port    10,1,0,1,0,11\n", False, Asked("PORT", "10.1.0.1", 11)),
    (b"PORT 10,1,0,1,200,11", False, None),
    (b"PORT 10,1,0,1,200,256\r\n", False, None),
    (b"PORT 10,1,0,1,200\r\n", False, None),
    (b"PORT 10,1,0,1,0,0\r\n", False, None),
    (b"PORT x10,1,0,1,200,11\r\n", False, None),
    (b"PORT10,1,0,1,200,11\r\n", False, None),
    (b" PORT 10,1,0,1,200,11\r\n", False, None),
    (b"PORT 10,,0,1,200,11\r\n", False, Asked("PORT", "10.0.0.1", 51211)),
    (b"EPRT |1|10.1.0.1|51211|\r\n", False, Asked("PORT", "10.1.0.1", 51211)),
    (b"EPRT !1!10.1.0.1!51211!", False, Asked("PORT", "10.1.0.1", 51211)),
    (b"EPRT |2|fd00:1::1|51211|\r\n", True, Asked("PORT", "fd00:1::1", 51211)),
    (b"EPRT |2|::1|1|\r\n", True, Asked("PORT", "::1", 1)),
    (b"EPRT |2|fd00::|65535|\r\n", True, Asked("PORT", "fd00::", 65535)),
    (b"EPRT |2|fd00::|65536|\r\n", True, None),
    (b"EPRT |2|::10.1.0.1|51211|\r\n", True, None),
    (b"EPRT |1|10.1.0.1|51211|\r\n", True, None),
    (b"EPRT |2|fd00:1::1|51211|\r\n", False, None),
    (b"EPRT |1|10.1.0.256|51211|\r\n", False, None),
    (b"EPRT |1|10.1.0|51211|\r\n", False, None),
    (b"EPRT |1|10.1.0.1|0|\r\n", False, None),
    (b"EPRT |1|10.1.0.1|51211\r\n", False, None),
    (b"EPRT |||51211|\r\n", False, None),
    (b"EPRT  1 10.1.0.1 51211 \r\n", False, None),
    (b"", False, None),
    (b"\xff" * 40, False, None),
]


@pytest.mark.parametrize(("payload", "six", "wanted"), LINES, ids=lambda value: repr(value)[:40])
def test_what_a_client_asks_for(payload: bytes, six: bool, wanted: Asked | None) -> None:
    assert asked(payload, six) == wanted


@pytest.mark.parametrize(
    ("payload", "mode", "six", "wanted"),
    [
        (b"227 Entering Passive Mode (10,2,0,1,200,10).\r\n", "PASV", False, (51210, 27, 42)),
        (b"227 =10,2,0,1,200,10\r\n", "PASV", False, (51210, 5, 20)),
        (b"227 Mode 2 (10,2,0,1,200,10)\r\n", "PASV", False, None),
        (b"227 ((10,2,0,1,200,10)", "PASV", False, (51210, 6, 21)),
        (b"227 (10,2,0,1,200,10", "PASV", False, None),
        (b"227-(10,2,0,1,200,10)\r\n", "PASV", False, None),
        (b"227 (a10,2,0,1,200,10)\r\n", "PASV", False, None),
        (b"229 (|||51210|)\r\n", "EPSV", False, (51210, 5, 14)),
        (b"229 Fine |||51210|\r\n", "EPSV", False, None),
        (b"229 Fine ((|||51210|", "EPSV", True, (51210, 11, 20)),
        (b"229 (|1|10.2.0.1|51210|)\r\n", "EPSV", False, (51210, 5, 23)),
        (b"229 (|2|fd00:2::1|51210|)\r\n", "EPSV", False, None),
        (b"229 (|2|fd00:2::1|51210|)\r\n", "EPSV", True, (51210, 5, 24)),
        (b"229 (||10.2.0.1|51210|)\r\n", "EPSV", False, None),
        (b"227 (10,2,0,1,200,10)\r\n", "EPSV", False, None),
        (b"", "EPSV", False, None),
    ],
)
def test_what_a_real_server_announces(
    payload: bytes, mode: str, six: bool, wanted: tuple[int, int, int] | None
) -> None:
    assert announced(payload, mode, six) == (Announced(*wanted) if wanted else None)


def test_the_vips_answer() -> None:
    text = b"227 Entering Passive Mode (10,2,0,1,200,10).\r\n"
    found = announced(text, "PASV")
    assert found
    assert rewritten(text, found, "PASV", "192.0.2.1") == b"227 Entering Passive Mode (192,0,2,1,200,10).\r\n"
    text = b"229 go (|1|10.2.0.1|51210|)\r\n"
    found = announced(text, "EPSV")
    assert found
    assert rewritten(text, found, "EPSV", "192.0.2.1") == b"229 go (|||51210|)\r\n"


def test_ports() -> None:
    assert ftpports.checked([21, 2121, 21]) == (21, 2121)
    assert ftpports.checked([]) == ()
    for wrong, words in ([0], "port 0"), ([21, 65536], "65536"), (range(1, 10), "at most 8 ports"):
        with pytest.raises(InvalidValue, match=words):
            ftpports.checked(wrong)
