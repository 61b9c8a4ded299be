"""Real servers that come, go, and come back, and services that go, with connections open (facts 1.6 to 1.11, 2.9)."""

import pytest

from support.books import books
from support.harness import Harness
from support.packets import TCP, UDP, ip, tcp, udp
from support.talk import IPV4, IPV6, Family, Talk


def test_a_deleted_real_servers_connections_wait(lvs: Harness, family: Family, protocol: int) -> None:
    """Requests are dropped by name; replies still pass, as with kernel IPVS."""
    talk = Talk(lvs, family, protocol).serve(2).opens()
    talk.delete()
    assert talk.asks("A").reason == "dropped_destination_gone"
    assert not talk.asks("A").answers, "silently"
    assert talk.answers("A").reason == "forwarded_nat_reply"
    assert talk.entry is not None


def test_and_live_again_when_it_comes_back(lvs: Harness, family: Family, protocol: int) -> None:
    """With its counters, which did not grow while it was away."""
    talk = Talk(lvs, family, protocol).serve(2).opens()
    stats = _stats(talk)
    talk.delete()
    talk.asks("A")
    talk.answers("A")
    talk.add(talk.rs)
    assert _stats(talk) == stats
    active = (1, 0) if protocol == TCP else (0, 1)
    assert _destination(talk)[1:3] == active
    assert talk.asks("A").packet.destination == (talk.rs, 8080)
    assert _stats(talk)[1] == stats[1] + 1


def _destination(talk: Talk) -> tuple:
    [found] = [d for d in _service(talk).destinations if d.server.address == talk.rs]
    return found


def _service(talk: Talk):
    return next(s for s in talk.lvs.director.services() if s.service.protocol == talk.protocol)


def _stats(talk: Talk) -> tuple:
    return _destination(talk).stats[:5]


def test_it_stands_at_the_lists_head_when_it_comes_back(lvs: Harness, family: Family) -> None:
    talk = Talk(lvs, family).serve(3)
    talk.delete(family.servers[0])
    talk.add(family.servers[0])
    order = [destination.server.address for destination in _service(talk).destinations]
    assert order == [family.servers[0], family.servers[2], family.servers[1]]


def test_a_new_syn_of_a_waiting_connection_waits_too(lvs: Harness, family: Family) -> None:
    """Only in TIME_WAIT or CLOSE does a SYN begin anew; otherwise the old real server has it (facts 2.9)."""
    talk = Talk(lvs, family).serve(2).opens()
    talk.delete()
    assert talk.asks("S").reason == "dropped_destination_gone"


def test_expire_nodest_conn(lvs: Harness, family: Family, protocol: int) -> None:
    """As configured, the next packet ends the connection instead: a SYN or datagram goes to another real server."""
    talk = Talk(lvs, family, protocol).serve(2).opens()
    lvs.set(expire_nodest_conn=1)
    talk.delete()
    if protocol == TCP:
        assert talk.asks("A").reason == "up_no_connection"
        assert talk.entry is None
    result = talk.asks("S")
    assert result.reason == "forwarded_nat_request"
    assert result.packet.dst != talk.rs


def test_expire_nodest_conn_ends_connections_with_their_real_server(
    lvs: Harness, family: Family, protocol: int
) -> None:
    """At once, and nobody else's; persistence templates too (facts 1.11)."""
    lvs.set(expire_nodest_conn=1)
    talk = Talk(lvs, family, protocol)
    lvs.ipvsadm(f"-A {talk.key} -s rr -p 300")
    for server in family.servers[:2]:
        talk.add(server)
    talk = talk.opens()
    other = f"{family.client[:-1]}7"
    segment = udp(1025, 80, b"x") if protocol == UDP else tcp(1025, 80, "S")
    lvs.from_client(ip(other, family.vip, protocol, segment))
    assert len(list(lvs.director.connections())) == 4
    talk.delete()
    assert {c.caddr for c in lvs.director.connections()} == {other}
    assert len(list(lvs.director.connections())) == 2
    books(lvs.instance)
    lvs.ipvsadm("-C")
    assert not list(lvs.director.connections())


def test_a_syn_to_a_quiesced_real_server_goes_to_another(lvs: Harness, family: Family) -> None:
    """With expire_nodest_conn, whatever the state of the connection (facts 2.9)."""
    talk = Talk(lvs, family).serve(2).opens()
    talk.weigh(talk.rs, 0)
    assert talk.asks("S").packet.dst == talk.rs
    lvs.set(expire_nodest_conn=1)
    assert talk.asks("A").packet.dst == talk.rs
    assert talk.asks("S").packet.dst != talk.rs
    assert len(lvs.connections()) == 1


def test_other_connections_go_on(lvs: Harness, family: Family) -> None:
    first = Talk(lvs, family).serve(2).opens()
    second = Talk(lvs, family, sport=1026).opens()
    assert first.rs != second.rs
    first.delete()
    assert second.asks("A").packet.dst == second.rs
    assert second.answers("A").reason == "forwarded_nat_reply"


