"""The FTP helper while the connection table gets another size: what was agreed, and what was rewritten, still holds."""

import os

import pytest

from pylvs.datapath import resize
from support.books import books
from support.ftp import Control, data, data_back
from support.harness import Harness
from support.talk import IPV4, Family

EPSV = b"229 go (|%d|%s|51210|)\r\n"


def test_everything_goes_on(movable: Harness, family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, between any two slices that are moved, and afterwards: control connections, and those that wait."""
    lvs = movable
    said = EPSV % (1 if family is IPV4 else 2, family.server.encode())
    heard = b"229 go (|||51210|)\r\n"
    talks = [Control(lvs, family, sport=sport).serve() if sport == 2000 else Control(lvs, family, sport=sport)
             for sport in range(2000, 2012)]  # fmt: skip
    for talk in talks:
        talk.opens()
    ports = iter(range(3000, 4000))

    def transfer(talk: Control) -> None:
        talk.says(b"EPSV\r\n")
        assert talk.hears(said) == heard
        assert data(talk, port := next(ports), 51210).packet.destination == (talk.server, 51210)
        assert data_back(talk, 51210, port, "SA").packet.source == (family.vip, 51210)
        assert data(talk, port, 51210, "A").forwarded
        talk.says(b"NOOP\r\n")

    for talk in talks[:4]:
        transfer(talk)
    talks[0].says(b"EPSV\r\n")
    talks[0].hears(said)
    move = resize._move_slice

    def between(program: int, first: int) -> int:
        left = move(program, first)
        former, lvs._program = lvs._program, lvs.instance.program("ingress")
        os.close(former)
        for talk in talks[1:6]:
            transfer(talk)
        return left

    with monkeypatch.context() as patch:
        patch.setattr(resize, "_move_slice", between)
        patch.setattr(resize, "_SLICE", 32)
        with lvs.instance.locked():
            resize.resize(lvs.instance, 13)
    lvs.reopen()
    transfer(talks[0])
    for talk in talks:
        transfer(talk)
    books(lvs.instance)
    lvs.advance(1000)
    lvs.advance(1000)
    lvs.advance(1000)
    assert not lvs.connections() and not lvs.instance.ftp_talks.keys()
    books(lvs.instance)
