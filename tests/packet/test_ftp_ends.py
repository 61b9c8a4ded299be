"""The FTP helper where the director itself is at one end: as the real server, or as the client.

10.1.0.1 client -- d0 | director | d1 -- 10.2.0.1 real server
"""

from typing import Any, cast

import pytest

from support.books import books
from support.ftp import Control, data, data_back, listed
from support.harness import CLIENT, REDIRECT, Harness, Result, by_lo
from support.talk import Family

DATA = 51210
EPSV = b"229 Entering Extended Passive Mode (|||51210|)\r\n"
TOLD = {"forwarded_local": "forwarded_nat_reply", "sent_reply": "forwarded_nat_reply"}


class _Ends:
    """A director whose own packets pass lo, or leave; what becomes of them is told as of others'."""

    def __init__(self, lvs: Harness, serves: bool):
        self._lvs, self._serves = lvs, serves

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lvs, name)

    def from_client(self, packet: bytes) -> Result:
        if not self._serves:
            return by_lo(self._lvs, packet)
        came = self._lvs.from_client(packet)
        return came._replace(reason="forwarded_nat_request") if came.reason == "forwarded_local" else came

    def from_server(self, packet: bytes) -> Result:
        if not self._serves:
            came = self._lvs.from_server(packet)
            return came._replace(reason=TOLD.get(came.reason, came.reason))
        left = self._lvs.leave_by(CLIENT, packet)
        return Result(REDIRECT, left.frame, TOLD.get(left.reason, left.reason), ())


@pytest.mark.parametrize("conntrack", [0, 1])
@pytest.mark.parametrize("serves", [True, False], ids=["real server", "client"])
def test_a_session(lvs: Harness, family: Family, serves: bool, conntrack: int) -> None:
    lvs.director.set_sysctl("conntrack", conntrack)
    here = family if serves else family._replace(client=family.near)
    control = Control(cast(Harness, _Ends(lvs, serves)), here)
    control.serve(family.far if serves else family.server).opens()
    assert control.says(b"EPSV\r\n") == b"EPSV\r\n"
    assert control.hears(EPSV) == EPSV
    assert control.expected == {(here.client, 0, DATA, control.server, DATA, "LISTEN")}
    assert data(control, 5000, DATA).packet.destination == (control.server, DATA)
    back = data_back(control, DATA, 5000, "SA")
    assert (back.reason, back.packet.source) == ("forwarded_nat_reply", (family.vip, DATA))
    data(control, 5000, DATA, "A")
    assert listed(control, 5000).state == "ESTABLISHED"
    assert control.hears(b"150 here it comes\r\n") == b"150 here it comes\r\n"
    books(lvs.instance)