def test_weight_0_quiesces(lvs: Harness, family: Family, protocol: int) -> None:
    """No new connections, and the old ones undisturbed."""
    talk = Talk(lvs, family, protocol).serve(2).opens()
    talk.weigh(talk.rs, 0)
    for sport in range(2000, 2010):
        assert talk.from_port(sport).asks("S").packet.dst != talk.rs
    assert talk.asks("A").packet.dst == talk.rs
    assert talk.answers("A").reason == "forwarded_nat_reply"
    talk.weigh(talk.rs, 1)
    assert {talk.from_port(sport).asks("S").packet.dst for sport in range(3000, 3004)} == set(family.servers[:2])


def test_a_deleted_services_connections_wait(lvs: Harness, family: Family, protocol: int) -> None:
    """They stay until their time is over; the VIP's other packets are the stack's again."""
    talk = Talk(lvs, family, protocol).serve().opens()
    Talk(lvs, family, protocol, port=99).serve()
    lvs.ipvsadm(f"-D {talk.key}")
    assert talk.asks("A").reason == "dropped_destination_gone"
    assert talk.answers("A").reason == "forwarded_nat_reply"
    assert talk.from_port(1026).asks("S").reason == "up_no_service"
    lvs.advance(2000)
    assert talk.asks("A").reason == "up_no_service"


def test_and_live_again_with_a_service_made_anew(lvs: Harness, family: Family, protocol: int) -> None:
    """Its real servers come back from the trash, with connections but with fresh counters (facts 1.11)."""
    talk = Talk(lvs, family, protocol).serve().opens()
    lvs.ipvsadm(f"-D {talk.key}")
    lvs.ipvsadm(f"-A {talk.key} -s wlc")
    talk.add(talk.rs)
    assert talk.asks("A").packet.destination == (talk.rs, 8080)
    assert _stats(talk)[:2] == (0, 1)


def test_flush(lvs: Harness, family: Family) -> None:
    talks = [Talk(lvs, family, protocol, port=port).serve().opens() for protocol in (TCP, UDP) for port in (80, 81)]
    lvs.ipvsadm("-C")
    for talk in talks:
        assert talk.asks("A").reason == "up_no_service"
        assert talk.from_port(9).asks("S").reason == "up_no_service"
    Talk(lvs, family, port=99).serve()
    for talk in talks:
        assert talk.asks("A").reason == "dropped_destination_gone"


def test_with_the_last_service_of_a_family_all_its_packets_are_the_stacks(
    lvs: Harness, family: Family, protocol: int
) -> None:
    """Connections too (facts 1.4), and the other family does not notice."""
    other = Talk(lvs, IPV6 if family is IPV4 else IPV4, protocol).serve().opens()
    talk = Talk(lvs, family, protocol).serve().opens()
    lvs.ipvsadm(f"-D {talk.key}")
    assert talk.asks("A").reason == "up_no_service"
    assert talk.answers("A").reason == "up_no_service"
    assert other.asks("A").reason == "forwarded_nat_request"
    Talk(lvs, family, protocol, port=99).serve()
    assert talk.answers("A").reason == "forwarded_nat_reply"


def test_an_edited_service_keeps_its_connections(lvs: Harness, family: Family) -> None:
    talk = Talk(lvs, family).serve(3).opens()
    lvs.ipvsadm(f"-E {talk.key} -s wlc")
    assert talk.asks("A").packet.dst == talk.rs


@pytest.mark.parametrize("scheduler", ["rr", "wrr", "lc", "wlc"])
def test_a_real_server_of_another_port_is_another(lvs: Harness, family: Family, scheduler: str) -> None:
    talk = Talk(lvs, family).serve(0, scheduler=scheduler)
    for port in (8080, 8081, 8082):
        Talk(lvs, family, rport=port).add(family.server)
    chosen = {talk.from_port(sport).asks("S").packet.destination for sport in range(1025, 1034)}
    assert chosen == {(family.server, port) for port in (8080, 8081, 8082)}


def test_the_trash_is_emptied_in_time(lvs: Harness, family: Family) -> None:
    """Idle for two minutes and seen so twice, a deleted real server is forgotten: the next is a new one, with counters
    at zero (facts 1.11)."""
    talk = Talk(lvs, family).serve(1).opens()
    talk.delete()
    lvs.advance(1000)  # its connection ends
    lvs.advance(121)
    talk.add(family.servers[1])
    talk.delete(family.servers[1])
    lvs.advance(300)
    talk.add(talk.rs)
    assert _stats(talk) == (0, 0, 0, 0, 0)


def test_the_trash_is_not_emptied_too_early(lvs: Harness, family: Family) -> None:
    """The two minutes begin when the last connection has ended, not with the deletion."""
    talk = Talk(lvs, family).serve(1).opens()
    before = _stats(talk)
    talk.delete()
    lvs.advance(901)  # its connection ends
    lvs.advance(110)
    talk.add(family.servers[1])  # looks through the trash
    talk.add(talk.rs)
    assert _stats(talk) == before


def test_the_trash_keeps_what_has_connections(lvs: Harness, family: Family) -> None:
    talk = Talk(lvs, family).serve(1).opens()
    before = _stats(talk)
    talk.delete()
    for _ in range(3):
        lvs.advance(600)
        talk.add(family.servers[1])  # each addition looks through the trash
        talk.delete(family.servers[1])
        assert talk.answers("A").forwarded
    talk.add(talk.rs)
    assert _stats(talk) == before
