"""The FTP helper: what is said on a control connection, and the connections for data that follow (facts section 10)."""

import pytest

from support.books import books
from support.ftp import Control, data, data_back, listed, numbers
from support.harness import Harness
from support.packets import TCP, ip, tcp
from support.talk import IPV4, IPV6, Family, at

PASV = b"227 Entering Passive Mode (%s,200,10).\r\n"
VIP, NEAR, FAR = b"10,99,0,1", b"10,2,0,1", b"10,2,100,100"
EPSV = b"229 Entering Extended Passive Mode (|||51210|)\r\n"
DATA = 51210


@pytest.fixture
def control(either: Harness, family: Family) -> Control:
    return Control(either, family).serve().opens()


@pytest.fixture
def four(either: Harness) -> Control:
    return Control(either, IPV4).serve().opens()


def waits(control: Control, port: int = DATA) -> tuple[str, int, int, str, int, str]:
    """A connection that waits for its client."""
    return control.family.client, 0, port, control.server, port, "LISTEN"


def transfers(control: Control, sport: int = 5000, port: int = DATA) -> None:
    """The client opens the connection for data, and something is said on it."""
    first = data(control, sport, port)
    assert first.reason == "forwarded_nat_request"
    assert first.packet.destination == (control.server, port)
    back = data_back(control, port, sport, "SA")
    assert (back.reason, back.packet.source) == ("forwarded_nat_reply", (control.family.vip, port))
    assert data(control, sport, port, "A").forwarded
    assert listed(control, sport).state == "ESTABLISHED"


# ---- passive --------------------------------------------------------------------------------------------------------


def test_pasv(four: Control) -> None:
    assert four.says(b"PASV\r\n") == b"PASV\r\n"
    assert not four.expected, "nobody knows the port yet"
    assert four.hears(PASV % NEAR) == PASV % VIP
    assert four.expected == {waits(four)}
    books(four.lvs.instance)
    transfers(four)
    assert four.expected == {(IPV4.client, 5000, DATA, four.server, DATA, "ESTABLISHED")}
    assert four.hears(b"150 here it comes\r\n") == b"150 here it comes\r\n"
    assert four.says(b"NOOP\r\n") == b"NOOP\r\n"
    books(four.lvs.instance)


@pytest.mark.parametrize("word", [b"EPSV\r\n", b"epsv\r\n", b"EPSV %d\r\n"])
def test_epsv(control: Control, word: bytes) -> None:
    if b"%" in word:
        word %= 1 if control.family is IPV4 else 2
    control.says(word)
    assert control.hears(EPSV) == EPSV
    assert control.expected == {waits(control)}
    transfers(control)
    books(control.lvs.instance)


def test_a_real_server_with_another_opinion_of_its_address(control: Control) -> None:
    """An answer may name an address; the connection goes to the real server, whatever its name elsewhere."""
    control.says(b"EPSV\r\n")
    address = b"|1|192.0.2.7|" if control.family is IPV4 else b"|2|2001:db8::7|"
    assert control.hears(b"229 go (" + address + b"51210|) there\r\n") == b"229 go (|||51210|) there\r\n"
    assert control.expected == {waits(control)}
    transfers(control)


def test_one_client_takes_it(control: Control) -> None:
    control.says(b"EPSV\r\n")
    control.hears(EPSV)
    assert data(control, 5000, DATA).forwarded
    other = data(control, 5001, DATA)
    assert other.handed_up, "it waits for nobody any more"
    assert not control.lvs.instance.runtime.get(0, "awaiting")
    books(control.lvs.instance)


def test_any_packet_takes_it(control: Control) -> None:
    """As in kernel IPVS, it need not be a SYN; one from port 0 cannot."""
    control.says(b"EPSV\r\n")
    control.hears(EPSV)
    assert data(control, 0, DATA).reason == "dropped_by_helper"
    assert data(control, 5000, DATA, "A").reason == "forwarded_nat_request"
    books(control.lvs.instance)


def test_only_its_client_takes_it(four: Control) -> None:
    four.says(b"EPSV\r\n")
    four.hears(EPSV)
    stranger = Control(four.lvs, IPV4._replace(client="10.1.0.2"))
    assert data(stranger, 5000, DATA).handed_up
    assert four.expected == {waits(four)}


