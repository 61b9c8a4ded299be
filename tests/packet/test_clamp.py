"""What a tunnel real server tells clients of how long their segments may be: its SYN and SYN+ACK segments.

The topology is that of support/unwrapping.py.
"""

import errno
import io
import json
from collections.abc import Iterator
from contextlib import redirect_stdout

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylvs.cli import realserver
from pylvs.datapath import decap, interfaces, syscall
from pylvs.errors import InvalidValue
from support import packets
from support.packets import DESTINATION, TCP, dissect, tcp, wrong_sums
from support.unwrapping import RIP, RealServer, ip

CIP, VIP, CIP6, VIP6 = "10.1.0.1", "10.99.0.1", "fd00:1::1", "fd00:99::1"
MOST = 1400
OPTION = b"\x02\x04"

families = pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def made() -> Iterator[RealServer]:
    server = RealServer()
    yield server
    server.close()


@pytest.fixture
def server(made: RealServer) -> Iterator[RealServer]:
    """Its clients shall send segments of 1400 bytes at most."""
    made.enter()
    try:
        made.set(vips=[VIP, VIP6], mss=MOST)
        yield made
    finally:
        made.leave()


@pytest.fixture
def fresh() -> Iterator[RealServer]:
    """A real server of one's own."""
    server = RealServer()
    server.enter()
    try:
        yield server
    finally:
        server.close()


def says(mss: int | bytes | None, v6: bool = False, flags: int | str = "SA", src: str = "", **of_ip: object) -> bytes:
    """A segment from the VIP with this maximum segment size, or with these options."""
    options = b"" if mss is None else mss if isinstance(mss, bytes) else OPTION + mss.to_bytes(2, "big")
    ends = (src or (VIP6 if v6 else VIP), CIP6 if v6 else CIP)
    return packets.ip(*ends, TCP, tcp(80, 1025, flags, options=options), **of_ip)  # type: ignore[arg-type]


def told(packet: bytes) -> int | None:
    """What a packet says is the longest segment, read by the rules of RFC 9293, 3.2; None: nothing that makes sense."""
    segment = dissect(packet).segment
    options = segment[20 : (segment[12] >> 4) * 4]
    at = 0
    while at < len(options) and options[at]:
        if options[at] == 1:
            at += 1
            continue
        if at + 1 == len(options) or options[at + 1] < 2 or at + options[at + 1] > len(options):
            return None
        if options[at] == 2:
            return int.from_bytes(options[at + 2 : at + 4], "big") if options[at + 1] == 4 else None
        at += options[at + 1]
    return None


@families
@pytest.mark.parametrize("flags", ["S", "SA", 0x1A])
def test_it_is_lowered(server: RealServer, v6: bool, flags: int | str) -> None:
    for before, after in ((1460, MOST), (65535, MOST), (1401, MOST), (MOST, MOST), (1399, 1399), (0, 0)):
        packet = server.leave_by(says(before, v6, flags))
        assert (told(packet), wrong_sums(packet)) == (after, [])


@families
def test_wherever_it_stands(server: RealServer, v6: bool) -> None:
    """Among other options; its bytes may lie in two words of the checksum."""
    stamps = b"\x08\x0a" + bytes(8)
    for before in (
        b"",
        b"\x01",
        b"\x04\x02",
        b"\x03\x03\x07",
        stamps,
        stamps + b"\x01\x03\x03\x07",
        stamps * 3 + b"\x01" * 6,
    ):
        packet = server.leave_by(says(before + OPTION + (1460).to_bytes(2, "big"), v6))
        assert (told(packet), wrong_sums(packet)) == (MOST, [])
        assert dissect(packet).segment[20:].startswith(before + OPTION)


@families
def test_what_says_nothing_or_makes_no_sense_is_left_as_it_is(server: RealServer, v6: bool) -> None:
    large = (1460).to_bytes(2, "big")
    for options in (
        b"",
        b"\x00" + OPTION + large,  # behind the end
        b"\x02\x03" + large,
        b"\x02\x06" + large + large,
        b"\x02\x00" + large,
        b"\x08\x01" + OPTION + large,
        b"\x08\x00" + OPTION + large,
        b"\x08\x28" + OPTION + large,  # longer than all
        b"\x01\x01\x01\x02",  # cut off
        b"\x01\x01\x02\x04",
    ):
        packet = says(options, v6)
        assert server.leave_by(packet) == packet


@families
def test_only_segments_that_begin_a_connection_and_are_a_vips(server: RealServer, v6: bool) -> None:
    for packet in (
        says(1460, v6, "A"),
        says(1460, v6, "R"),
        says(1460, v6, src="fd00:2::11" if v6 else RIP),
        says(1460, v6)[: 60 if v6 else 40],  # and so no options
        packets.ip(VIP6 if v6 else VIP, CIP6 if v6 else CIP, 17, tcp(80, 1025, "SA", options=OPTION + b"\x05\xb4")),
    ):
        assert server.leave_by(packet) == packet


def test_the_ip_header_may_have_options(server: RealServer) -> None:
    packet = server.leave_by(says(1460, options=b"\x07\x07\x04\x00\x00\x00\x00"))
    assert (told(packet), wrong_sums(packet)) == (MOST, [])


