"""The persistence engine for SIP: a template for each Call-ID, and real servers that call (facts 5.5)."""

import pytest

from support.books import books
from support.harness import Harness
from support.packets import UDP, ip, udp
from support.persistent import SIP, say, serve, templates
from support.talk import Family, Talk, at


@pytest.fixture
def phone(lvs: Harness, family: Family) -> Talk:
    return serve(Talk(lvs, family, UDP, port=5060, rport=5060), options="-p 300 --pe sip -o")


def test_a_call_stays_with_its_real_server(phone: Talk) -> None:
    first = say(phone, b"one@client")
    second = say(phone, b"two@client")
    assert first != second
    for sport in range(6000, 6004):
        assert say(phone, b"one@client", sport=sport) == first
        assert say(phone, b"two@client", sport=sport) == second
    assert sorted((t.pe_name, t.pe_data) for t in templates(phone.lvs)) == [
        ("sip", b"one@client"),
        ("sip", b"two@client"),
    ]
    books(phone.lvs.instance)


def test_calls_that_look_alike(phone: Talk) -> None:
    """Whatever 16 bits of their hash are, each call has its own template."""
    calls = [f"call-{number}@client".encode() for number in range(600)]
    servers = {call: say(phone, call) for call in calls}
    assert {call: say(phone, call) for call in calls} == servers
    assert sorted(t.pe_data for t in templates(phone.lvs)) == sorted(calls)
    phone.lvs.advance(301)
    assert not phone.lvs.connections()
    assert not phone.lvs.instance.call_ids.keys()


@pytest.mark.parametrize("length", [1, 7, 8, 254, 255])
def test_lengths_of_a_call_id(phone: Talk, length: int) -> None:
    call = b"x" * length
    assert say(phone, call) == say(phone, call)
    assert [t.pe_data for t in templates(phone.lvs)] == [call]


@pytest.mark.parametrize(
    "text",
    [b"", b"x", b"no header at all", SIP % (b"x" * 256), SIP.replace(b"Call-ID", b"Call-Number"), b"a\r\nCall-ID: one"],
    ids=["empty", "short", "no line", "too long", "no Call-ID", "ends with it"],
)
def test_what_is_no_call_is_dropped(phone: Talk, text: bytes) -> None:
    assert say(phone, b"", text=text) == "dropped_not_sip"
    assert not phone.lvs.connections()


def test_a_call_id_of_a_deleted_real_server(phone: Talk) -> None:
    first = say(phone, b"one")
    phone.delete(first)
    second = say(phone, b"one")
    assert second in phone.family.servers and second != first
    assert say(phone, b"one") == second
    phone.lvs.advance(301)
    assert not phone.lvs.instance.call_ids.keys()


def test_without_one_packet_scheduling(lvs: Harness, family: Family) -> None:
    """A client's port is one connection, whatever it says later."""
    talk = serve(Talk(lvs, family, UDP, port=5060, rport=5060), options="-p 300 --pe sip")
    first = say(talk, b"one")
    assert say(talk, b"two") == first
    assert [t.pe_data for t in templates(lvs)] == [b"one"]
    assert say(talk, b"two", sport=5061) != first


def tell(
    phone: Talk, server: str, call: bytes, client: str, port: int = 5060, sport: int = 5060
) -> tuple[str, int] | str:
    """A real server says something of its own accord; from whom it seems to come, or what became of it."""
    result = phone.lvs.from_server(ip(server, client, UDP, udp(sport, port, SIP % call)))
    return result.packet.source if result.forwarded else result.reason


@pytest.mark.parametrize("once", [True, False], ids=["one-packet", "connections"])
def test_a_real_server_calls(lvs: Harness, family: Family, once: bool) -> None:
    """It speaks as the service, and what the client answers comes back to it (facts 5.5)."""
    options = "-p 300 --pe sip" + " -o" * once
    phone = serve(Talk(lvs, family, UDP, port=5060, rport=5070), options=options)
    callee = family.servers[1]
    for call in (b"one", b"two", b"three"):
        assert tell(phone, callee, call, family.client, sport=5070) == (family.vip, 5060)
        assert say(phone, call) == callee
    shown = sorted((t.caddr, t.vport, t.daddr, t.dport, t.pe_data) for t in templates(lvs))
    calls = [b"one", b"three", b"two"] if once else [b"one"]  # all of one client port is one connection
    assert shown == [(family.client, 5060, callee, 5070, call) for call in calls]
    assert lvs.director.totals()[:3] == ((6, 3, 3) if once else (1, 3, 3))
    books(lvs.instance)


def test_replies_of_one_packet_scheduling(phone: Talk) -> None:
    """Without a connection it is the Call-ID by which a reply is known for one."""
    server = say(phone, b"one")
    assert tell(phone, server, b"one", phone.family.client) == (phone.family.vip, 5060)
    assert len(templates(phone.lvs)) == 1
    other = next(one for one in phone.family.servers[:3] if one != server)
    assert tell(phone, other, b"one", phone.family.client) == (phone.family.vip, 5060)
    assert say(phone, b"one") == other, "the call was taken over"
    books(phone.lvs.instance)


def test_who_may_not_call(phone: Talk) -> None:
    family, client = phone.family, phone.family.client
    assert tell(phone, family.servers[5], b"one", client) == "up_no_service", "no real server"
    assert tell(phone, family.server, b"one", client, sport=5061) == "up_no_service", "not its port"
    result = phone.lvs.from_server(ip(family.server, client, UDP, udp(5060, 5060, b"hello")))
    assert result.reason == "up_no_service", "no call"
    phone.lvs.ipvsadm(f"-E {phone.key} -s rr -p 300")
    assert tell(phone, family.server, b"one", client) == "up_no_service", "no such engine any more"
    phone.lvs.ipvsadm(f"-E {phone.key} -s rr -p 300 --pe sip")
    assert tell(phone, family.server, b"one", client) == (family.vip, 5060)
    phone.lvs.ipvsadm(f"-e {phone.key} -r {at(family.server, 5060)} -g")
    assert tell(phone, family.server, b"two", client, 6000) == "up_no_service", "not by LVS-NAT"
    phone.delete(family.servers[1])
    assert tell(phone, family.servers[1], b"three", client, 6001) == "up_no_service", "deleted"
    assert tell(phone, family.servers[2], b"four", client, 6002) == (family.vip, 5060)
    Talk(phone.lvs, family, port=81).serve()
    phone.lvs.ipvsadm(f"-D {Talk(phone.lvs, family, port=81).key}")
    assert tell(phone, family.servers[2], b"five", client, 6003) == (family.vip, 5060), "another service came and went"
    phone.lvs.ipvsadm("-C")
    assert tell(phone, family.servers[2], b"six", client, 6004) == "up_no_service"
    assert not phone.lvs.instance.speakers.keys()


def test_a_call_that_is_one_too_many_leaves_no_template(phone: Talk) -> None:
    """Whoever begins it: templates count for conn_max before they are made."""
    server = say(phone, b"one")
    phone.lvs.set(conn_max=1)
    assert say(phone, b"two") == "dropped_conn_max"
    assert tell(phone, server, b"three", phone.family.client) == "dropped_conn_max"
    assert [t.pe_data for t in templates(phone.lvs)] == [b"one"]
    books(phone.lvs.instance)
