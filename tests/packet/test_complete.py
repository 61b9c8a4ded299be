"""Where a device has told a packet's sum (CHECKSUM_COMPLETE), that is right after whatever the director has changed: a
receiver on the same machine, such as a container, believes it.
"""

import subprocess
from collections.abc import Iterator

import pytest

from support.complete import Complete
from support.fragments import PAYLOAD, cut
from support.ftp import Control
from support.harness import Harness, ip
from support.packets import TCP, UDP, icmp_error, tcp, udp
from support.packets import ip as packet_ip
from support.talk import IPV4, Family, Talk

TUNNELS = ("", "--tun-type gre", "--tun-type gre --tun-csum", "--tun-type gue --tun-port 6080 --tun-csum")


def _has_vxlan() -> bool:
    words = ["unshare", "-n", "ip", "link", "add", "x0", "type", "vxlan", "id", "1", "dstport", "4789"]
    return subprocess.run(words, capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not _has_vxlan(), reason="this kernel has no VXLAN")


@pytest.fixture
def complete(alone: Harness) -> Iterator[tuple[Harness, Complete]]:
    with Complete(alone) as complete:
        yield alone, complete


def _goes(complete: Complete, packets: list[bytes]) -> None:
    """All that leaves has a sum, and a right one."""
    assert complete.comes(packets) == (len(packets), len(packets), 0)


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
def test_nat(complete: tuple[Harness, Complete], family: Family, protocol: int) -> None:
    lvs, vx = complete
    talk = Talk(lvs, family, protocol).serve()
    for flags, size in (("S", 0), ("A", 0), ("P", 1), ("P", 700)):
        _goes(vx, [talk.question(flags, b"x" * size)])
        _goes(vx, [talk.answer("SA" if flags == "S" else flags, b"y" * size)])


def test_a_datagram_without_a_checksum_gets_one(complete: tuple[Harness, Complete]) -> None:
    lvs, vx = complete
    talk = Talk(lvs, IPV4, UDP).serve()
    for size in (0, 1, 700):
        segment = udp(talk.sport, 80, b"x" * size)
        _goes(vx, [packet_ip(IPV4.client, IPV4.vip, UDP, segment, check=False)])


def test_direct_routing(complete: tuple[Harness, Complete], family: Family) -> None:
    lvs, vx = complete
    talk = Talk(lvs, family, rport=80).serve(method="-g")
    _goes(vx, [talk.question("S"), talk.question("P", b"hello")])


@pytest.mark.parametrize("tunnel", TUNNELS)
def test_tunnels(complete: tuple[Harness, Complete], family: Family, tunnel: str) -> None:
    lvs, vx = complete
    talk = Talk(lvs, family, rport=80).serve(method=f"-i {tunnel}")
    _goes(vx, [talk.question("S"), talk.question("P", b"hello")])


@pytest.mark.parametrize("method", ["-m", "-g"], ids=["nat", "dr"])
def test_fragments(complete: tuple[Harness, Complete], family: Family, method: str) -> None:
    lvs, vx = complete
    talk = Talk(lvs, family, UDP, rport=8080 if method == "-m" else 80).serve(method=method)
    _goes(vx, cut(talk.question(payload=PAYLOAD), 800))
    if method == "-m":
        _goes(vx, cut(talk.answer(payload=PAYLOAD), 800))


def test_what_is_cut(complete: tuple[Harness, Complete]) -> None:
    lvs, vx = complete
    ip("link set d1 mtu 1300")
    try:
        talk = Talk(lvs, IPV4, UDP).serve()
        packets, _, wrong = vx.comes([talk.question(payload=bytes(range(200)) * 7)], 2)
        assert (packets, wrong) == (2, 0)
    finally:
        ip("link set d1 mtu 1500")


def test_errors(complete: tuple[Harness, Complete], family: Family) -> None:
    """Those that are passed on, and those that are made here."""
    lvs, vx = complete
    talk = Talk(lvs, family).serve(0)
    _goes(vx, [talk.question("S", b"hello")])
    talk.add(talk.rs)
    kind = (3, 1) if family is IPV4 else (1, 3)
    seen = talk.asks("S").packet.raw
    _goes(vx, [icmp_error(talk.rs, family.client, kind, seen)])
    seen = talk.answers("SA").packet.raw
    _goes(vx, [icmp_error(family.client, family.vip, kind, seen)])


def test_an_answer_of_ftp_that_becomes_longer(complete: tuple[Harness, Complete], family: Family) -> None:
    lvs, vx = complete
    control = Control(lvs, family).serve().opens()
    control.says(b"PASV\r\n" if family is IPV4 else b"EPSV\r\n")
    said = b"227 (10,2,0,1,200,10)\r\n" if family is IPV4 else b"229 (|2|fd00:2::1|51210|)\r\n"
    segment = tcp(21, control.sport, "P", payload=said, seq=control.answered, ack=control.asked)
    packets, _, wrong = vx.comes([packet_ip(control.server, family.client, TCP, segment)])
    assert (packets, wrong) == (1, 0)
