"""SCTP's packets: what is whole and what is not, and the checksum that covers ports but no addresses.

States and what opens an association are in test_states.py.
"""

import random
import socket
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model import sctp as model
from pylvs.protocols.sctp import HALF_OPEN, shift_bytes
from support.books import books
from support.harness import CLIENT, SERVER, Harness, frame
from support.netns import setns
from support.packets import (
    ICMP,
    ICMP6,
    SCTP,
    chunk,
    crc32c,
    dissect,
    sctp,
    wrong_sums,
)  # fmt: skip
from support.packets import ip as packet
from support.talk import FAMILIES, IPV4, Family, Talk

ABORT = chunk("ABORT")
QUICK = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def talk_of(lvs: Harness, family: Family, method: str = "-m", rport: int = 8080) -> Talk:
    return Talk(lvs, family, SCTP, rport=rport).serve(method=method)


def opened(talk: Talk) -> Talk:
    """An association after its handshake."""
    assert talk.asks("INIT").forwarded
    assert talk.answers("INIT_ACK").forwarded
    assert talk.asks("COOKIE_ECHO").forwarded
    assert talk.answers("COOKIE_ACK").forwarded
    assert talk.entry.shown.state == "ESTABLISHED"
    return talk


# ---- whole and broken ----


@pytest.mark.parametrize("method", ["-m", "-g"])
def test_a_conversation(lvs: Harness, family: Family, method: str) -> None:
    talk = talk_of(lvs, family, method, rport=80 if method == "-g" else 8080)
    first = talk.asks("INIT")
    assert first.reason == ("forwarded_nat_request" if method == "-m" else "forwarded_route")
    assert first.packet.destination == ((family.server, 8080) if method == "-m" else (family.vip, 80))
    assert first.packet.source == (family.client, talk.sport)
    assert (first.packet.ttl, wrong_sums(first.packet.raw)) == (63, [])
    if method == "-m":
        reply = talk.answers("INIT_ACK")
        assert reply.reason == "forwarded_nat_reply"
        assert (reply.packet.source, wrong_sums(reply.packet.raw)) == ((family.vip, 80), [])
    assert "SCTP" in lvs.ipvsadm("-Lcn")
    assert lvs.director.totals().conns == 1
    books(lvs.instance)


WHOLE = sctp(1025, 80, "INIT")


@pytest.mark.parametrize("length", range(16))
def test_cut_short_where_nothing_is_known(lvs: Harness, family: Family, length: int) -> None:
    """Without ports it is nobody's; without the first chunk's header nobody can say whether it may open."""
    talk = talk_of(lvs, family)
    result = lvs.from_client(packet(family.client, family.vip, SCTP, WHOLE[:length]))
    assert result.reason == ("up_malformed" if length < 4 else "dropped_truncated")
    assert talk.entry is None and not result.answers


@pytest.mark.parametrize("method", ["-m", "-g"])
@pytest.mark.parametrize("length", range(17))
def test_cut_short_in_an_association(lvs: Harness, family: Family, length: int, method: str) -> None:
    """Its common header must be there, since ports and sum are; a chunk need not, and then nothing changes."""
    talk = talk_of(lvs, family, method, rport=80)
    assert talk.asks("INIT").forwarded
    before = talk.entry.shown.state
    short = packet(family.client, family.vip, SCTP, sctp(1025, 80, "ABORT")[:length])
    reason = lvs.from_client(short).reason
    if length < 12:
        assert reason == ("up_malformed" if length < 4 else "dropped_truncated")
    else:
        assert reason == ("forwarded_nat_request" if method == "-m" else "forwarded_route")
    assert talk.entry.shown.state == (before if length < 16 else "CLOSED")


def test_another_associations_packet_cut_short_is_not_ours(lvs: Harness, family: Family) -> None:
    talk_of(lvs, family)
    assert lvs.from_client(packet(family.client, family.vip, SCTP, sctp(1025, 81)[:8])).reason == "up_no_service"


