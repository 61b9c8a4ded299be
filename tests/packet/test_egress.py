"""The egress program: when it is on the interfaces, and what it does there for a real server, or a client, that is the
director itself; and `ingress` beside it.

    10.1.0.1 client -- d0 | director | d1 -- 10.2.0.1 real server
"""

import os
from dataclasses import replace

import pytest

from pylvs.datapath import _layout, egress, interfaces
from pylvs.selections import Selection
from support.books import audit
from support.harness import CLIENT, INDEX, SERVER, UP, Harness, by_lo, ip
from support.packets import TCP, UDP, tcp, tcp_packet, wrong_sums
from support.packets import ip as packet_ip
from support.talk import IPV4, IPV6, Family, Talk, at

OWN, LOCAL, STACK = egress.OWN, egress.LOCAL, egress.STACK
REDIRECT = 7


def _needs(lvs: Harness) -> int:
    """What the egress program is there for; and it is where it is needed, or nowhere."""
    needs, where = lvs.instance.config.get(0, "egress"), egress.directory(lvs.instance)
    there = interfaces.attached(where) if os.path.isdir(where) else {}
    assert set(there) == (set(INDEX.values()) if needs else set()), "not on lo: what comes in there was seen"
    return int(needs)


def _local(lvs: Harness, family: Family, protocol: int = TCP, port: int = 8080) -> Talk:
    """A service whose real server is the director, by LVS-NAT and under another address and port."""
    talk = Talk(lvs, family, protocol, rport=port, server=family.far)
    lvs.ipvsadm(f"-A {talk.key} -s rr")
    talk.add(family.far)
    return talk


# ---- when it is there ------------------------------------------------------------------------------------------------


def test_nobody_pays_for_what_nobody_needs(lvs: Harness, family: Family) -> None:
    Talk(lvs, family).serve(3)
    Talk(lvs, family, port=81, rport=81).serve(3, "-g")
    assert _needs(lvs) == 0


def test_a_real_server_on_the_director_needs_it(lvs: Harness, family: Family) -> None:
    talk = _local(lvs, family, port=80)
    assert _needs(lvs) == LOCAL
    talk.delete()
    assert _needs(lvs) == 0
    talk.add(family.far, "-g")
    assert _needs(lvs) == 0, "LVS-DR changes nothing"
    talk.weigh(family.far, 1, "-m")
    assert _needs(lvs) == LOCAL
    talk.weigh(family.far, 1, "-g")
    assert _needs(lvs) == 0


def test_another_one_keeps_it(lvs: Harness) -> None:
    _local(lvs, IPV4)
    second = Talk(lvs, IPV4, port=81, rport=8080, server=IPV4.far)
    lvs.ipvsadm(f"-A {second.key} -s rr")
    second.add(IPV4.far)
    second.delete()
    assert _needs(lvs) == LOCAL
    lvs.ipvsadm("-C")
    assert _needs(lvs) == 0


def test_services_of_other_addresses_and_of_marks_need_it(lvs: Harness, family: Family) -> None:
    lvs.ipvsadm(f"-A -t {at(family.client, 80)} -s rr")
    assert _needs(lvs) == OWN
    lvs.ipvsadm("-A -f 7 -s rr", f"-D -t {at(family.client, 80)}")
    assert _needs(lvs) == OWN
    lvs.ipvsadm("-D -f 7")
    assert _needs(lvs) == 0


def test_conntrack_needs_it_as_long_as_a_connection_does(lvs: Harness) -> None:
    lvs.director.set_sysctl("conntrack", 1)
    assert _needs(lvs) == STACK
    talk = Talk(lvs, IPV4).serve()
    talk.asks("S")
    lvs.director.set_sysctl("conntrack", 0)
    assert _needs(lvs) == STACK
    lvs.director.flush_connections(Selection())
    lvs.ipvsadm("-C")
    assert _needs(lvs) == 0


def test_interfaces_that_come_and_go(own_network: Harness) -> None:
    lvs = own_network
    lvs.enter()
    try:
        lvs.reload()
        _local(lvs, IPV4)
        where = egress.directory(lvs.instance)
        ip("link add x0 index 300 type veth peer name x1")
        lvs.reopen()
        lvs.director.set_timeouts(lvs.director.timeouts())
        assert 300 in interfaces.attached(where)
        assert lvs.instance.detach(interfaces.find("x0"))
        assert 300 not in interfaces.attached(where)
        lvs.instance.attach(interfaces.find("x0"))
        assert 300 in interfaces.attached(where)
        ip("link del x0")
        lvs.instance.replace_programs()
        lvs.reopen()
        lvs.director.set_timeouts(lvs.director.timeouts())
        assert not [name for name in os.listdir(where) if name.startswith("300")]
        assert _needs(lvs) == LOCAL
        lvs.unload()
        lvs.load()
    finally:
        lvs.enter()
        lvs.leave()


