"""Packets byte by byte: what kernel IPVS put on which wire, from the IP header on.

Nothing leaves on a wire here: what the real director's stack did (a reset, an answer to a ping, plain forwarding) is
seen as a packet handed up as it came; what IPVS itself did must come out of the program, byte for byte. Of ICMP
answers the IPv4 identification and the IPv6 flow label are the director's own whim. Of ICMPv6 errors that the kernel
translated, and of FTP's answers that it rewrote, the checksum was recorded before the device finished it: it is
finished here.
"""

from typing import Any

import pytest

from pylvs import proc
from support.harness import CLIENT, SERVER, Harness, Result, frame
from support.packets import (
    ICMP,
    ICMP6,
    RST,
    TCP,
    Packet,
    address,
    dissect,
    ones_sum,
    pseudo,
    resum_icmp6,
    resum_ipv4,
    with_checksum,
    wrong_sums,
)
from support.recordings import Case, cases, mark_of, needs
from support.tunnels import reassemble, without_whims, wrong_tunnel_sums
from support.wires import Wires

INTERFACE = {"c": CLIENT, "s": SERVER}
WIRE = {CLIENT: "client", SERVER: "server"}
NO_PROTOCOL = {4: (3, 2), 6: (4, 1)}
PEER_MAC = {"client": b"\2\0\0\0\0\1", "server": b"\2\0\0\0\0\4"}

PLAYED = [case for case in cases("wire") if not needs(case)]


def _without_whims(packet: bytes) -> bytes:
    """An ICMP error without the fields that its sender is free to choose; a TCP segment with its checksum finished; any
    other packet as it is."""
    p = dissect(packet)
    if p.protocol == ICMP:
        return resum_ipv4(packet[:4] + b"\0\0" + packet[6:])
    if p.protocol == TCP and p.segment[16:18] == _unfinished(p):
        return packet[: p.head] + with_checksum(TCP, address(p.src), address(p.dst), p.segment)
    if p.protocol == ICMP6:
        packet = resum_icmp6(packet)
        return bytes((packet[0], packet[1] & 0xF0, 0, 0)) + packet[4:]
    return packet


def _unfinished(p: Packet) -> bytes:
    """The checksum of a TCP segment over its addresses alone."""
    return ones_sum(pseudo(address(p.src), address(p.dst), TCP, len(p.segment))).to_bytes(2, "big")


def _stacks_own(sent: bytes, out: list[list[str]], plain: bool) -> bool:
    """Was this the stack's doing, not that of IPVS? `plain`: is plain forwarding? LVS-DR looks like that."""
    before = dissect(sent)
    for wire, answer in out:
        after = dissect(bytes.fromhex(answer))
        if after.protocol == TCP and after.segment[13] & RST and not before.segment[13] & RST:
            continue  # nobody listens there
        if plain and (after.src, after.dst, after.segment) == (before.src, before.dst, before.segment):
            continue  # plain forwarding
        if after.src in ("10.0.2.1", "fd00:a2::1") and after.icmp[:2] not in ((3, 3), (1, 4)):
            continue  # an error about forwarding, to a real server
        if after.protocol in (ICMP, ICMP6) and after.icmp[0] in (0, 129):
            continue  # a ping's answer
        if _refused([[wire, answer]]):
            continue  # the recording director's stack spoke neither SCTP nor IPsec
        return False
    return True


def _refused(out: list[list[str]]) -> bool:
    """Did the stack say that nobody there speaks the protocol?"""
    answers = [dissect(bytes.fromhex(answer)) for _, answer in out]
    return all(a.protocol in (ICMP, ICMP6) and a.icmp[:2] == NO_PROTOCOL[a.version] for a in answers)


def _prepare(lvs: Harness, case: Case) -> None:
    """Which helpers were loaded when the case was recorded."""
    lvs.director.set_ftp_ports([21] if "modprobe ip_vs_ftp ports=21" in case.get("before", ()) else [])


def _check_command(lvs: Harness, command: str, recorded: str) -> None:
    if not command.startswith("cat /proc/"):
        assert lvs.ipvsadm(command.removeprefix("ipvsadm ")) == recorded
        return
    head, *rows = [line.decode() for line in proc.lines(lvs.director, command.removeprefix("cat "))]
    recorded_head, *recorded_rows = recorded.splitlines()
    assert head == recorded_head
    if not command.endswith("conn"):
        assert rows == recorded_rows
        return
    # in no order; the recording guest took its time, too
    for row, other in zip(sorted(rows), sorted(recorded_rows), strict=True):
        assert row[:-8] == other[:-8] and abs(int(row[-8:]) - int(other[-8:])) <= 2