def test_the_same_port_is_announced_again(control: Control) -> None:
    for sport in (5000, 5001, 5002):
        control.says(b"EPSV\r\n")
        control.hears(EPSV)
        control.lvs.advance(30)
        control.says(b"EPSV\r\n")
        control.hears(EPSV)
        assert waits(control) in control.expected
        assert listed(control, 0).expires > 100_000, "it waits anew"
        transfers(control, sport)
        books(control.lvs.instance)


def test_two_real_servers_announce_the_same_port(lvs: Harness, family: Family) -> None:
    """Who was announced last is meant."""
    first = Control(lvs, family).serve(*family.servers[:2]).opens()
    second = Control(lvs, family, sport=1026).opens()
    assert first.server != second.server
    for control in (first, second):
        control.says(b"EPSV\r\n")
        control.hears(EPSV)
        assert waits(control) in control.expected
        books(lvs.instance)
    transfers(second)
    books(lvs.instance)


# ---- active ---------------------------------------------------------------------------------------------------------

PORT = {4: b"PORT 10,1,0,1,200,11\r\n", 6: b"EPRT |2|fd00:1::1|51211|\r\n"}


@pytest.mark.parametrize(
    "word",
    [
        b"PORT 10,1,0,1,200,11\r\n",
        b"port   10,1,0,1,200,11 \r\n",
        b"EPRT |1|10.1.0.1|51211|\r\n",
        b"Eprt !2!fd00:1:0::1!51211!\r\n",
    ],
)
def test_the_real_server_comes(lvs: Harness, word: bytes) -> None:
    control = Control(lvs, IPV6 if b"!2!" in word else IPV4).serve().opens()
    assert control.says(word) == word, "nothing is rewritten"
    client = control.family.client
    assert control.expected == {(client, 51211, 20, control.server, 20, "LISTEN")}
    assert listed(control, 51211).expires > 119_000
    first = data_back(control, 20, 51211, "S")
    assert (first.reason, first.packet.source) == ("forwarded_nat_reply", (control.family.vip, 20))
    back = data(control, 51211, 20, "SA")
    assert (back.reason, back.packet.destination) == ("forwarded_nat_request", (control.server, 20))
    assert data_back(control, 20, 51211, "A").forwarded
    assert listed(control, 51211).state == "ESTABLISHED"
    assert control.hears(b"200 fine\r\n") == b"200 fine\r\n"
    books(lvs.instance)


def test_another_port_than_21(lvs: Harness, family: Family) -> None:
    """Data comes from the port before that of the service, on both sides."""
    lvs.director.set_ftp_ports([2121])
    control = Control(lvs, family, port=2121, rport=8021).serve().opens()
    control.says(PORT[family.version])
    assert control.expected == {(family.client, 51211, 2120, control.server, 8020, "LISTEN")}
    assert data_back(control, 8020, 51211).packet.source == (family.vip, 2120)


def test_the_clients_word_is_taken_for_its_address(four: Control) -> None:
    """As in kernel IPVS (facts section 10): the real server opens the connection, and refuses to if it is wise."""
    four.says(b"PORT 10,1,0,9,200,11\r\n")
    assert four.expected == {("10.1.0.9", 51211, 20, four.server, 20, "LISTEN")}
    assert data_back(four, 20, 51211, to="10.1.0.9").packet.source == (IPV4.vip, 20)


def test_nobodys_word_changes_anothers_connection(lvs: Harness) -> None:
    """A client that names another's address and port, in use on its own control connection."""
    victim = Control(lvs, IPV4).serve(*IPV4.servers[:2]).opens()
    victim.says(PORT[4])
    data_back(victim, 20, 51211, "S")
    assert data(victim, 51211, 20, "SA").forwarded
    assert data_back(victim, 20, 51211, "A").forwarded
    for sport in (1026, 1027):
        attacker = Control(lvs, IPV4._replace(client="10.1.0.2"), sport=sport).opens()
        attacker.says(PORT[4])
        assert listed(victim, 51211).state == "ESTABLISHED"
        assert listed(victim, 51211).daddr == victim.server
        books(lvs.instance)


def test_back_to_active(four: Control) -> None:
    """PORT after PASV: an answer to that is none any more."""
    four.says(b"PASV\r\n")
    four.says(PORT[4])
    assert four.hears(PASV % NEAR) == PASV % NEAR
    assert four.expected == {(IPV4.client, 51211, 20, four.server, 20, "LISTEN")}


# ---- when nothing is done -------------------------------------------------------------------------------------------