CHUNKS = {
    "nothing": b"", "less than a header": b"\6\0\0", "length 0": chunk("ABORT", length=0),
    "length 3": chunk("ABORT", length=3), "longer than the packet": chunk("ABORT", length=60000),
    "abort behind a cookie": chunk("COOKIE_ECHO", b"cookie") + ABORT,
    "abort behind an odd cookie": chunk("COOKIE_ECHO", b"crumb", length=9) + ABORT,
    "abort behind an acknowledged cookie": chunk("COOKIE_ACK") + ABORT,
    "abort cut short behind a cookie": chunk("COOKIE_ECHO", b"cookie") + ABORT[:3],
    "abort behind a cookie of length 0": chunk("COOKIE_ECHO", length=0) + ABORT,
    "abort behind a cookie of length 3": chunk("COOKIE_ECHO", length=3) + ABORT,
    "abort behind a cookie of length 4": chunk("COOKIE_ECHO") + ABORT,
    "abort behind a cookie that is too long": chunk("COOKIE_ECHO", length=65535) + ABORT,
    "data behind a cookie": chunk("COOKIE_ECHO", b"cookie") + chunk("DATA", b"data"),
    "abort behind data": chunk("DATA", b"data") + ABORT,
    "abort behind a cookie and data": chunk("COOKIE_ECHO") + chunk("DATA") + ABORT,
    "an unknown chunk": chunk(200) + ABORT, "the last type": chunk(255), "an abort with flags": chunk("ABORT", flags=1),
}  # fmt: skip


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
def test_odd_chunks(lvs: Harness, family: Family, chunks: bytes) -> None:
    """They go to the real server like any others, which knows what they mean; the state is as specified."""
    talk = talk_of(lvs, family)
    talk.asks("INIT")
    talk.answers("INIT_ACK")
    sent = packet(family.client, family.vip, SCTP, sctp(talk.sport, 80, chunks))
    result = lvs.from_client(sent)
    assert result.reason == "forwarded_nat_request"
    assert result.packet.payload == chunks and not wrong_sums(result.packet.raw)
    assert talk.entry.shown.state == model.next_state("INPUT", "C-SENT", model.event_of(chunks))


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
def test_odd_chunks_open_by_their_first_one(lvs: Harness, chunks: bytes) -> None:
    lvs.set(sloppy_sctp=1)
    talk = talk_of(lvs, IPV4)
    lvs.from_client(packet(IPV4.client, IPV4.vip, SCTP, sctp(talk.sport, 80, chunks)))
    event = model.event_of(chunks)
    if not event or chunks[0] == 6:
        assert talk.entry is None
    else:
        assert talk.entry.shown.state == model.next_state("INPUT", "NONE", event)


@QUICK
@given(chunks=st.binary(max_size=40), seed=st.integers(0, 2**32))
def test_any_chunks(lvs: Harness, chunks: bytes, seed: int) -> None:
    """Bytes at random, cookies often: never another state than the model's, never a wrong sum."""
    lvs.reset()
    luck = random.Random(seed)
    talk = talk_of(lvs, luck.choice(FAMILIES))
    talk.asks("INIT")
    if luck.random() < 0.5:
        chunks = bytes((luck.choice((10, 11)), 0, 0, luck.randrange(12))) + chunks
    sent = packet(talk.family.client, talk.family.vip, SCTP, sctp(talk.sport, 80, chunks))
    result = lvs.from_client(sent)
    assert result.packet.payload == chunks and not wrong_sums(result.packet.raw)
    assert talk.entry.shown.state == model.next_state("INPUT", "INIT1", model.event_of(chunks))


@pytest.mark.parametrize("why", ["nobody", "ttl", "nowhere"])
def test_what_is_refused(lvs: Harness, family: Family, why: str) -> None:
    """By the ICMP error about the packet, as a TCP client would get it."""
    talk = Talk(lvs, family, SCTP).serve(int(why != "nobody"))
    if why == "nowhere":
        lvs.ipvsadm(f"-E {talk.key} -s rr")
        talk.delete(family.server)
        talk.add(family.nowhere)
    question = talk.question("INIT", ttl=1 if why == "ttl" else 64)
    result = lvs.from_client(question)
    assert result.reason == {"nobody": "dropped_no_destination", "ttl": "dropped_ttl_exceeded"}.get(
        why, "dropped_no_route"
    )
    assert result.answers == ("answered_icmp",)
    assert result.packet.protocol == (ICMP if family is IPV4 else ICMP6)
    assert result.packet.quoted == question and not wrong_sums(result.packet.raw)


def test_options_and_extension_headers(lvs: Harness, family: Family) -> None:
    talk = talk_of(lvs, family)
    more = {"options": b"\x94\x04\0\0"} if family is IPV4 else {"extensions": [(0, bytes(6)), (60, bytes(14))]}
    result = talk.asks("INIT", **more)
    assert result.reason == "forwarded_nat_request"
    assert result.packet.destination == (family.server, 8080) and not wrong_sums(result.packet.raw)


