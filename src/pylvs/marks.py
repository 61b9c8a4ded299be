"""Firewall marks in people's words: the checked constructor of `MarkRule`. Pure: no kernel, no I/O.

    mark_rule(1, destination="207.175.44.110/31", protocol="tcp", destination_ports="80,443")

Every text is a user's, so nothing about it is believed.
"""

import errno
from _socket import AF_INET, AF_INET6, getservbyname, inet_ntop, inet_pton
from collections.abc import Sequence

from pylvs.errors import InvalidValue
from pylvs.model import NETMASK_ALL, PROTOCOL_NAMES, PROTOCOLS, MarkRoute, MarkRule, family_of

MARK_MAX = 0xFFFFFFFF
DESTINATION_PORTS, SOURCE_PORTS = 8, 4  # ranges in one rule, as enum mark_limit has them
INTERFACE_MAX = 15  # bytes of an interface's name
FAMILIES = {"ipv4": AF_INET, "ipv6": AF_INET6}

Ports = str | Sequence[tuple[int, int]]


def mark_rule(
    mark: int,
    *,
    destination: str = "",
    source: str = "",
    interface: str = "",
    protocol: int | str = 0,
    destination_ports: Ports = "",
    source_ports: Ports = "",
    family: int | str = 0,
) -> MarkRule:
    """A checked `MarkRule`; what is not given is any.

    Args:
        mark: 0..2**32-1; 0 exempts what the rule matches from the rules behind it.
        destination, source: an address or a network, 10.0.0.0/8.
        interface: the name of the interface by which packets come; whether it is there is not asked here.
        protocol: "tcp", "udp", "sctp" or their numbers.
        destination_ports, source_ports: "80", "80,443", "1000:2000", names of services; or ranges (first, last).
            They need a protocol.
        family: AF_INET, AF_INET6, "ipv4" or "ipv6"; an address tells its own.

    Raises:
        InvalidValue: with a text that names the argument and what it may be.
    """
    if not 0 <= mark <= MARK_MAX:
        raise InvalidValue(f"mark {mark} is out of range; it may be 0 to {MARK_MAX}")
    wanted = _family(family)
    networks = []
    for what, text in (("destination", destination), ("source", source)):
        network, its = _network(what, text) if text else ("", 0)
        if its and wanted and its != wanted:
            other = "IPv6" if wanted == AF_INET6 else "IPv4"
            raise InvalidValue(f"{what} '{text}' is of the wrong address family: the rule is for {other}")
        wanted = wanted or its
        networks.append(network)
    number = _protocol(protocol)
    ranges = []
    for what, ports, most in (
        ("destination ports", destination_ports, DESTINATION_PORTS),
        ("source ports", source_ports, SOURCE_PORTS),
    ):
        found = _ranges(what, ports, number)
        if found and not number:
            raise InvalidValue(f"{what} need a protocol: tcp, udp or sctp")
        if len(found) > most:
            raise InvalidValue(f"{len(found)} ranges of {what}; one rule holds {most}: make two of it")
        ranges.append(found)
    if not (destination or source or interface or number or wanted):
        raise InvalidValue(
            "a rule that matches every packet would take the director's own; say what it is for "
            "(destination, source, interface, protocol, ports), or a family if all of that is meant"
        )
    return MarkRule(mark, networks[0], networks[1], _interface(interface), number, ranges[0], ranges[1], wanted)


def mark_route(mark: int, mask: int = NETMASK_ALL, family: int | str = 0) -> MarkRoute:
    """A checked `MarkRoute`; the arguments are its attributes. No family is IPv4.

    Raises:
        InvalidValue: with a text that says what would be right.
    """
    if not 0 <= mark <= MARK_MAX or not 0 <= mask <= MARK_MAX:
        raise InvalidValue(f"mark {mark} with mask {mask} is out of range; both may be 0 to {MARK_MAX}")
    if not mark:
        raise InvalidValue("mark 0 is that of packets without a mark; they are not routed to the director")
    if mark & ~mask:
        raise InvalidValue(f"the mask {mask:#x} lacks bits of the mark {mark:#x}, which no packet can have then")
    return MarkRoute(mark, mask, _family(family) or AF_INET)


def mark_number(text: str) -> int:
    """A mark as people write it: 1, 0x10.

    Raises:
        InvalidValue
    """
    digits = text.lower()
    base, known = (16, "0123456789abcdef") if digits.startswith("0x") else (10, "0123456789")
    digits = digits[2:] if base == 16 else digits
    if not digits or len(digits) > 10 or set(digits) - set(known) or int(digits, base) > MARK_MAX:
        raise InvalidValue(f"'{text}' is no firewall mark; it may be 0 to {MARK_MAX}, or 0x0 to 0x{MARK_MAX:x}")
    return int(digits, base)


