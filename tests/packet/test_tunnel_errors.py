"""ICMP errors about the tunnel packets of the director: what they say is remembered, and told on (facts 6.10)."""

import itertools

import pytest

from support.harness import Harness, Result
from support.packets import ICMP, ICMP6, TCP, UDP, icmp_error, wrong_sums
from support.talk import FAMILIES, IPV4, IPV6, Family, Talk, at

GUE = "--tun-type gue --tun-port 6080"
KINDS = {"ipip": "", "gre": "--tun-type gre", "gre-csum": "--tun-type gre --tun-csum", "gue": GUE}
EXTRA = {"ipip": 0, "gre": 4, "gre-csum": 8, "gue": 12}
TOO_BIG = {4: (3, 4), 6: (2, 0)}
CASES = [
    pytest.param(inner, outer, kind, id=f"{inner.version}in{outer.version}-{kind}")
    for inner, outer, kind in itertools.product(FAMILIES, FAMILIES, KINDS)
]


def tunnel(lvs: Harness, inner: Family, outer: Family, kind: str, protocol: int = TCP) -> Talk:
    talk = Talk(lvs, inner, protocol, rport=80)
    lvs.ipvsadm(f"-A {talk.key} -s rr", f"-a {talk.key} -r {at(outer.server, 80)} -i {KINDS[kind]}")
    assert talk.asks("S").reason == "forwarded_tunnel"
    return talk


def sent(talk: Talk, size: int = 600, df: bool = True) -> bytes:
    """A packet of the client's, as it left in its tunnel."""
    of_ip = {"df": df} if talk.family is IPV4 else {}
    result = talk.asks("A", bytes(size), **of_ip)
    assert result.reason == "forwarded_tunnel", result
    return result.packet.raw


def complains(talk: Talk, outer: Family, quoted: bytes, kind: tuple[int, int], mtu: int = 0, wrong: int = 0) -> Result:
    """A router on the way to the real server does."""
    return talk.lvs.from_server(icmp_error(outer.hop, outer.far, kind, quoted, mtu, wrong=wrong))


@pytest.mark.parametrize(("inner", "outer", "kind"), CASES)
def test_a_narrow_path(lvs: Harness, inner: Family, outer: Family, kind: str) -> None:
    talk = tunnel(lvs, inner, outer, kind)
    quoted = sent(talk, 1320)
    before = lvs.director.totals().outpkts
    said = complains(talk, outer, quoted, TOO_BIG[outer.version], 1350)
    assert said.reason == "dropped_tunnel_error"
    room = 1350 - outer.head - EXTRA[kind]
    if inner is outer:
        # the client is told about its own packet, with what is left for it
        assert said.answers == ("answered_icmp",)
        error = said.packet
        assert error.protocol == (ICMP if inner is IPV4 else ICMP6)
        assert (error.dst, error.icmp) == (inner.client, (*TOO_BIG[inner.version], room))
        assert not wrong_sums(error.raw)
        # its TTL is one less, as it was sent
        assert (
            error.quoted[inner.head :]
            == talk.question("A", bytes(1320))[inner.head :][: len(error.quoted) - inner.head]
        )
        assert lvs.director.totals().outpkts == before + 1
    else:
        assert said.answers == ()
    # whoever sends as much as that again is told so by the director
    lvs.shift(1)
    of_ip = {"df": True} if inner is IPV4 else {}
    refused = talk.asks("A", bytes(1320), **of_ip)
    assert refused.reason == "dropped_too_big"
    assert refused.packet.icmp == (*TOO_BIG[inner.version], room)
    fits = talk.asks("A", bytes(room - inner.head - 20), **of_ip)
    assert fits.reason == "forwarded_tunnel"
    # routers learn new ways: after ten minutes the kernel forgets
    lvs.shift(601)
    assert talk.asks("S", bytes(1320), **of_ip).reason == "forwarded_tunnel"