@pytest.mark.parametrize("needs", [0, LOCAL], ids=["taken off", "put on"])
def test_a_killed_command(lvs: Harness, needs: int) -> None:
    """It had said what is needed, and had not yet done it."""
    if needs:
        lvs.configure(egress=needs)
    else:
        _local(lvs, IPV4)
        lvs.configure(egress=0)
    lvs.reopen()
    lvs.director.set_timeouts(lvs.director.timeouts())
    assert _needs(lvs) == needs


# ---- real servers on the director ------------------------------------------------------------------------------------


def test_a_local_real_server(lvs: Harness, family: Family, protocol: int) -> None:
    talk = _local(lvs, family, protocol)
    asked = talk.asks("S", b"x" if protocol == UDP else b"", ttl=1)
    assert (asked.reason, asked.verdict) == ("forwarded_local", UP)
    assert asked.packet.destination == (family.far, 8080)
    assert asked.packet.ttl == 1, "it has arrived"
    assert not wrong_sums(asked.packet.raw)
    answered = lvs.leave_by(CLIENT, talk.answer("SA", ttl=64))
    assert (answered.verdict, answered.reason) == (UP, "sent_reply")
    assert answered.packet.source == (family.vip, 80)
    assert answered.packet.ttl == 64
    assert not wrong_sums(answered.packet.raw)
    assert lvs.director.totals()[:3] == (1, 1, 1)
    if protocol == TCP:
        assert talk.asks("A").reason == "forwarded_local"
        assert talk.entry.shown.state == "ESTABLISHED"
    assert audit(lvs.instance) == (1, 1, 0)


def test_a_local_real_server_of_one_packet_scheduling(lvs: Harness, family: Family) -> None:
    lvs.ipvsadm(f"-A -u {at(family.vip, 80)} -s rr -o", f"-a -u {at(family.vip, 80)} -r {at(family.far, 53)} -m")
    asked = Talk(lvs, family, UDP).asks()
    assert (asked.reason, asked.packet.destination) == ("forwarded_local", (family.far, 53))


def test_the_same_address_and_port(lvs: Harness) -> None:
    """LVS-NAT to the service's own address: the packet is what it was."""
    talk = Talk(lvs, IPV4, rport=80)
    lvs.ipvsadm(f"-A {talk.key} -s rr")
    talk.add(IPV4.vip)
    question = talk.question("S")
    assert lvs.from_client(question).frame[14:] == question


@pytest.mark.parametrize(("family", "server"), [(IPV4, "127.0.0.1"), (IPV6, "::1")], ids=["ipv4", "ipv6"])
def test_from_the_network_nobody_gets_to_loopback(lvs: Harness, family: Family, server: str) -> None:
    """Facts 6.4; the director itself does."""
    talk = Talk(lvs, family, server=server)
    lvs.ipvsadm(f"-A {talk.key} -s rr")
    talk.add(server)
    assert talk.asks("S").reason == "dropped_loopback"
    own = by_lo(lvs, talk.from_port(2000).question("S"))
    assert (own.reason, own.packet.dst) == ("forwarded_local", server)


# ---- clients on the director -----------------------------------------------------------------------------------------


def _own(lvs: Harness, family: Family, method: str = "-m") -> Talk:
    """The director asks its own service, whose real server is another machine."""
    own = family._replace(client=family.near)
    rport = 8080 if method == "-m" else 80
    return replace(Talk(lvs, own, rport=rport).serve(1, method), server=family.server)


def test_a_client_on_the_director(lvs: Harness, family: Family) -> None:
    talk = _own(lvs, family)
    asked = by_lo(lvs, talk.question("S"))
    assert (asked.reason, asked.packet.destination) == ("forwarded_nat_request", (family.server, 8080))
    answered = talk.answers("SA", ttl=1)
    assert answered.reason == "forwarded_local"
    assert answered.packet.source == (family.vip, 80)
    assert answered.packet.ttl == 1
    assert not wrong_sums(answered.packet.raw)
    # IPv4 takes the director's own addresses as a source on lo alone
    assert answered.verdict == (REDIRECT if family is IPV4 else UP)
    assert lvs.director.totals()[:3] == (1, 1, 1)
    again = by_lo(lvs, answered.packet.raw)
    assert (again.reason, again.verdict) == ("up_reply_translated", UP)
    assert lvs.director.totals()[:3] == (1, 1, 1), "it was counted when it came"
    by_lo(lvs, talk.question("A"))
    assert talk.entry.shown.state == "ESTABLISHED"


