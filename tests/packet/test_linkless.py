"""Interfaces without link-layer headers: packets come in by tun, and leave by it, from and to Ethernet and tun.

    client 10.1/16, fd00:1::/64  -- t0 director t1 -- real servers 10.2/16, fd00:2::/64

Both tuns are held open here: what is written to one comes in there, what leaves by one is read from it. The director is
the harness's, whose Ethernet interfaces stay; its routes lead to one, to the other or to none of them.
"""

import pytest

from pylvs.datapath import interfaces, netlink, resize
from pylvs.lab.waiting import wait_for
from support.books import programs
from support.fragments import cut, join
from support.harness import CLIENT, SERVER, Harness, frame, ip
from support.packets import ICMP, ICMP6, TCP, UDP, dissect, icmp_error, wrong_sums
from support.talk import IPV4, Family, Talk
from support.tunnels import IPIP, reassemble, unwrap
from support.tuns import Tun


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
def test_nat_from_tun_to_tun(tuns: tuple[Harness, Tun, Tun], family: Family, protocol: int) -> None:
    lvs, client, server = tuns
    talk = Talk(lvs, family, protocol).serve()
    for turn in range(40):  # by the neighbour code, and without it
        client.comes(talk.question("S" if not turn else "A", b"hello"))
        got = server.gets()
        assert (got.source, got.destination) == ((family.client, 1025), (talk.rs, 8080))
        assert (got.ttl, wrong_sums(got.raw)) == (63, [])
        server.comes(talk.answer("SA" if not turn else "A", b"world"))
        got = client.gets()
        assert (got.source, got.destination) == ((family.vip, 80), (family.client, 1025))
        assert (got.ttl, wrong_sums(got.raw)) == (63, [])
    reasons = lvs.reasons()
    assert (reasons["forwarded_nat_request"], reasons["forwarded_nat_reply"]) == (40, 40)


def test_direct_routing_from_tun_to_tun(tuns: tuple[Harness, Tun, Tun], family: Family) -> None:
    lvs, client, server = tuns
    talk = Talk(lvs, family, rport=80).serve(method="-g")
    client.comes(talk.question("S"))
    assert server.gets().destination == (family.vip, 80)


def test_from_tun_to_ethernet_and_back(tuns: tuple[Harness, Tun, Tun], family: Family) -> None:
    """Clients behind tun, real servers on Ethernet."""
    lvs, client, _ = tuns
    ip("route replace 10.2.0.0/16 via 10.0.2.2\nroute replace fd00:2::/64 via fd00:a2::2")
    talk = Talk(lvs, family).serve()
    client.comes(talk.question("S"))
    assert lvs.wire([frame(talk.answer("SA"), SERVER)], SERVER).get("forwarded_nat_reply") == 1
    got = client.gets()
    assert (got.source, wrong_sums(got.raw)) == ((family.vip, 80), [])


def test_from_ethernet_to_tun(tuns: tuple[Harness, Tun, Tun], family: Family) -> None:
    """Clients on Ethernet, real servers behind tun, as behind WireGuard."""
    lvs, _, server = tuns
    ip("route replace 10.1.0.0/16 via 10.0.1.2\nroute replace fd00:1::/64 via fd00:a1::2")
    talk = Talk(lvs, family).serve()
    for turn in range(20):
        assert lvs.wire([frame(talk.question("S" if not turn else "A"), CLIENT)]) == {"forwarded_nat_request": 1}
        got = server.gets()
        assert (got.destination, wrong_sums(got.raw)) == ((talk.rs, 8080), [])


def test_errors(tuns: tuple[Harness, Tun, Tun], family: Family) -> None:
    """Those that the director makes, and those that it passes on."""
    lvs, client, server = tuns
    talk = Talk(lvs, family).serve(0)
    question = talk.question("S", b"hello")
    for _ in range(3):  # of the first the kernel does not know yet that tun has no neighbours
        client.comes(question)
        got = client.gets()
        assert got.protocol == (ICMP if family is IPV4 else ICMP6)
        assert (got.icmp[:2], got.quoted) == ((3, 3) if family is IPV4 else (1, 4), question)
        assert not wrong_sums(got.raw)
    talk.add(talk.rs)
    client.comes(question)
    saw = server.gets().raw
    server.comes(icmp_error(talk.rs, family.client, (3, 1) if family is IPV4 else (1, 3), saw))
    got = client.gets()
    assert (got.src, dissect(got.quoted).destination) == (family.vip, (family.vip, 80))
    assert not wrong_sums(got.raw)


def test_what_is_not_ours_is_the_stacks(tuns: tuple[Harness, Tun, Tun], family: Family) -> None:
    lvs, client, _ = tuns
    talk = Talk(lvs, family).serve()
    echo = bytes((8 if family is IPV4 else 128, 0, 0, 0)) + b"ping"
    client.comes(icmp_error(family.client, family.vip, (echo[0], 0), b"ping", 7))
    got = client.gets() if family is IPV4 else None
    assert got is None or (got.src, got.icmp[0]) == (family.vip, 0)
    assert talk.entry is None