def test_without_df_the_client_need_not_know(lvs: Harness) -> None:
    talk = tunnel(lvs, IPV4, IPV4, "ipip")
    said = complains(talk, IPV4, sent(talk, 1200, df=False), (3, 4), 1000)
    assert (said.reason, said.answers) == ("dropped_tunnel_error", ())


def test_a_smaller_mtu_stays(lvs: Harness) -> None:
    """Nobody makes a path wider by a forged error, nor narrower than the kernel would believe."""
    talk = tunnel(lvs, IPV4, IPV4, "ipip")
    quoted = sent(talk)
    for said, room in ((1000, 980), (1300, 980), (70, 532), (0, 532)):
        answer = complains(talk, IPV4, quoted, (3, 4), said)
        assert answer.reason == "dropped_tunnel_error"
        lvs.shift(0.1)
        assert talk.asks("A", bytes(1400), df=True).packet.icmp == (3, 4, room)


@pytest.mark.parametrize("kind", [(3, 0), (3, 1), (3, 3), (3, 13), (11, 0)])
def test_other_errors_are_passed_on(lvs: Harness, kind: tuple[int, int]) -> None:
    talk = tunnel(lvs, IPV4, IPV4, "gue")
    said = complains(talk, IPV4, sent(talk), kind)
    assert (said.reason, said.answers) == ("dropped_tunnel_error", ("answered_icmp",))
    assert (said.packet.src, said.packet.dst, said.packet.icmp) == (IPV4.vip, IPV4.client, (*kind, 0))
    assert not wrong_sums(said.packet.raw)


def test_other_errors_over_ipv6(lvs: Harness) -> None:
    talk = tunnel(lvs, IPV6, IPV6, "ipip")
    said = complains(talk, IPV6, sent(talk), (1, 3))
    assert (said.packet.dst, said.packet.icmp) == (IPV6.client, (1, 3, 0))
    assert not wrong_sums(said.packet.raw)


def test_udp(lvs: Harness, family: Family) -> None:
    talk = tunnel(lvs, family, family, "gre", UDP)
    said = complains(talk, family, sent(talk), TOO_BIG[family.version], 1300)
    assert said.packet.icmp == (*TOO_BIG[family.version], 1300 - family.head - 4)


def test_what_is_not_believed(lvs: Harness) -> None:
    """Another real server, another type, another port, another source, another connection, a wrong sum."""
    talk = tunnel(lvs, IPV4, IPV4, "gue")
    quoted = sent(talk)

    def patched(at: int, value: bytes) -> bytes:
        return quoted[:at] + value + quoted[at + len(value) :]

    for name, wrong in {
        "real server": patched(16, bytes((10, 2, 0, 2))),
        "source": patched(12, bytes((10, 9, 9, 9))),
        "protocol": patched(9, b"\x04"),
        "port": patched(22, b"\0\7"),
        "client": patched(32 + 12, bytes((10, 1, 0, 77))),
        "version of GUE": patched(28, b"\x40"),
        "options of GUE": patched(28, b"\x01"),
        "family": patched(29, b"\x29"),
        "a later fragment": patched(6, b"\0\7"),
    }.items():
        said = complains(talk, IPV4, wrong, (3, 4), 1000)
        assert said.reason == "up_related_unknown", name
    assert complains(talk, IPV4, quoted, (3, 4), 1000, wrong=1).reason == "dropped_wrong_checksum"
    lvs.shift(1)
    assert talk.asks("A", bytes(1400), df=True).reason == "forwarded_tunnel"


def test_every_length(lvs: Harness, family: Family) -> None:
    """Routers quote as much as they like: too little is left to the stack."""
    talk = tunnel(lvs, family, family, "ipip")
    quoted = sent(talk)
    enough = 2 * family.head + 4
    for length in range(enough + 30):
        said = complains(talk, family, quoted[:length], TOO_BIG[family.version], 1400)
        assert said.reason == (
            "dropped_tunnel_error"
            if length >= enough
            else "up_malformed"
            if length < family.head
            else "up_related_unknown"
        ), length
