"""For any TCP or UDP packet: right checksums stay right, lengths are kept, the TTL is one less, and the rest is as it
came; a reply brought back undoes what was done to the request."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.harness import MACS, Harness
from support.packets import DESTINATION, HOP_BY_HOP, TCP, UDP, dissect, ip, tcp, udp, wrong_sums
from support.talk import FAMILIES, IPV4, Family, Talk

PAYLOADS = st.one_of(*(st.binary(min_size=low, max_size=high) for low, high in ((0, 64), (500, 530), (1300, 1380))))
PORTS = st.integers(1, 65535).filter(lambda port: port != 20)
QUICK = settings(
    max_examples=150, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip


@st.composite
def headers(draw: st.DrawFn, family: Family) -> dict[str, Any]:
    """What an IP header may say."""
    found: dict[str, Any] = {"ttl": draw(st.integers(2, 255)), "tos": draw(st.integers(0, 255))}
    if family is IPV4:
        found["ident"] = draw(st.integers(0, 65535))
        found["df"] = draw(st.booleans())
        words = draw(st.integers(0, 10))
        if words:
            found["options"] = b"\x01" * (words * 4)
    else:
        found["flow"] = draw(st.integers(0, 0xFFFFF))
        bodies = st.integers(0, 2).map(lambda n: b"\1\4" + bytes(4 + 8 * n))
        found["extensions"] = draw(st.lists(st.tuples(st.sampled_from([HOP_BY_HOP, DESTINATION]), bodies), max_size=3))
    return found


@st.composite
def conversations(draw: st.DrawFn) -> dict[str, Any]:
    family = draw(st.sampled_from(FAMILIES))
    protocol = draw(st.sampled_from([TCP, UDP]))
    return {
        "family": family,
        "protocol": protocol,
        "sport": draw(PORTS),
        "method": draw(st.sampled_from(["-m", "-g"])),
        "there": draw(PAYLOADS),
        "back": draw(PAYLOADS),
        "header": draw(headers(family)),
        "reply": draw(headers(family)),
        "seq": draw(st.integers(0, 2**32 - 1)),
        "options": draw(st.binary(max_size=40)) if protocol == TCP else b"",
        "checked": family is not IPV4 or protocol == TCP or draw(st.booleans()),
    }


def _segment(c: dict[str, Any], sport: int, dport: int, flags: str, payload: bytes) -> bytes:
    if c["protocol"] == UDP:
        return udp(sport, dport, payload)
    return tcp(sport, dport, flags, payload=payload, seq=c["seq"], options=c["options"])


def _kept(before: bytes, after: bytes, checked: bool, rewritten: bool) -> None:
    old, new = dissect(before), dissect(after)
    assert len(after) == len(before) and len(new.raw) == len(old.raw)
    assert new.ttl == old.ttl - 1
    assert (new.tos, new.ident, new.df, new.head) == (old.tos, old.ident, old.df, old.head)
    assert new.payload == old.payload
    if new.version == 4:
        assert new.raw[20 : new.head] == old.raw[20 : old.head]
    else:
        assert new.raw[:7] == old.raw[:7] and new.raw[40 : new.head] == old.raw[40 : old.head]
    if old.protocol == TCP:
        assert new.segment[4:16] == old.segment[4:16] and new.segment[18:] == old.segment[18:]
    assert not wrong_sums(after)
    if old.protocol == UDP and rewritten:
        assert new.segment[6:8] != b"\0\0"
    if not rewritten:
        assert new.segment == old.segment
    assert checked or old.segment[6:8] == b"\0\0"


@QUICK
@given(c=conversations())
def test_any_conversation(lvs: Harness, c: dict[str, Any]) -> None:
    lvs.reset()
    family: Family = c["family"]
    nat = c["method"] == "-m"
    rport = 8080 if nat else 80
    Talk(lvs, family, c["protocol"], rport=rport).serve(3, method=c["method"])
    # a header of 60 bytes, TCP options and 1380 bytes of payload are more than a frame holds
    room = 1500 - 60 - 60 - (80 if family is not IPV4 else 0)
    question = ip(family.client, family.vip, c["protocol"], _segment(c, c["sport"], 80, "S", c["there"][:room]),
                  check=c["checked"], **c["header"])  # fmt: skip
    result = lvs.from_client(question)
    assert result.reason == ("forwarded_nat_request" if nat else "forwarded_route")
    after = result.packet
    assert after.source == (family.client, c["sport"])
    assert after.destination == ((family.servers[2], rport) if nat else (family.vip, 80))
    _kept(question, result.frame[14:], c["checked"], nat)
    if not nat:
        return
    answer = ip(after.dst, family.client, c["protocol"], _segment(c, rport, c["sport"], "SA", c["back"][:room]),
                check=c["checked"], **c["reply"])  # fmt: skip
    result = lvs.from_server(answer)
    assert result.reason == "forwarded_nat_reply"
    assert result.packet.source == (family.vip, 80)
    assert result.packet.destination == (family.client, c["sport"])
    _kept(answer, result.frame[14:], c["checked"], True)


@QUICK
@given(data=st.data())
def test_any_frame_is_counted_once(lvs: Harness, data: st.DataObject) -> None:
    """And, unless it is forwarded, it is as it came or gone."""
    family = data.draw(st.sampled_from(FAMILIES))
    protocol = data.draw(st.sampled_from([TCP, UDP]))
    talk = Talk(lvs, family, protocol)
    lvs.reset()
    talk.serve()
    packet = bytearray(talk.question(data.draw(st.integers(0, 63)), data.draw(st.binary(max_size=40))))
    for _ in range(data.draw(st.integers(0, 3))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(family.head, len(packet)))
    kind = b"\x08\x00" if family is IPV4 else b"\x86\xdd"
    before = lvs.reasons()
    result = lvs.send(MACS["d0"] + MACS["c0"] + kind + bytes(packet[:cut]))
    now = lvs.reasons()
    counted = {name: now[name] - before[name] for name in now if now[name] != before[name]}
    assert counted.pop("received") == 1
    assert counted.pop(result.reason) == 1
    if result.forwarded:
        assert result.packet.dst in family.servers
