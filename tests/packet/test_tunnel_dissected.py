"""Wireshark's opinion of packets in tunnels: of each type, mixture of families and checksum."""

import itertools
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from support.harness import Harness
from support.packets import TCP, UDP
from support.talk import FAMILIES, IPV4, Family, Talk, at
from support.tunnels import unwrap

pytestmark = pytest.mark.skipif(
    not shutil.which("tshark"), reason="Wireshark's tshark is not installed; with what it needs, that is 150 MB"
)

GUE = "--tun-type gue --tun-port 6080"
KINDS = {
    "ipip": "", "gre": "--tun-type gre", "gre-csum": "--tun-type gre --tun-csum", "gue": GUE,
    "gue-csum": f"{GUE} --tun-csum", "gue-remcsum": f"{GUE} --tun-remcsum",
}  # fmt: skip
PREFERENCES = (
    "ip.check_checksum:TRUE",
    "tcp.check_checksum:TRUE",
    "udp.check_checksum:TRUE",
    "udp.ignore_ipv6_zero_checksum:TRUE",
    "tcp.analyze_sequence_numbers:FALSE",
)
FIELDS = (
    "frame.protocols", "ip.checksum.status", "tcp.checksum.status", "udp.checksum.status", "gre.checksum.status",
    "_ws.malformed", "_ws.expert.severity",
)  # fmt: skip
GOOD, ABSENT = "1", "3"
WARNING = 0x600000
LINK_RAW = 101
PORT = 61234  # no dissector claims it


class Opinion(NamedTuple):
    """What tshark says of one packet.

    Attributes:
        protocols: from the outer one to the inner one.
        ip, tcp, udp, gre: of each such header whether its checksum is right.
        complaints: the severities of warnings and errors.
    """

    protocols: list[str]
    ip: list[str]
    tcp: list[str]
    udp: list[str]
    gre: list[str]
    complaints: list[int]


def capture(packets: Sequence[bytes]) -> bytes:
    """A file of packets without link-layer headers, in libpcap's first format."""
    head = struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, LINK_RAW)
    return head + b"".join(struct.pack("=IIII", n, 0, len(one), len(one)) + one for n, one in enumerate(packets))


def opinions(packets: Sequence[bytes], file: Path) -> list[Opinion]:
    """What tshark says of packets."""
    file.write_bytes(capture(packets))
    words = ["tshark", "-n", "-r", str(file), "-T", "fields", "-E", "separator=|"]
    words += [word for preference in PREFERENCES for word in ("-o", preference)]
    words += [word for field in FIELDS for word in ("-e", field)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = []
    for line in done.stdout.splitlines():
        protocols, *sums, malformed, severities = line.split("|")
        complaints = [int(one) for one in severities.split(",") if one and int(one) >= WARNING]
        found.append(
            Opinion(
                protocols.split(":"),
                *([one for one in text.split(",") if one] for text in sums),
                complaints + [0] * bool(malformed),
            )
        )
    assert len(found) == len(packets)
    return found


def _expected(inner: Family, outer: Family, kind: str, transport: str) -> tuple[Opinion, Opinion | None]:
    """Of the packet in its tunnel; and, since tshark does not look into GUE, of the one inside."""
    of = {IPV4: "ip"}
    inside, outside = (of.get(family, "ipv6") for family in (inner, outer))
    ip4 = [GOOD] * (inside == "ip")
    sums = {"tcp": [GOOD] if transport == "tcp" else [], "udp": [GOOD] if transport == "udp" else []}
    alone = Opinion(["raw", inside, transport], ip4, sums["tcp"], sums["udp"], [], [])
    ip = [GOOD] * (outside == "ip")
    if kind.startswith("gue"):
        return Opinion(["raw", outside, "udp"], ip, [], [GOOD if kind != "gue" else ABSENT], [], []), alone
    gre = [GOOD] * (kind == "gre-csum")
    way = ["raw", outside, *["gre"] * kind.startswith("gre"), inside, transport]
    return Opinion(way, ip + ip4, sums["tcp"], sums["udp"], gre, []), None


@pytest.mark.parametrize("size", [0, 1, 601])
def test_nothing_is_wrong(lvs: Harness, tmp_path: Path, size: int) -> None:
    packets: list[bytes] = []
    expected: list[Opinion] = []
    for inner, outer, kind, (transport, number) in itertools.product(
        FAMILIES, FAMILIES, KINDS, (("tcp", TCP), ("udp", UDP))
    ):
        lvs.reset()
        talk = Talk(lvs, inner, number, port=PORT, rport=PORT)
        lvs.ipvsadm(f"-A {talk.key} -s rr", f"-a {talk.key} -r {at(outer.server, PORT)} -i {KINDS[kind]}")
        for _ in range(2):
            result = talk.asks("S", bytes([7]) * size)
            assert result.reason == "forwarded_tunnel"
            packet = result.frame[14:]
            whole, inside = _expected(inner, outer, kind, transport)
            packets.append(packet)
            expected.append(whole)
            if inside:
                packets.append(unwrap(packet).inner)
                expected.append(inside)
    found = opinions(packets, tmp_path / "packets.pcap")
    for opinion, wanted in zip(found, expected, strict=True):
        assert opinion._replace(protocols=[one for one in opinion.protocols if one != "data"]) == wanted


def test_wrong_sums_are_noticed(lvs: Harness, tmp_path: Path) -> None:
    """So that the other test can fail."""
    talk = Talk(lvs, IPV4, UDP, port=PORT, rport=PORT)
    lvs.ipvsadm(f"-A {talk.key} -s rr", f"-a {talk.key} -r 10.2.0.1:{PORT} -i {KINDS['gre-csum']}")
    packet = bytearray(talk.asks(payload=b"content").frame[14:])
    packet[-1] ^= 6
    packet[10] ^= 1
    packet[20 + 8 + 8] ^= 1  # the inner TTL
    found = opinions([bytes(packet)], tmp_path / "packets.pcap")[0]
    assert GOOD not in found.ip + found.udp + found.gre
    assert found.complaints