def test_without_a_question_there_is_no_answer(control: Control) -> None:
    for text in (PASV % NEAR, EPSV):
        assert control.hears(text) == text
    assert not control.expected and not control.lvs.instance.ftp_talks.keys()


def test_in_pieces_nothing_is_understood(four: Control) -> None:
    four.says(b"PA")
    four.says(b"SV\r\n")
    assert four.hears(PASV % NEAR) == PASV % NEAR
    four.says(b"PASV\r\n")
    assert four.hears(b"227 Entering Passive Mo") == b"227 Entering Passive Mo"
    assert four.hears(b"de (10,2,0,1,200,10)\r\n") == b"de (10,2,0,1,200,10)\r\n"
    assert four.hears(PASV % NEAR) == PASV % VIP, "it still waits for an answer"


def test_pasv_is_ipv4s(lvs: Harness) -> None:
    control = Control(lvs, IPV6).serve().opens()
    control.says(b"PASV\r\n")
    assert control.hears(PASV % NEAR) == PASV % NEAR
    control.says(PORT[4])
    assert not control.expected


def test_before_and_after_the_conversation(four: Control) -> None:
    """Only what is said on an established connection counts."""
    four.asks("F")
    assert four.lvs.connections()[IPV4.client, 1025].state == "CLOSE_WAIT"
    assert four.asks("P", PORT[4]).forwarded
    assert not four.expected


def test_no_helper(lvs: Harness, family: Family) -> None:
    lvs.director.set_ftp_ports(())
    control = Control(lvs, family).serve().opens()
    control.says(b"EPSV\r\n")
    control.hears(EPSV)
    control.says(PORT[family.version])
    assert not control.expected


def test_direct_routing_needs_no_helper(lvs: Harness, family: Family) -> None:
    control = Control(lvs, family).serve(options="-g")
    control.server = family.server
    assert control.asks("S").reason == "forwarded_route"
    control.asks("A")
    assert control.asks("P", PORT[family.version]).reason == "forwarded_route"
    assert not control.expected


def test_a_wrong_checksum_is_not_made_right(control: Control) -> None:
    """As before every packet that a helper may change (facts 6.4)."""
    family = control.family
    client = tcp(control.sport, 21, "P", payload=b"EPSV\r\n", seq=control.asked, ack=control.heard)
    server = tcp(21, control.sport, "P", payload=EPSV, seq=control.answered, ack=control.asked)
    for packet, send in (
        (ip(family.client, family.vip, TCP, client), control.lvs.from_client),
        (ip(control.server, family.client, TCP, server), control.lvs.from_server),
    ):
        assert send(packet[:-3] + bytes([packet[-3] ^ 1]) + packet[-2:]).reason == "dropped_wrong_checksum"
        assert send(packet).forwarded
    assert control.expected == {waits(control)}


# ---- life and death -------------------------------------------------------------------------------------------------


def test_what_controls_lives_on(control: Control) -> None:
    """The control connection does not end before those for data (facts 2.7), and takes nothing along."""
    control.says(b"EPSV\r\n")
    control.hears(EPSV)
    control.asks("R")
    control.lvs.advance(11)
    assert control.lvs.connections()[control.family.client, 1025].expires > 50_000
    control.lvs.advance(61)
    assert len(control.lvs.connections()) == 2
    control.lvs.advance(61)
    assert not control.expected, "nobody came"
    control.lvs.advance(61)
    assert not control.lvs.connections() and not control.lvs.instance.ftp_talks.keys()
    books(control.lvs.instance)


def test_too_late(control: Control) -> None:
    control.says(b"EPSV\r\n")
    control.hears(EPSV)
    control.lvs.shift(121)  # and no sweep has been there
    assert data(control, 5000, DATA).handed_up
    control.lvs.sweep()
    books(control.lvs.instance)


def test_a_new_connection_from_the_same_port(four: Control) -> None:
    """Shifts of the one before are forgotten, although what it agreed on keeps it in the table."""
    far = Control(four.lvs, IPV4, sport=1027, port=22, rport=21)
    four.lvs.director.set_ftp_ports([21, 22])
    far.serve("10.2.100.100").opens()
    far.says(b"PASV\r\n")
    far.hears(PASV % FAR)
    assert far.heard != far.answered
    far.asks("R")
    far.asked = far.answered = far.heard = 4_000_000_000
    far.opens()
    assert far.heard == far.answered
    books(four.lvs.instance)