def _send(lvs: Harness, step: dict[str, Any], case: Case) -> Result:
    interface, sent = INTERFACE[step["who"]], bytes.fromhex(step["sent"])
    return lvs.send(frame(sent, interface), interface, mark=mark_of(case, dissect(sent).dst))


def _compare_tunnelled(step: dict[str, Any], result: Result, pieces: list[bytes]) -> None:
    """A packet in a tunnel, or its fragments, of which the last is the program's own."""
    assert result.reason == ("forwarded_related" if "icmp" in step else "forwarded_tunnel"), (step, result)
    after = [piece[14:] for piece in (*pieces, result.frame)]
    recorded = [bytes.fromhex(packet) for _, packet in step["out"]]
    assert [len(packet) for packet in after] == [len(packet) for packet in recorded]
    if len(after) > 1:
        after, recorded = [reassemble(after)], [reassemble(recorded)]
    assert not wrong_tunnel_sums(after[0]), (step, result)
    assert without_whims(after[0]) == without_whims(recorded[0]), (step, result)


@pytest.mark.parametrize("case", [case for case in PLAYED if case["group"] != "frag"], ids=lambda case: case["id"])
def test_packets(lvs: Harness, case: Case) -> None:
    _prepare(lvs, case)
    lvs.director.set_sysctls(case.get("sysctl", {}))
    lvs.restore(case["restore"])
    for step in case["packets"]:
        if "cmd" in step:
            _check_command(lvs, step["cmd"], step["stdout"])
            continue
        if "sleep" in step:
            lvs.advance(step["sleep"])
            continue
        with lvs.beyond() as arrived:
            result, sent = _send(lvs, step, case), bytes.fromhex(step["sent"])
            pieces = arrived(len(step["out"]) - 1) if result.forwarded and len(step["out"]) > 1 else []
        if not step["out"]:
            # IPVS drops; the stack says nothing to a reset, nor to an error about nobody's packet
            p = dissect(sent)
            silent = p.segment[13] & RST if p.protocol == TCP else p.protocol in (ICMP, ICMP6)
            assert result.handed_up if silent else result.dropped and not result.answers, (step, result)
        elif " -i" in case["restore"] and step["out"][0][0] == "server":
            _compare_tunnelled(step, result, pieces)
        elif result.reason == "forwarded_bypass" or not _stacks_own(
            sent, step["out"], plain=" -g" not in case["restore"]
        ):
            [(wire, recorded)] = step["out"]
            after = result.frame[14:]
            assert result.forwarded or result.answers, (step, result)
            assert _without_whims(after) == _without_whims(bytes.fromhex(recorded)), (step, result)
            assert not wrong_sums(after) or wrong_sums(sent)  # what came wrong may leave so
            if result.frame[:14] != frame(sent, INTERFACE[step["who"]])[:14] and result.forwarded:
                assert result.frame[:6] == PEER_MAC[wire]
        else:
            assert result.handed_up, (step, result)


@pytest.mark.parametrize("case", [case for case in PLAYED if case["group"] == "frag"], ids=lambda case: case["id"])
def test_fragments(lvs: Harness, case: Case) -> None:
    """The kernel sends a datagram's fragments when it has all of them: one of the same length for each that came. Here
    each goes as soon as it is known where, in the same order."""
    lvs.restore(case["restore"])
    with Wires(lvs) as wires:
        for step in case["packets"]:
            wires.send(INTERFACE[step["who"]], [bytes.fromhex(step["sent"])])
        recorded = [(wire, answer) for step in case["packets"] for wire, answer in step["out"]]
        came = [(WIRE[one.side], one.packet.hex()) for one in wires.came(len(recorded))]
    assert came == recorded


def test_what_is_played() -> None:
    groups = ("nat", "dr", "refuse", "frag", "icmp", "sctp", "ipsec", "fwmark", "tun", "ftp")
    counts = {name: sum(case["group"] == name for case in PLAYED) for name in groups}
    assert counts == {
        "nat": 11, "dr": 4, "refuse": 10, "frag": 2, "icmp": 8, "sctp": 10, "ipsec": 8, "fwmark": 2, "tun": 17,
        "ftp": 4,
    }  # fmt: skip