def test_half_open_associations_give_way(lvs: Harness) -> None:
    """Every state of the handshake does, and none behind it, as with TCP."""
    talk = talk_of(lvs, IPV4, "-g", rport=80)
    lvs.pour(frame(talk.from_port(sport).question("INIT")) for sport in range(1000, 5096))
    kept = talk.from_port(1000)
    assert kept.asks("COOKIE_ECHO").forwarded  # seen from one side, this establishes
    lvs.pour(frame(talk.from_port(sport).question("INIT")) for sport in range(20_000, 28_000))
    assert lvs.instance.runtime.get(0, "gave_way") > 4000
    assert kept.entry.shown.state == "ESTABLISHED"
    assert {entry.shown.state for entry in lvs.entries().values()} == {"ESTABLISHED", "INIT1"}
    books(lvs.instance)
    handshake = {"INIT1", "INIT", "C-SENT", "C-REPLIED", "C-WAIT", "COOKIE", "C-ECHOED"}
    assert set(HALF_OPEN) == handshake


def test_established_associations_do_not_give_way(lvs: Harness) -> None:
    lvs.set(sloppy_sctp=1)
    talk = talk_of(lvs, IPV4, "-g", rport=80)
    lvs.pour(frame(talk.from_port(sport).question("DATA")) for sport in range(1000, 8000))
    before = set(lvs.entries())
    assert len(before) > 3900
    reasons = {talk.from_port(sport).asks("DATA").reason for sport in range(20_000, 20_200)}
    assert "dropped_table_full" in reasons
    assert before <= set(lvs.entries()) and lvs.instance.runtime.get(0, "gave_way") == 0


# ---- the checksum ----


def crc_over_zeros(register: int, count: int) -> int:
    for _ in range(8 * count):
        register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register


def test_the_table_of_shifts() -> None:
    """Against the definition for the short ones; each longer one is the one before it, twice."""
    words = struct.unpack("=2048I", shift_bytes())
    tables = [words[128 * n : 128 * n + 128] for n in range(16)]

    def shifted(number: int, register: int) -> int:
        value = 0
        for nibble in range(8):
            value ^= tables[number][16 * nibble + (register >> 4 * nibble & 15)]
        return value

    for number in range(16):
        for register in (0, 1, 0x80000000, 0xFFFFFFFF, 0x12345678, 0x0000BEEF):
            if number < 8:
                assert shifted(number, register) == crc_over_zeros(register, 1 << number)
            else:
                assert shifted(number, register) == shifted(number - 1, shifted(number - 1, register))