def test_a_removed_real_server(control: Control) -> None:
    control.says(b"EPSV\r\n")
    control.hears(EPSV)
    key, server = at(control.family.vip, 21), at(control.server, 21)
    control.lvs.ipvsadm(f"-d -t {key} -r {server}")
    assert data(control, 5000, DATA).reason == "dropped_destination_gone"
    control.lvs.ipvsadm(f"-a -t {key} -r {server} -m")
    transfers(control)
    control.says(b"EPSV\r\n")
    control.hears(EPSV)
    control.lvs.set(expire_nodest_conn=1)
    control.lvs.ipvsadm(f"-d -t {key} -r {server}")
    assert data(control, 5001, DATA).handed_up
    assert not control.lvs.connections()
    books(control.lvs.instance)


def test_no_room(control: Control) -> None:
    """What the director cannot do it lets be said again."""
    control.lvs.set(conn_max=control.lvs.instance.runtime.get(0, "conns"))
    assert control.asks("P", PORT[control.family.version]).reason == "dropped_conn_max"
    control.says(b"EPSV\r\n")
    assert control.answers("P", EPSV).reason in ("dropped_conn_max", "sent_failed")
    books(control.lvs.instance)
    control.lvs.set(conn_max=1000)
    assert control.hears(EPSV) == EPSV
    control.says(PORT[control.family.version])
    assert len(control.expected) == 2
    books(control.lvs.instance)


def test_too_many_control_connections(lvs: Harness) -> None:
    """There is room for what is remembered of a quarter of a table's connections."""
    Control(lvs, IPV4).serve()
    talks = lvs.instance.ftp_talks
    some = Control(lvs, IPV4, sport=2000).opens()
    some.says(b"EPSV\r\n")
    (one,) = talks.keys()
    value = talks.get(one)
    for number in range(talks.entries - 1):
        talks.put(number.to_bytes(4, "big") + one[4:], value)
    other = Control(lvs, IPV4, sport=2001).opens()
    assert other.asks("P", b"PASV\r\n").reason == "dropped_by_helper"
    other.says(PORT[4])
    assert some.hears(EPSV) == EPSV
    for number in range(talks.entries - 1):
        talks.delete(number.to_bytes(4, "big") + one[4:])
    other.says(b"EPSV\r\n")
    books(lvs.instance)


def test_persistent(lvs: Harness, family: Family) -> None:
    """A template controls the control connection, which controls that for data."""
    lvs.ipvsadm(f"-A -t {at(family.vip, 21)} -s rr -p 60", f"-a -t {at(family.vip, 21)} -r {at(family.server, 21)} -m")
    control = Control(lvs, family).opens()
    control.says(b"EPSV\r\n")
    control.hears(EPSV)
    transfers(control)
    books(lvs.instance)
    # a port that nobody announced is the template's
    assert data(control, 6000, 40000).packet.destination == (control.server, 40000)
    books(lvs.instance)


def test_loads(control: Control) -> None:
    """A connection that waits is inactive, one with data is active; neither was asked for at the service."""
    name = at(control.server, 21)
    control.says(b"EPSV\r\n")
    control.hears(EPSV)
    assert control.lvs.loads() == {name: (1, 1)}
    transfers(control)
    assert control.lvs.loads() == {name: (2, 0)}
    (service,) = control.lvs.director.services()
    assert service.stats.conns == 1


def test_listing(four: Control) -> None:
    four.says(b"PASV\r\n")
    four.hears(PASV % NEAR)
    four.says(PORT[4])
    rows = {" ".join(line.split()[:1] + line.split()[2:]) for line in four.lvs.ipvsadm("-Lnc").splitlines()[2:]}
    assert rows == {
        "TCP ESTABLISHED 10.1.0.1:1025 10.99.0.1:21 10.2.0.1:21",
        "TCP LISTEN 10.1.0.1:0 10.99.0.1:51210 10.2.0.1:51210",
        "TCP LISTEN 10.1.0.1:51211 10.99.0.1:20 10.2.0.1:20",
    }


def test_acknowledgements_between(four: Control) -> None:
    """Numbers of packets with nothing in them are shifted, too."""
    four.says(b"PASV\r\n")
    four.hears(PASV % NEAR)
    assert numbers(four.answers()) == (four.heard, four.asked)
    assert numbers(four.asks()) == (four.asked, four.answered)
