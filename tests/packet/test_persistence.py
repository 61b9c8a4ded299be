"""Persistence templates: whom a client comes back to, how long, and what ends that (facts 2.7, 2.11, 5)."""

import json

import pytest

from pylvs.cli import conns
from pylvs.datapath import resize
from pylvs.model import virtual_service
from pylvs.selections import Selection
from support.books import books
from support.harness import Harness
from support.packets import TCP, UDP
from support.persistent import ask, destination, say, serve, templates
from support.talk import IPV4, IPV6, Family, Talk


def test_a_client_comes_back(lvs: Harness, family: Family, protocol: int) -> None:
    talk = serve(Talk(lvs, family, protocol))
    first = ask(talk, family.client)
    assert {ask(talk, family.client, sport) for sport in range(2000, 2010)} == {first}
    [template] = templates(lvs)
    assert template[:8] == (
        10 if family.version == 6 else 2, protocol, family.client, 0, family.vip, 80, first, 8080,
    )  # fmt: skip
    assert (template.state, template.expires // 1000) in (("NONE", 300), ("NONE", 299))
    inactive, active = (11, 0) if protocol == UDP else (0, 11)
    assert destination(talk, first) == (active, inactive, 1)
    books(lvs.instance)


def test_others_go_elsewhere(lvs: Harness, family: Family) -> None:
    talk = serve(Talk(lvs, family))
    clients = [f"{family.client[:-1]}{n}" for n in range(1, 7)]
    assert {ask(talk, client) for client in clients} == set(family.servers[:3])
    assert len(templates(lvs)) == 6


@pytest.mark.parametrize(
    ("options", "same", "other"),
    [
        ("-p 300 -M 255.255.255.0", ("10.1.0.1", "10.1.0.254"), "10.1.1.1"),
        ("-p 300 -M 255.255.0.0", ("10.1.0.1", "10.1.255.254"), "10.2.0.77"),
        ("-p 300 -M 255.255.255.254", ("10.1.0.2", "10.1.0.3"), "10.1.0.1"),
    ],
)
def test_a_network_comes_back(lvs: Harness, options: str, same: tuple[str, str], other: str) -> None:
    talk = serve(Talk(lvs, IPV4), 2, options)
    assert ask(talk, same[0]) == ask(talk, same[1]) != ask(talk, other)


@pytest.mark.parametrize(
    ("prefix", "same", "other"),
    [
        (128, ("fd00:1::1", "fd00:1::1"), "fd00:1::2"),
        (127, ("fd00:1::2", "fd00:1::3"), "fd00:1::1"),
        (96, ("fd00:1::1", "fd00:1::ffff:ffff"), "fd00:1::1:0:1"),
        (64, ("fd00:1::1", "fd00:1::ffff:0:0:1"), "fd00:2::77"),
        (33, ("fd00:1:7fff::1", "fd00:1::1"), "fd00:1:8000::1"),
        (32, ("fd00:1:ffff::1", "fd00:1::1"), "fd00:2::77"),
        (1, ("fd00:1::1", "8000::1"), "7000::1"),
    ],
)
def test_a_prefix_comes_back(lvs: Harness, prefix: int, same: tuple[str, str], other: str) -> None:
    talk = serve(Talk(lvs, IPV6), 2, f"-p 300 -M {prefix}")
    assert ask(talk, same[0], 1) == ask(talk, same[1], 2) != ask(talk, other)


def test_each_protocol_and_port_has_its_own(lvs: Harness, family: Family) -> None:
    web, other = serve(Talk(lvs, family)), serve(Talk(lvs, family, port=81))
    dns = serve(Talk(lvs, family, UDP))
    for talk in (web, other, dns):
        ask(talk, family.client)
    assert sorted((t.protocol, t.vport) for t in templates(lvs)) == [(TCP, 80), (TCP, 81), (UDP, 80)]


def test_its_time_begins_anew_with_each_connection_and_with_no_other_packet(lvs: Harness, family: Family) -> None:
    talk = serve(Talk(lvs, family), options="-p 100")
    first = ask(talk, family.client)
    lvs.advance(50)
    assert ask(talk, family.client, 1025, "A") == first
    [template] = templates(lvs)
    assert template.expires <= 50_000
    ask(talk, family.client, 2000)
    [template] = templates(lvs)
    assert 98_000 < template.expires <= 100_000


def test_it_ends_and_the_client_may_go_elsewhere(lvs: Harness, family: Family) -> None:
    talk = serve(Talk(lvs, family), options="-p 100")
    first = ask(talk, family.client)
    lvs.advance(61)  # the half-open connection is over
    assert len(lvs.connections()) == 1
    lvs.advance(40)
    assert not lvs.connections()
    assert ask(talk, family.client) != first


def test_a_template_lives_as_long_as_its_connections_a_minute_at_a_time(lvs: Harness, family: Family) -> None:
    """And a minute is its timeout from then on, also if it is used again (facts 2.7)."""
    talk = serve(Talk(lvs, family), options="-p 100").opens()
    lvs.advance(101)
    [template] = templates(lvs)
    assert 58_000 < template.expires <= 60_000
    for _ in range(5):
        lvs.advance(59)
        talk.asks("A")
        assert len(templates(lvs)) == 1
    assert ask(talk, family.client, 2000) == talk.rs
    [template] = templates(lvs)
    assert 58_000 < template.expires <= 60_000
    books(lvs.instance)


def test_a_template_that_is_found_past_its_time_lives_on_for_its_connections(lvs: Harness, family: Family) -> None:
    """Whether the sweep comes first or a packet."""
    talk = serve(Talk(lvs, family), options="-p 100").opens()
    lvs.shift(101)
    assert ask(talk, family.client, 2000) == talk.rs
    assert len(templates(lvs)) == 1
    books(lvs.instance)


def test_a_quiescent_real_server_keeps_its_clients(lvs: Harness, family: Family) -> None:
    """Weight 0 ends no template (facts 2.11)."""
    talk = serve(Talk(lvs, family)).opens()
    talk.weigh(talk.rs, 0)
    assert ask(talk, family.client, 2000) == talk.rs
    assert ask(talk, f"{family.client[:-1]}9", 2000) != talk.rs


def test_expire_quiescent_template(lvs: Harness, family: Family) -> None:
    talk = serve(Talk(lvs, family)).opens()
    lvs.set(expire_quiescent_template=1)
    talk.weigh(talk.rs, 0)
    moved = ask(talk, family.client, 2000)
    assert moved in family.servers and moved != talk.rs
    assert talk.asks("A").packet.dst == talk.rs, "connections go on"
    shown = sorted((t.vport, t.dport, t.daddr) for t in templates(lvs))
    assert shown == [(80, 8080, moved), (65535, 65535, talk.rs)]
    assert ask(talk, family.client, 2001) == moved
    books(lvs.instance)


def test_a_deleted_real_server_loses_its_clients(lvs: Harness, family: Family) -> None:
    talk = serve(Talk(lvs, family)).opens()
    talk.delete()
    moved = ask(talk, family.client, 2000)
    assert moved in family.servers and moved != talk.rs
    talk.add(talk.rs)
    assert ask(talk, family.client, 2001) == moved, "back again, it does not get them back"
    assert talk.asks("A").packet.dst == talk.rs, "but its connections"
    books(lvs.instance)


def test_but_gets_them_back_if_they_did_not_come_meanwhile(lvs: Harness, family: Family) -> None:
    talk = serve(Talk(lvs, family)).opens()
    talk.delete()
    talk.add(talk.rs)
    assert ask(talk, family.client, 2000) == talk.rs


def test_a_trashed_real_server_is_kept_for_its_templates(lvs: Harness) -> None:
    talk = serve(Talk(lvs, IPV4), options="-p 2000")
    first = ask(talk, IPV4.client)
    lvs.advance(130)  # the connection is over
    talk.delete(first)
    lvs.advance(400)
    talk.add("10.2.0.9")  # that is when the trash is emptied
    talk.add(first)
    assert destination(talk, first) == (0, 0, 1)
    assert ask(talk, IPV4.client, 2000) == first


def test_a_trashed_real_server_is_idle_from_its_last_templates_end(lvs: Harness, family: Family) -> None:
    """Not from that of its last connection: the kernel keeps whom a template names (facts 1.11)."""
    talk = serve(Talk(lvs, family), 1, options="-p 500").opens()
    lvs.director.flush_connections(Selection(client_port=talk.sport))
    talk.delete()
    lvs.advance(501)
    assert not templates(lvs)
    lvs.advance(60)
    talk.add(talk.rs)
    [service] = lvs.director.services()
    assert service.destinations[0].stats.conns == 1


def test_a_template_proves_itself(lvs: Harness, family: Family, protocol: int) -> None:
    talk = serve(Talk(lvs, family, protocol))
    first = talk.asks("S")
    [template] = templates(lvs)
    assert template.state == "NONE"
    server = first.packet.dst
    Talk(lvs, family, protocol, server=server).answers("SA")
    if protocol == TCP:
        assert templates(lvs)[0].state == "NONE"
        talk.asks("A")
    assert templates(lvs)[0].state == "ASSURED"
    lvs.ipvsadm("-Lnc")


def test_the_state_is_told_once(lvs: Harness) -> None:
    """Afterwards the template is left alone: it may be another's."""
    talk = serve(Talk(lvs, IPV4)).opens()
    [(number, status)] = [
        (n, lvs.instance.slots.get(n, "status"))
        for n in range(lvs.instance.slots.entries)
        if lvs.instance.slots.get(n, "life") & 0xFF == 7
    ]
    lvs.instance.slots.put(number, "status", status & ~0xFF)
    talk.asks("A")
    assert templates(lvs)[0].state == "NONE"


@pytest.mark.parametrize("method", ["-m", "-g"])
def test_ftp(lvs: Harness, family: Family, method: str) -> None:
    """All ports of an FTP service share a template, under port 0 (facts 5.1)."""
    talk = serve(Talk(lvs, family, port=21, rport=21), method=method)
    ask(talk, family.client)
    [template] = templates(lvs)
    assert (template.vport, template.dport) == (0, 0)


def test_one_packet_scheduling(lvs: Harness, family: Family) -> None:
    """Each datagram is a connection of its own, in no table, that counts as one (facts 2.5)."""
    talk = Talk(lvs, family, UDP)
    lvs.ipvsadm(f"-A {talk.key} -s rr -o")
    for server in family.servers[:3]:
        talk.add(server)
    assert [ask(talk, family.client) for _ in range(6)] == 2 * list(reversed(family.servers[:3]))
    assert not lvs.connections()
    [service] = lvs.director.services()
    assert service.stats[:3] == (6, 6, 0)
    assert [d[1:3] for d in service.destinations] == 3 * [(0, 0)]
    assert Talk(lvs, family, UDP).answers().reason == "up_no_service"
    books(lvs.instance)


def test_one_packet_scheduling_is_for_udp(lvs: Harness, family: Family) -> None:
    """ipvsadm refuses it for TCP; the kernel ignores it."""
    talk = Talk(lvs, family)
    lvs.director.add_service(virtual_service(family.vip, 80, one_packet=True))
    talk.add(family.server)
    assert ask(talk, family.client) == family.server
    assert len(lvs.connections()) == 1


def test_one_packet_scheduling_with_persistence(lvs: Harness, family: Family) -> None:
    """The template counts the packets (facts 5.4), and begins anew with each."""
    talk = serve(Talk(lvs, family, UDP), options="-p 100 -o")
    first = ask(talk, family.client)
    lvs.advance(90)
    assert {ask(talk, family.client, sport) for sport in range(2000, 2005)} == {first}
    [template] = lvs.director.connections()
    assert template.template and template.packets == 6
    assert template.expires > 98_000
    books(lvs.instance)
    lvs.advance(101)
    assert not lvs.connections()


def test_a_connection_of_a_template_is_not_begun_anew(lvs: Harness, family: Family) -> None:
    """In TIME_WAIT a SYN would open another one, were it not controlled (facts 2.9)."""
    talk = serve(Talk(lvs, family)).opens()
    for who, flags in ((talk.asks, "F"), (talk.answers, "F"), (talk.asks, "A")):
        who(flags)
    assert talk.entry.shown.state == "TIME_WAIT"
    talk.asks("S")
    assert talk.entry.shown.state == "SYN_RECV"
    assert lvs.director.totals().conns == 1


def test_the_service_may_be_changed(lvs: Harness, family: Family) -> None:
    """Templates keep their timeout and mask; new ones get the new (facts 1.5)."""
    talk = serve(Talk(lvs, family), options="-p 100")
    ask(talk, family.client)
    lvs.ipvsadm(f"-E {talk.key} -s rr -p 200")
    ask(talk, f"{family.client[:-1]}9")
    assert sorted(round(t.expires / 1000, -1) for t in templates(lvs)) == [100, 200]
    lvs.ipvsadm(f"-E {talk.key} -s rr")
    assert {ask(talk, family.client, sport) for sport in range(3000, 3003)} == set(family.servers[:3])
    assert len(templates(lvs)) == 2


def test_the_longest_timeout(lvs: Harness) -> None:
    """A connection's clock reaches 26 days; a longer persistence is as long as that."""
    talk = serve(Talk(lvs, IPV4), options="-p 2678400")
    ask(talk, IPV4.client)
    assert templates(lvs)[0].expires // 1000 in (2_249_999, 2_250_000)
    assert "persistent 2678400" in lvs.ipvsadm("-Ln")


def test_no_real_server_no_template(lvs: Harness, family: Family) -> None:
    talk = serve(Talk(lvs, family), 1)
    talk.weigh(family.server, 0)
    assert ask(talk, family.client) == "dropped_no_destination"
    assert not lvs.connections()


def test_flushing_all_connections_flushes_templates(lvs: Harness, family: Family) -> None:
    talk = serve(Talk(lvs, family)).opens()
    ask(talk, family.client, 2000)
    assert lvs.director.flush_connections(Selection()) == 3
    assert not lvs.connections()
    books(lvs.instance)


def resized(lvs: Harness, bits: int) -> None:
    with lvs.instance.locked():
        resize.resize(lvs.instance, bits)
    lvs.reopen()


def test_templates_move_with_their_connections(movable: Harness, family: Family) -> None:
    """To another table and back: who controls whom stays, and so does each client's real server."""
    talk, phone = (
        serve(Talk(movable, family)).opens(),
        serve(Talk(movable, family, UDP, 5060, 5060, 5060), 2, "-p 300 --pe sip"),
    )
    clients = [f"{family.client[:-1]}{n:x}" for n in range(2, 10)]
    servers = {client: ask(talk, client, 2000) for client in clients}
    calls = {f"call{n}".encode(): say(phone, f"call{n}".encode(), sport=7000 + n) for n in range(40)}
    for bits in (14, 12, 13):
        resized(movable, bits)
        books(movable.instance)
        assert {client: ask(talk, client, 3000 + bits) for client in clients} == servers
        assert {call: say(phone, call, sport=8000 + bits) for call in list(calls)[:1]} == {b"call0": calls[b"call0"]}
        assert talk.asks("A").packet.dst == talk.rs
    movable.advance(1000)  # the connections' time
    movable.advance(100)  # the templates'
    assert not movable.connections()
    books(movable.instance)


def test_pylvs_conns_shows_templates(lvs: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    """With their own states, ports as ipvsadm shows them, and the Call-ID in JSON."""
    talk = serve(Talk(lvs, IPV4)).opens()
    phone = serve(Talk(lvs, IPV4, UDP, port=5060, rport=5060), options="-p 300 --pe sip")
    say(phone, b'a"b\\c@d')

    def shown(*words: str) -> list[str]:
        assert conns.main(list(words)) == 0
        return capsys.readouterr().out.splitlines()

    assert [line.split()[2:6] for line in shown("--state", "ASSURED")[1:]] == [
        ["ASSURED", "10.1.0.1:0", "10.99.0.1:80", f"{talk.rs}:8080"]
    ]
    assert [line.split()[2] for line in shown("--state", "ESTABLISHED")[1:]] == ["ESTABLISHED"]
    entries = [json.loads(line) for line in shown("--json")]
    assert sorted((e["template"], e["state"], e["client_port"], e["call_id"]) for e in entries) == [
        (False, "ESTABLISHED", 1025, ""), (False, "UDP", 5060, ""), (True, "ASSURED", 0, ""),
        (True, "NONE", 0, 'a"b\\c@d'),
    ]  # fmt: skip
    assert lvs.director.count_connections_by("state") == {"ASSURED": 1, "ESTABLISHED": 1, "NONE": 1, "UDP": 1}


def test_templates_that_nothing_has_proved_give_way(lvs: Harness) -> None:
    """A flood of openings from everywhere leaves a template for each address; there is room for whoever is real."""
    talk = serve(Talk(lvs, IPV4, sport=999))
    real = talk.opens()
    for number in range(6000):
        ask(talk, f"10.1.{1 + number // 250}.{1 + number % 250}", 2000 + number)
    assert real.asks("A").packet.dst == real.rs
    late = Talk(lvs, IPV4._replace(client="10.1.200.1"), sport=998).opens()
    assert ask(talk, "10.1.200.1", 997) == late.rs
    assert {t.caddr for t in templates(lvs) if t.state == "ASSURED"} == {IPV4.client, "10.1.200.1"}
    assert lvs.instance.runtime.get(0, "gave_way") > 0
    books(lvs.instance)