def test_neither_later_fragments_nor_extension_headers_nor_other_protocols(server: RealServer) -> None:
    for packet in (says(1460, fragment=64), says(1460, True, extensions=[(DESTINATION, bytes(6))])):
        assert server.leave_by(packet) == packet
    assert server.leave_by(says(1460), kind=0x0806) == says(1460)


@families
def test_without_named_vips_it_is_all_that_the_host_says_of_its_own(server: RealServer, v6: bool) -> None:
    server.set(mss=MOST)
    packet = says(1460, v6, src="fd00:2::11" if v6 else RIP)
    assert told(server.leave_by(packet)) == MOST
    assert server.leave_by(packet, forwarded=True) == packet


@given(data=st.data(), v6=st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_options(made: RealServer, data: st.DataObject, v6: bool) -> None:
    part = st.one_of(
        st.binary(max_size=6), st.just(b"\x01"), st.integers(0, 65535).map(lambda n: OPTION + n.to_bytes(2, "big"))
    )
    options = b"".join(data.draw(st.lists(part, max_size=8)))[:40]
    made.enter()
    try:
        made.set(vips=[VIP, VIP6], mss=MOST)
        before = says(options, v6)
        after = made.leave_by(before)
    finally:
        made.leave()
    said = told(before)
    assert told(after) == (min(said, MOST) if said is not None else None)
    assert not wrong_sums(after)
    assert len(after) == len(before)
    assert sum(a != b for a, b in zip(before, after, strict=True)) <= 4, "the option and the checksum, and no more"
    if said is None or said <= MOST:
        assert after == before


# ---- the command ----


def _pylvs(*words: str) -> tuple[int, str]:
    said = io.StringIO()
    with redirect_stdout(said):
        code = realserver.main(list(words))
    return code, said.getvalue()


def _clamps() -> set[str]:
    running = decap.find()
    assert running is not None
    with running:
        return set(running.clamps().values())


def test_it_comes_is_shown_and_goes(fresh: RealServer) -> None:
    assert _clamps() == set()
    code, said = _pylvs("decap", "--clamp-mss", "1300", "--vip", VIP)
    assert (code, said.splitlines()[1]) == (0, "clients send segments of 1300 bytes at most")
    assert len(_clamps()) == 1
    assert "segments  1300 bytes at most\n" in _pylvs("status")[1]
    assert json.loads(_pylvs("status", "--json")[1])["mss"] == [1300, 1300]
    _pylvs("decap", "--vip", VIP)
    assert _clamps() == set()
    assert "segments" not in _pylvs("status")[1]
    assert json.loads(_pylvs("status", "--json")[1])["mss"] is None
    _pylvs("decap", "--clamp-mss", "1300")
    assert _pylvs("stop") == (0, "nothing is unwrapped any more\n")
    assert not decap.pinned()


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("", (1500 - 40 - 40, 1500 - 40 - 60)),
        ("--director 10.2.0.9", (1500 - 20 - 40, 1500 - 20 - 60)),
        ("--director 10.2.0.9 --director fd00:2::9", (1420, 1400)),
        ("--director 10.2.0.9 --type ipip --type gre", (1432, 1412)),
        ("--director 10.2.0.9 --type gre --port 6080", (1428, 1408)),
    ],
)
def test_what_fits_into_the_tunnel(fresh: RealServer, words: str, wanted: tuple[int, int]) -> None:
    _, said = _pylvs("decap", "--clamp-mss", "auto", *words.split())
    assert said.splitlines()[1] == "clients send segments of {} bytes at most, over IPv6 {}".format(*wanted)
    ip("link set p0 mtu 1400\n")
    _, said = _pylvs("decap", "--dev", "e0", "--clamp-mss", "auto", *words.split())
    assert f"of {wanted[0]} bytes" in said, "the MTU of e0"
    _, said = _pylvs("decap", "--clamp-mss", "auto", *words.split())
    assert f"of {wanted[0] - 100} bytes" in said, "the smallest"


@pytest.mark.parametrize(
    ("mss", "mtu", "said"),
    [
        (87, 0, "segments of 87 bytes are out of range; they may be 88 to 65495"),
        (0, 0, "segments of 0 bytes are out of range; they may be 88 to 65495"),
        (65496, 0, "segments of 65496 bytes are out of range; they may be 88 to 65495"),
        (None, 180, "an MTU of 180 is too small for a tunnel; name the longest segment in bytes"),
    ],
)
def test_what_makes_no_sense_is_refused(mss: int | None, mtu: int, said: str) -> None:
    from pylvs.realserver import decapsulation

    with pytest.raises(InvalidValue, match=said.replace(".", r"\.")):
        decapsulation(mss=mss, mtu=mtu)


def test_without_tcx_links_it_is_a_clsact_filter(fresh: RealServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "no such link type")

    monkeypatch.setattr(syscall, "link_create", refuse)
    decap.stop()
    fresh.set(mss=MOST)
    assert _clamps() == {"clsact"}
    assert told(fresh.leave_by(says(1460))) == MOST
    assert decap.stop()
    assert not interfaces._clsact_attached(100, interfaces.REALSERVER, True)