def test_what_comes_home_is_no_request_of_another_service(lvs: Harness) -> None:
    """Its port may be one of a service for all ports, or where FTP's data might come."""
    lvs.ipvsadm(f"-A -u {IPV4.near}:0 -s rr -p", f"-a -u {IPV4.near}:0 -r 10.2.0.5 -m")
    own = IPV4._replace(client=IPV4.near)
    talk = replace(Talk(lvs, own, UDP).serve(), server=IPV4.server)
    by_lo(lvs, talk.question())
    home = talk.answers()
    assert home.reason == "forwarded_local"
    assert by_lo(lvs, home.packet.raw).reason == "up_reply_translated"


def test_a_client_on_the_director_by_direct_routing(lvs: Harness, family: Family) -> None:
    """The replies come in the VIP's name, which is the director's own: they get home by lo."""
    talk = _own(lvs, family, "-g")
    assert by_lo(lvs, talk.question("S")).reason == "forwarded_route"
    reply = packet_ip(family.vip, family.near, TCP, tcp(80, talk.sport, "SA"))
    came = lvs.from_server(reply)
    assert (came.reason, came.frame[14:]) == ("forwarded_local", reply)
    assert came.verdict == (REDIRECT if family is IPV4 else UP)
    assert lvs.director.totals()[:3] == (1, 1, 1)
    assert by_lo(lvs, reply).reason == "up_reply_translated"
    assert lvs.director.totals()[:3] == (1, 1, 1)


def test_client_and_real_server_are_both_the_director(lvs: Harness, family: Family) -> None:
    talk = _local(lvs, family._replace(client=family.near))
    assert by_lo(lvs, talk.question("S")).packet.destination == (family.far, 8080)
    home = by_lo(lvs, talk.answer("SA"))
    assert (home.reason, home.verdict) == ("forwarded_local", UP)
    assert home.packet.source == (family.vip, 80)


def test_a_service_whose_address_is_elsewhere(lvs: Harness, family: Family) -> None:
    """Its packets leave, instead of passing lo; so they are made to pass lo."""
    far = family._replace(client=family.near, vip=family.client)
    talk = replace(Talk(lvs, far).serve(), server=family.server)
    taken = lvs.leave_by(CLIENT, talk.question("S"))
    assert (taken.reason, taken.verdict) == ("sent_to_lo", REDIRECT)
    assert taken.packet.raw == talk.question("S")
    assert by_lo(lvs, talk.question("S")).reason == "forwarded_nat_request"
    assert lvs.leave_by(CLIENT, talk.question("A")).reason == "sent_to_lo"
    assert talk.answers("SA").packet.source == (family.client, 80)
    for other in (talk.from_port(2000).question("A"), replace(talk, port=81).question("S")):
        assert lvs.leave_by(CLIENT, other).reason == "", "no connection, and it opens none; no service"
    assert lvs.leave_by(CLIENT, talk.question("S"), came_in=SERVER).reason == "", "the stack forwards it for somebody"


def test_own_requests_by_mark(lvs: Harness) -> None:
    lvs.ipvsadm("-A -f 7 -s rr", "-a -f 7 -r 10.2.0.1 -m")
    packet = tcp_packet(IPV4.near, 4000, "198.51.100.1", 80, "S")
    assert lvs.leave_by(CLIENT, packet, mark=7).reason == "sent_to_lo"
    assert lvs.leave_by(CLIENT, packet, mark=8).reason == ""


# ---- backups ---------------------------------------------------------------------------------------------------------


def test_a_backup_that_only_backs_up(lvs: Harness, family: Family) -> None:
    """Facts 6.2: requests are left alone while the backup daemon runs; replies are not."""
    talk = Talk(lvs, family).serve().opens()
    lvs.director.set_sysctl("backup_only", 1)
    assert talk.asks("A").reason == "forwarded_nat_request", "no daemon, no backup"
    lvs.configure(sync_state=_layout.SYNC_BACKUP)
    assert talk.asks("A").reason == "up_backup"
    assert talk.from_port(2000).asks("S").reason == "up_backup"
    assert talk.answers("A").reason == "forwarded_nat_reply"
    lvs.configure(sync_state=_layout.SYNC_MASTER)
    assert talk.asks("A").reason == "forwarded_nat_request"
    lvs.configure(sync_state=_layout.SYNC_MASTER | _layout.SYNC_BACKUP)
    lvs.director.set_sysctl("backup_only", 0)
    assert talk.asks("A").reason == "forwarded_nat_request"