@QUICK
@given(st.integers(0, 1400), st.integers(1, 65535), st.integers(1, 65535), st.booleans(), st.integers(0, 2**32))
def test_a_right_sum_stays_right(lvs: Harness, size: int, port: int, rport: int, same: bool, seed: int) -> None:
    """Of every length, to every port, in both directions; and nothing else changes than ports, sum and address."""
    rport = port if same else rport
    lvs.reset()
    luck = random.Random(seed)
    family = luck.choice(FAMILIES)
    talk = Talk(lvs, family, SCTP, sport=luck.choice((1025, 65535)), port=port, rport=rport).serve()
    body = chunk("INIT", luck.randbytes(size // 4 * 4)) + luck.randbytes(size % 4)
    for sent, send in (
        (packet(family.client, family.vip, SCTP, sctp(talk.sport, port, body)), lvs.from_client),
        (packet(family.server, family.client, SCTP, sctp(rport, talk.sport, body)), lvs.from_server),
    ):
        result = send(sent)
        assert result.forwarded and not wrong_sums(result.packet.raw)
        before, after = dissect(sent).segment, result.packet.segment
        assert (after[4:8], after[12:]) == (before[4:8], before[12:])
        if same:
            assert after == before


@pytest.mark.parametrize("rport", [80, 8080])
@pytest.mark.parametrize("flaw", [1, 0x80000000, 0xFFFFFFFF, 0x00010000])
def test_a_wrong_sum_stays_as_wrong(lvs: Harness, family: Family, flaw: int, rport: int) -> None:
    """Who gets it must see that it was damaged on its way to us. (Kernel IPVS makes it right.)"""
    talk = talk_of(lvs, family, rport=rport)
    whole = sctp(talk.sport, 80, "INIT")
    (right,) = struct.unpack_from("<I", whole, 8)
    result = lvs.from_client(
        packet(family.client, family.vip, SCTP, whole[:8] + struct.pack("<I", right ^ flaw) + whole[12:])
    )
    (left,) = struct.unpack_from("<I", result.packet.segment, 8)
    assert left == crc32c(result.packet.segment[:8] + bytes(4) + result.packet.segment[12:]) ^ flaw


@pytest.mark.parametrize("method", ["-g", "-m"])
def test_a_sum_is_left_alone_where_the_port_stays(lvs: Harness, family: Family, method: str) -> None:
    talk = talk_of(lvs, family, method, rport=80)
    for value in (b"\0\0\0\0", b"\1\2\3\4"):
        whole = sctp(talk.sport, 80, "INIT")
        result = lvs.from_client(packet(family.client, family.vip, SCTP, whole[:8] + value + whole[12:]))
        assert result.forwarded and result.packet.segment[8:12] == value


def test_merged_packets_keep_the_sum_that_is_to_be_made(lvs: Harness, family: Family) -> None:
    """Of packets that this machine merged, the device that sends them makes the sums, one for each."""
    talk = opened(talk_of(lvs, family))
    whole = sctp(talk.sport, 80, chunk("DATA", bytes(2400)))
    sent = packet(family.client, family.vip, SCTP, whole[:8] + bytes(4) + whole[12:])
    result = lvs.from_client(sent, gso_size=65535, gso_segs=2, room=4096)
    assert result.reason == "forwarded_nat_request"
    assert result.packet.destination == (family.server, 8080)
    assert result.packet.segment[4:] == whole[4:8] + bytes(4) + whole[12:]


def test_merged_packets_must_fit_by_their_mean(lvs: Harness) -> None:
    talk = opened(talk_of(lvs, IPV4))
    for size, reason in ((1464, "forwarded_nat_request"), (1468, "dropped_too_big")):
        sent = talk.question(chunk("DATA", bytes(size)), chunk("DATA", bytes(size)), df=True)
        assert lvs.from_client(sent, gso_size=65535, gso_segs=2, room=4096).reason == reason


class Cable:
    """Both ends of the director's cables: frames that really pass, with the sum still to be made or not."""

    _SOL_PACKET, _VNET_HDR, _ALL = 263, 15, 3
    NEEDS_CSUM = 1

    def __init__(self, lvs: Harness):
        setns(lvs._peers)
        try:
            self.ends = {}
            for interface, peer in ((CLIENT, "c0"), (SERVER, "r0")):
                one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(self._ALL))
                one.setsockopt(self._SOL_PACKET, self._VNET_HDR, 1)
                one.bind((peer, self._ALL))
                self.ends[interface] = one
        finally:
            lvs.enter()

    def close(self) -> None:
        for one in self.ends.values():
            one.close()

    def send(self, interface: str, ether: bytes, pending_at: int | None = None) -> None:
        """`pending_at`: offset of the transport header whose sum at byte 8 is to be made by a device."""
        head = (self.NEEDS_CSUM, 0, 0, 0, pending_at, 8) if pending_at else (0, 0, 0, 0, 0, 0)
        self.ends[interface].send(struct.pack("=BBHHHH", *head) + ether)

    def receive(self, interface: str, protocol: int) -> tuple[bool, bytes]:
        """The next packet of a protocol that comes out: is its sum still to be made, and the IP packet."""
        one = self.ends[interface]
        one.settimeout(10)
        while True:
            data, origin = one.recvfrom(70_000)
            whole = data[24:]
            following = whole[6] if whole[0] >> 4 == 6 else whole[9]
            if origin[2] != 4 and following == protocol:  # PACKET_OUTGOING: what we sent ourselves
                return bool(data[0] & self.NEEDS_CSUM), whole


@pytest.mark.parametrize("pending", [False, True], ids=["whole", "still to be made"])
def test_a_sum_that_a_device_is_to_make(lvs: Harness, family: Family, pending: bool) -> None:
    """A sender on this machine leaves the sum to the device. What is there then must stay: it goes into the sum."""
    talk = talk_of(lvs, family)
    cable = Cable(lvs)
    try:
        for kind in ("INIT", "DATA", "DATA"):  # the first one goes through the kernel's neighbour code
            whole = sctp(talk.sport, 80, kind)
            if pending:
                whole = whole[:8] + bytes(4) + whole[12:]
            sent = frame(packet(family.client, family.vip, SCTP, whole), CLIENT)
            cable.send(CLIENT, sent, 14 + family.head if pending else None)
            still, out = cable.receive(SERVER, SCTP)
            after = dissect(out)
            assert after.destination == (family.server, 8080) and still == pending
            assert after.segment[8:12] == bytes(4) if pending else not wrong_sums(after.raw)
    finally:
        cable.close()
