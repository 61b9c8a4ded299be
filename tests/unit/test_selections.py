"""What people write to say which connections they mean."""

from socket import AF_INET, AF_INET6, inet_pton

import pytest

from pylvs.errors import InvalidValue
from pylvs.selections import Selection, selection

FOUR, SIX = inet_pton(AF_INET, "10.0.0.1"), inet_pton(AF_INET6, "2001:db8::1")


def test_nothing_given_is_everything() -> None:
    assert selection() == Selection()
    assert selection().everything
    assert not selection(states="UDP").everything
    assert not selection(client="0.0.0.0/0").everything, "all of IPv4 is not all"


@pytest.mark.parametrize(
    ("text", "protocol", "address", "port"),
    [
        ("10.0.0.1:80", 0, FOUR, 80),
        ("tcp/10.0.0.1:80", 6, FOUR, 80),
        ("UDP/10.0.0.1:53", 17, FOUR, 53),
        ("10.0.0.1:0", 0, FOUR, 0),
        ("[2001:db8::1]:80", 0, SIX, 80),
        ("tcp/[2001:DB8:0::1]:65535", 6, SIX, 65535),
    ],
)
def test_services(text: str, protocol: int, address: bytes, port: int) -> None:
    assert selection(service=text) == Selection(protocol=protocol, service=address, service_port=port)


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("10.0.0.1", FOUR, None),
        ("10.0.0.1:0", FOUR, 0),
        ("2001:db8::1", SIX, None),
        ("[2001:db8::1]", SIX, None),
        ("[2001:db8::1]:80", SIX, 80),
    ],
)
def test_one_host(text: str, address: bytes, port: int | None) -> None:
    assert selection(server=text) == Selection(server=address, server_port=port)
    assert selection(client=text) == Selection(client=address, client_bits=8 * len(address), client_port=port)


@pytest.mark.parametrize(
    ("text", "address", "bits"),
    [
        ("10.0.0.0/8", inet_pton(AF_INET, "10.0.0.0"), 8),
        ("10.0.0.1/32", FOUR, 32),
        ("0.0.0.0/0", bytes(4), 0),
        ("2001:db8::/32", inet_pton(AF_INET6, "2001:db8::"), 32),
        ("::/0", bytes(16), 0),
    ],
)
def test_networks(text: str, address: bytes, bits: int) -> None:
    assert selection(client=text) == Selection(client=address, client_bits=bits)


def test_states() -> None:
    assert selection(states="syn_recv, ESTABLISHED").states == {"SYN_RECV", "ESTABLISHED"}


@pytest.mark.parametrize(
    ("what", "text", "right"),
    [
        ("service", "10.0.0.1", "has no port; write 10.0.0.1:80"),
        ("service", "2001:db8::1", r"has no port; write \[2001:db8::1\]:80"),
        ("service", "", "'' is no IPv4 or IPv6 address; write 10.0.0.1:80, tcp/10.0.0.1:80 or "),
        ("service", "10.0.0.1:http", "port 'http' is no number from 0 to 65535"),
        ("service", "10.0.0.1:65536", "port '65536' is no number"),
        ("service", "10.0.0.1:-1", "port '-1' is no number"),
        ("service", "10.0.0.1:", "port '' is no number"),
        ("service", "10.0.0.1:\N{ARABIC-INDIC DIGIT ONE}", "is no number"),
        ("service", "icmp/10.0.0.1:80", "protocol 'icmp' is unknown; write tcp, udp, sctp"),
        ("service", "/10.0.0.1:80", "protocol '' is unknown"),
        ("service", "10.0.0:80", "'10.0.0' is no IPv4 or IPv6 address"),
        ("service", "[10.0.0.1]:80", "is no address; write 10.0.0.1:80"),
        ("service", "[2001:db8::1:80", "is no address"),
        ("service", "[2001:db8::1]80", "is no address"),
        ("service", "10.0.0.1\0:80", "is no IPv4 or IPv6 address"),
        ("server", "rs1", "'rs1' is no IPv4 or IPv6 address; write 10.0.0.1, 10.0.0.1:80, 2001:db8::1 or "),
        ("server", "10.0.0.0/8", "is no IPv4 or IPv6 address"),
        ("client", "10.0.0.1/8", "has bits beyond its first 8; write 10.0.0.0/8 for the network, or 10.0.0.1 for"),
        ("client", "10.0.0.0/33", "prefix length '33' is no number from 0 to 32"),
        ("client", "::/129", "prefix length '129' is no number from 0 to 128"),
        ("client", "10.0.0.0/", "prefix length '' is no number"),
        ("client", "10.0.0.0/8:80", "prefix length '8:80' is no number"),
        ("client", "x/8", "'x' is no IPv4 or IPv6 address; write 10.0.0.0/8"),
        ("states", "ESTABLISH", "there is no state 'ESTABLISH'; there are NONE, ESTABLISHED, .*, UDP"),
        ("states", "UDP,", "there is no state ''"),
    ],
)
def test_what_is_wrong_and_what_would_be_right(what: str, text: str, right: str) -> None:
    with pytest.raises(InvalidValue, match=right):
        selection(**{what: text})


def test_a_client_and_a_service_that_can_never_meet() -> None:
    with pytest.raises(InvalidValue, match="different address families"):
        selection(service="10.0.0.1:80", client="::/0")
