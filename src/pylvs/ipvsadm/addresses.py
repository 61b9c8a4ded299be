"""Addresses as people write them on ipvsadm's command line."""

from _socket import AF_INET, AF_INET6, inet_aton, inet_ntop, inet_pton

from pylvs.ipvsadm.names import Names
from pylvs.ipvsadm.numbers import number


def ipv4_address(text: str, names: Names) -> str | None:
    """The canonical IPv4 address of what `inet_aton` takes (10.1, 0x0a000001, 010.0.0.1), or of a host's name."""
    try:
        return inet_ntop(AF_INET, inet_aton(text))
    except (OSError, ValueError):
        return names.address_of(text)


def endpoint(text: str, protocol: int, names: Names) -> tuple[int, str, int | None] | None:
    """(family, address, port) of `host[:port]`; the port is None when there was none. None: it is no such thing.

    IPv6 addresses stand in brackets when a port follows, and in brackets a port must follow.
    """
    if not text.strip("0123456789"):
        return None
    port: str | None = None
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or not port.startswith(":"):
            return None
        port = port[1:]
    try:
        family, address = AF_INET6, inet_ntop(AF_INET6, inet_pton(AF_INET6, text))
    except (OSError, ValueError):
        # An IPv4 host does not belong in brackets: what follows them is not looked at then.
        host, colon, tail = text.rpartition(":")
        text, port = (host, tail) if colon else (text, None)
        found = ipv4_address(text, names)
        if found is None:
            return None
        family, address = AF_INET, found
    if port is None:
        return family, address, None
    value = number(port, 0, 65535)
    if value is None:
        value = names.port_of(port, protocol)
    return None if value is None else (family, address, value)
