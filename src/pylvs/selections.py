"""Which connections are meant: what people write, as values ready to be compared with the connection table.

    selection(service="tcp/192.0.2.1:80", client="10.0.0.0/8", states="SYN_RECV")

No I/O, no kernel. A value that exists is well formed; a text that is not is an `InvalidValue` that says what would be
right.
"""

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import NamedTuple

from pylvs.errors import InvalidValue
from pylvs.model import PROTOCOLS, endpoint, family_of
from pylvs.protocols import sctp, tcp, udp

STATES = (*tcp.STATES, *udp.STATES, *(name for name in sctp.STATES if name not in tcp.STATES), "ASSURED")


class Selection(NamedTuple):
    """Connections to which everything applies that is given; with nothing given, all. Make one with `selection()`.

    Attributes:
        protocol: the service's protocol number; 0: any.
        service: the virtual address as it stands in a packet (4 or 16 bytes); b"": any.
        service_port: 0: any.
        server: the real server's address, likewise.
        server_port: None: any.
        client: the client's address or network, likewise.
        client_bits: how many bits of `client` count.
        client_port: None: any.
        states: names, upper case; empty: any.
    """

    protocol: int = 0
    service: bytes = b""
    service_port: int = 0
    server: bytes = b""
    server_port: int | None = None
    client: bytes = b""
    client_bits: int = 0
    client_port: int | None = None
    states: frozenset[str] = frozenset()

    @property
    def everything(self) -> bool:
        """Does it mean every connection?"""
        return self == Selection()


def selection(
    service: str | None = None, server: str | None = None, client: str | None = None, states: str | None = None
) -> Selection:
    """A checked `Selection`; None is anything.

    Args:
        service: "tcp/192.0.2.1:80", "udp/[2001:db8::1]:53", or without a protocol for any; port 0 for every port.
        server: a real server's address, alone or with its port.
        client: a client's address, alone or with its port, or a network such as "10.0.0.0/8".
        states: state names, with commas between them.

    Raises:
        InvalidValue: with a text that says what would be right.
    """
    made = Selection()
    if service is not None:
        name, slash, rest = service.rpartition("/")
        if slash and name.lower() not in PROTOCOLS:
            raise InvalidValue(f"service '{service}': protocol '{name}' is unknown; write {', '.join(PROTOCOLS)}")
        address, port = _endpoint("service", rest, "10.0.0.1:80, tcp/10.0.0.1:80 or udp/[2001:db8::1]:53")
        if port is None:
            raise InvalidValue(f"service '{service}' has no port; write {endpoint(_text(address), 80)}")
        made = made._replace(protocol=PROTOCOLS[name.lower()] if slash else 0, service=address, service_port=port)
    if server is not None:
        address, port = _endpoint("real server", server, "10.0.0.1, 10.0.0.1:80, 2001:db8::1 or [2001:db8::1]:80")
        made = made._replace(server=address, server_port=port)
    if client is not None:
        made = made._replace(**_client(client))
    if states is not None:
        made = made._replace(states=_states(states))
    if made.service and made.client and len(made.service) != len(made.client):
        raise InvalidValue(f"client '{client}' and service '{service}' are of different address families")
    return made


def _text(address: bytes) -> str:
    return inet_ntop(AF_INET if len(address) == 4 else AF_INET6, address)


def _packed(text: str) -> bytes | None:
    try:
        return inet_pton(family_of(text), text)
    except (OSError, ValueError):
        return None


def _number(text: str, most: int) -> int | None:
    """A plain decimal number up to `most`."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 6 and int(text) <= most else None


def _endpoint(what: str, text: str, right: str) -> tuple[bytes, int | None]:
    """(address, port) of address[:port], IPv6 in brackets if there is a port."""
    host, port = text, None
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or ":" not in host or (port and not port.startswith(":")):
            raise InvalidValue(f"{what} '{text}' is no address; write {right}")
        port = port[1:] if port else None
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    address = _packed(host)
    if address is None:
        raise InvalidValue(f"{what} '{text}': '{host}' is no IPv4 or IPv6 address; write {right}")
    if port is None:
        return address, None
    value = _number(port, 65535)
    if value is None:
        raise InvalidValue(f"{what} '{text}': port '{port}' is no number from 0 to 65535")
    return address, value


def _client(text: str) -> dict:
    network, slash, prefix = text.partition("/")
    if not slash:
        address, port = _endpoint("client", text, "10.0.0.1, 10.0.0.1:1025, [2001:db8::1]:1025 or 10.0.0.0/8")
        return {"client": address, "client_bits": 8 * len(address), "client_port": port}
    network_address = _packed(network)
    if network_address is None:
        raise InvalidValue(f"client '{text}': '{network}' is no IPv4 or IPv6 address; write 10.0.0.0/8")
    width = 8 * len(network_address)
    bits = _number(prefix, width)
    if bits is None:
        raise InvalidValue(f"client '{text}': prefix length '{prefix}' is no number from 0 to {width}")
    number = int.from_bytes(network_address, "big")
    whole = (number >> (width - bits) << (width - bits)).to_bytes(width // 8, "big")
    if whole != network_address:
        raise InvalidValue(
            f"client '{text}' has bits beyond its first {bits}; write {_text(whole)}/{bits} for the network, or "
            f"{_text(network_address)} for the one address"
        )
    return {"client": network_address, "client_bits": bits}


def _states(text: str) -> frozenset[str]:
    names = [name.strip().upper() for name in text.split(",")]
    for name in names:
        if name not in STATES:
            raise InvalidValue(f"there is no state '{name}'; there are {', '.join(STATES)}")
    return frozenset(names)