def test_fragments_of_one_datagram_by_two_ways(tuns: tuple[Harness, Tun, Tun], family: Family) -> None:
    """Those that wait came by Ethernet, the first one comes by tun; and the other way round."""
    lvs, client, server = tuns
    talk = Talk(lvs, family, UDP).serve()
    whole = talk.question(payload=bytes(range(256)) * 12)
    for ident, early in enumerate(("tun", "ethernet")):
        parts = cut(whole, 1000, ident)
        for part in parts[1:]:
            if early == "tun":
                client.comes(part)
            else:
                assert lvs.from_client(part).reason == "held_fragment"
        wait_for(lambda: lvs.reasons()["held_fragment"] == 3, "three to wait")
        if early == "tun":
            with lvs.cable(CLIENT) as cable:
                cable.send(frame(parts[0]))
        else:
            client.comes(parts[0])
        joined = join(server.gets().raw for _ in parts)
        assert joined is not None and not wrong_sums(joined)
        assert dissect(joined).destination == (talk.rs, 8080)


@pytest.mark.parametrize("method", ["-m", "-g", "-i"])
def test_in_pieces(tuns: tuple[Harness, Tun, Tun], method: str) -> None:
    lvs, client, server = tuns
    ip("route replace 10.2.0.0/16 dev t1 mtu lock 1000")
    talk = Talk(lvs, IPV4, UDP, rport=80).serve(method=method)
    question = talk.question(payload=bytes(range(250)) * 5)
    client.comes(talk.question())  # of the next hop the first packet is asked for
    assert server.gets().protocol in (UDP, IPIP)
    client.comes(question)
    whole = reassemble([server.gets().raw, server.gets().raw])
    whole = unwrap(whole).inner if method == "-i" else whole
    assert not wrong_sums(whole)
    assert dissect(whole).payload == dissect(question).payload


def test_tables_and_programs_change(tuns: tuple[Harness, Tun, Tun]) -> None:
    """A table of another size, programs put in the place of those that run, a tun that comes later."""
    lvs, client, server = tuns
    talk = Talk(lvs, IPV4).serve()
    client.comes(talk.question("S"))
    assert server.gets().dst == talk.rs
    with lvs.instance.locked():
        resize.resize(lvs.instance, 13)
    lvs.reopen()
    client.comes(talk.question("A"))
    assert server.gets().dst == talk.rs
    lvs.instance.replace_programs()
    lvs.reopen()
    client.comes(talk.question("A"))
    assert server.gets().dst == talk.rs
    pinned = programs(lvs.instance)
    assert [name for name in pinned if name.startswith("steps")] == ["steps_", "steps_linkless_"]


def test_one_that_comes_later(own_network: Harness) -> None:
    """Its programs are loaded when they are needed, and not before."""
    lvs = own_network
    lvs.enter()
    lvs.reload()
    try:
        talk = Talk(lvs, IPV4).serve()
        assert not lvs.instance.works_linkless()
        tun = Tun("t0")
        lvs.director.set_timeouts(lvs.director.timeouts())
        assert interfaces.find("t0").ifindex in lvs.instance.attached()
        tun.comes(talk.question("S"))
        wait_for(lambda: talk.entry is not None, "a connection from the tun")
        tun.close()
        assert "t0" not in [interface.name for interface in netlink.interfaces()]
    finally:
        lvs.leave()


@pytest.mark.parametrize("hardware", [768, 769, 776, 778, 823], ids=["ipip", "ip6tnl", "sit", "gre", "ip6gre"])
def test_what_comes_out_of_a_tunnel(own_network: Harness, hardware: int, family: Family) -> None:
    """With ignore_tunneled it is not balanced; without, it is. What comes out of other interfaces always is."""
    lvs = own_network
    lvs.enter()
    tunnel, other = Tun("t0", hardware), Tun("t1")
    try:
        lvs.reload()
        assert interfaces.find("t0").hardware == hardware
        talk = Talk(lvs, family, UDP, rport=80).serve(method="-g")
        for ignore, through, seen in ((0, tunnel, True), (1, tunnel, False), (1, other, True), (0, tunnel, True)):
            lvs.set(ignore_tunneled=ignore)
            before = lvs.reasons()
            through.comes(talk.question())
            wait_for(lambda then=before: lvs.reasons()["received"] > then["received"], "the packet")
            now = lvs.reasons()
            changed = {name for name in now if now[name] != before[name]} - {"received"}
            assert changed == {"forwarded_route" if seen else "up_tunnelled"}
        with lvs.instance.locked():
            resize.resize(lvs.instance, 13)
        lvs.reopen()
        lvs.set(ignore_tunneled=1)
        before = lvs.reasons()["up_tunnelled"]
        tunnel.comes(talk.question())
        wait_for(lambda: lvs.reasons()["up_tunnelled"] > before, "it to be handed up by other programs, too")
    finally:
        tunnel.close()
        other.close()
        lvs.leave()