def _family(family: int | str) -> int:
    if isinstance(family, str):
        if family.lower() not in FAMILIES:
            raise InvalidValue(f"family '{family}' is unknown; use ipv4 or ipv6")
        return FAMILIES[family.lower()]
    if family not in (0, AF_INET, AF_INET6):
        raise InvalidValue(f"family {family} is unknown; use {AF_INET} (IPv4), {AF_INET6} (IPv6) or 0 (both)")
    return family


def _protocol(protocol: int | str) -> int:
    if protocol in ("6", "17", "132"):
        return int(protocol)
    if isinstance(protocol, str):
        if protocol and protocol.lower() not in PROTOCOLS:
            raise InvalidValue(f"protocol '{protocol}' is unknown; use tcp, udp or sctp")
        return PROTOCOLS[protocol.lower()] if protocol else 0
    if protocol and protocol not in PROTOCOLS.values():
        raise InvalidValue(f"protocol {protocol} cannot be balanced; use 6 (TCP), 17 (UDP) or 132 (SCTP)")
    return protocol


def _network(what: str, text: str) -> tuple[str, int]:
    """(canonical text, family); "" for a network of everything, which its family says."""
    address, slash, prefix = text.partition("/")
    family = family_of(address)
    try:
        raw = inet_pton(family, address)
    except (OSError, ValueError):
        right = "10.0.0.0/8, 10.0.0.1 or 2001:db8::/32"
        raise InvalidValue(f"{what} '{text}' is no address or network; write {right}") from None
    width = 8 * len(raw)
    bits = width
    if slash:
        if not prefix.isascii() or not prefix.isdecimal() or len(prefix) > 3 or int(prefix) > width:
            raise InvalidValue(f"{what} '{text}': prefix length '{prefix}' is no number from 0 to {width}")
        bits = int(prefix)
    whole = (int.from_bytes(raw, "big") >> (width - bits) << (width - bits)).to_bytes(width // 8, "big")
    if whole != raw:
        raise InvalidValue(
            f"{what} '{text}' has bits beyond its first {bits}; write {inet_ntop(family, whole)}/{bits} for the "
            f"network, or {inet_ntop(family, raw)} for the one address"
        )
    if not bits:
        return "", family
    return inet_ntop(family, raw) + (f"/{bits}" if bits < width else ""), family


def _port(what: str, text: str, protocol: int) -> int:
    if text.isascii() and text.isdecimal():
        if len(text) > 5 or int(text) > 65535:
            raise InvalidValue(f"{what}: {text[:20]} is out of range; a port may be 0 to 65535")
        return int(text)
    name = PROTOCOL_NAMES[protocol].lower() if protocol else "tcp"
    try:
        if text and "\0" not in text:
            return getservbyname(text, name)
    except (OSError, UnicodeError):
        pass
    raise InvalidValue(f"{what}: '{text}' is no port; write 80, 80,443, 1000:2000 or a service's name")


def _ranges(what: str, ports: Ports, protocol: int) -> tuple[tuple[int, int], ...]:
    """Ranges in order; those that meet are one. None if they are all ports there are."""
    if isinstance(ports, str):
        found = []
        for part in ports.split(",") if ports else ():
            first, colon, last = part.strip().partition(":")
            low = _port(what, first, protocol) if first or not colon else 0
            high = (_port(what, last, protocol) if last else 65535) if colon else low
            if colon and not first and not last:
                raise InvalidValue(f"{what}: '{part}' is no range; write 1000:2000")
            found.append((low, high))
    else:
        found = [(low, high) for low, high in ports]
    merged: list[tuple[int, int]] = []
    for low, high in sorted(found):
        if not 0 <= low <= high <= 65535:
            raise InvalidValue(f"{what}: {low}:{high} is no range; write the lower port first, and none above 65535")
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return () if merged == [(0, 65535)] else tuple(merged)


def _interface(name: str) -> str:
    raw = name.encode(errors="surrogateescape")
    unfit = any(c <= " " or c.isspace() or c in "/:" for c in name)
    if len(raw) > INTERFACE_MAX or name in (".", "..") or unfit:
        raise InvalidValue(
            f"'{name}' cannot be an interface's name: at most {INTERFACE_MAX} characters, and no slash, colon or space",
            errno.ENODEV,
        )
    return name
