"""pylvs ftp-ports: where the FTP helper reads along (facts section 10)."""

import sys
from collections.abc import Callable

import pytest

from pylvs import proc
from pylvs.cli import main
from pylvs.datapath import ftpports
from pylvs.selections import Selection
from support.books import books
from support.ftp import Control
from support.harness import Harness
from support.talk import IPV4

Command = Callable[..., tuple[int, str]]
EPSV = b"229 go (|||%d|)\r\n"


@pytest.fixture
def pylvs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["pylvs", "ftp-ports", *words])
        try:
            code = main()
        except SystemExit as error:  # argparse's own
            code = int(str(error.code))
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def helped(control: Control) -> bool:
    before = control.lvs.instance.runtime.get(0, "awaiting")
    control.says(b"EPSV\r\n")
    control.hears(EPSV % control.sport)
    return bool(control.lvs.instance.runtime.get(0, "awaiting") > before)


def test_shown_and_set(lvs: Harness, pylvs: Command) -> None:
    assert pylvs() == (0, "21\n")
    assert pylvs("21", "2121", "21") == (0, "")
    assert pylvs() == (0, "21 2121\n")
    assert pylvs("none") == (0, "")
    assert pylvs() == (0, "none\n")
    assert pylvs("default") == (0, "")
    assert lvs.director.ftp_ports() == (21,)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["0"], "port 0; it may be 1 to 65535"),
        (["65536"], "port 65536"),
        (["ftp"], "'ftp' is no port"),
        (["21", "none"], "'none' is no port"),
        (["-1"], ""),
        ([str(port) for port in range(1, 10)], "at most 8 ports, as the kernel's; 9 are given"),
    ],
)
def test_refused(lvs: Harness, pylvs: Command, words: list[str], said: str) -> None:
    code, text = pylvs(*words)
    assert code == 2 and said in text
    assert lvs.director.ftp_ports() == (21,)


def test_new_connections_follow(lvs: Harness) -> None:
    """From the next one on; what there is keeps what it had, and is put right to its end."""
    before = Control(lvs, IPV4).serve().opens()
    other = Control(lvs, IPV4, sport=1030, port=2121).serve().opens()
    lvs.director.set_ftp_ports([2121])
    assert helped(before) and not helped(other)
    lvs.director.flush_connections(Selection())
    lvs.director.flush_connections(Selection())
    assert not helped(Control(lvs, IPV4, sport=1026).opens())
    assert helped(Control(lvs, IPV4, sport=1027, port=2121).opens())
    assert b"".join(proc.lines(lvs.director, "net/ip_vs_app")).split() == (
        b"prot port usecnt nameTCP 2121 1 ftp".split()
    )
    books(lvs.instance)


def test_all_eight(lvs: Harness) -> None:
    ports = [21, *range(7001, 7008)]
    lvs.director.set_ftp_ports(ports)
    assert len(lvs.director.ftp_ports()) == ftpports.MOST
    for port in (21, 7001, 7007):
        assert helped(Control(lvs, IPV4, port=port).serve().opens())
        lvs.director.flush_connections(Selection())
        lvs.director.flush_connections(Selection())
