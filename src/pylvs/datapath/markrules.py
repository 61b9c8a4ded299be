"""The rules by which the director marks packets itself, in the shared map.

Rules of this file:
 - Which rules are in force, and how many, is one word: `config.marks`. A change is one store of it.
 - A rule at the end is written behind those in force. Any other change writes all of them into the other row.
 - The caller holds the namespace's lock while changing anything.
"""

import errno
import os
import time
from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from collections.abc import Iterator, Sequence

from pylvs.datapath import _layout, netlink
from pylvs.datapath.instance import Instance
from pylvs.datapath.layout import MARK_RULE
from pylvs.errors import InvalidValue, TableFull
from pylvs.model import MarkRule, family_of

_REST = 50_000_000  # ns that a row rests before it is written again: a packet may be going through it
_NONE = (1, 0)  # a range that no port is in
_ALL = (0, 65535)


def _bits(mask: bytes) -> int:
    return int.from_bytes(mask, "big").bit_count()


def _pack_network(network: str) -> tuple[bytes, bytes]:
    """(address, mask) of a network as the map holds them."""
    if not network:
        return bytes(16), bytes(16)
    address, slash, prefix = network.partition("/")
    raw = inet_pton(family_of(address), address)
    width = 8 * len(raw)
    bits = int(prefix) if slash else width
    mask = (((1 << bits) - 1) << (width - bits)).to_bytes(width // 8, "big")
    return raw.ljust(16, b"\0"), mask.ljust(16, b"\0")


def _unpack_network(address: bytes, mask: bytes, family: int) -> str:
    width = 128 if family == AF_INET6 else 32
    bits = _bits(mask)
    if not bits:
        return ""
    return inet_ntop(family or AF_INET, address[: width // 8]) + (f"/{bits}" if bits < width else "")


def _pack_ranges(ranges: Sequence[tuple[int, int]], room: int) -> tuple[int, ...]:
    found = list(ranges) or [_ALL]
    found += [_NONE] * (room - len(found))
    return tuple(port for both in found for port in both)


def _unpack_ranges(ports: Sequence[int]) -> tuple[tuple[int, int], ...]:
    found = tuple(both for both in zip(ports[::2], ports[1::2], strict=True) if both != _NONE)
    return () if found == (_ALL,) else found


def pack(rule: MarkRule, interfaces: dict[str, int]) -> bytes:
    """A rule as the map holds it. `interfaces`: name -> number."""
    destination, destination_mask = _pack_network(rule.destination)
    source, source_mask = _pack_network(rule.source)
    return MARK_RULE.pack(
        destination=destination,
        destination_mask=destination_mask,
        source=source,
        source_mask=source_mask,
        dports=_pack_ranges(rule.destination_ports, _layout.MARK_DPORTS),
        sports=_pack_ranges(rule.source_ports, _layout.MARK_SPORTS),
        ifindex=interfaces.get(rule.interface, _layout.MARK_NO_INTERFACE) if rule.interface else 0,
        mark=rule.mark,
        protocol=rule.protocol,
        family=rule.family,
        interface=os.fsencode(rule.interface),
    )


def unpack(record: bytes) -> MarkRule:
    """The rule in a record of the map."""
    get = MARK_RULE.get
    family = get(record, 0, "family")
    return MarkRule(
        get(record, 0, "mark"),
        _unpack_network(get(record, 0, "destination"), get(record, 0, "destination_mask"), family),
        _unpack_network(get(record, 0, "source"), get(record, 0, "source_mask"), family),
        os.fsdecode(get(record, 0, "interface").rstrip(b"\0")),
        get(record, 0, "protocol"),
        _unpack_ranges(get(record, 0, "dports")),
        _unpack_ranges(get(record, 0, "sports")),
        family,
    )


class MarkTable:
    """All rules of one director, in order."""

    def __init__(self, instance: Instance):
        self._instance = instance

    def _in_force(self) -> tuple[int, int]:
        """(number of the first, how many)."""
        word = self._instance.config.get(0, "marks")
        return (_layout.MARK_RULES if word & _layout.MARK_ROW else 0), word & _layout.MARK_COUNT

    def rules(self) -> list[MarkRule]:
        """The rules as they were at one moment; who looks holds no lock."""
        config = self._instance.config
        while True:
            before = config.get(0, "marks_moved"), config.get(0, "marks")
            first, count = self._in_force()
            records = self._instance.marks.read(first, count)
            if (config.get(0, "marks_moved"), config.get(0, "marks")) == before:
                size = MARK_RULE.size
                return [unpack(records[at : at + size]) for at in range(0, len(records), size)]

    def append(self, rule: MarkRule) -> None:
        """Put a rule behind the others.

        Raises:
            TableFull
        """
        first, count = self._in_force()
        self._check_room(count + 1)
        self._instance.marks.write(first + count, pack(rule, self._interfaces([rule])))
        config = self._instance.config
        config.put(0, "marks", config.get(0, "marks") + 1)

    def replace(self, rules: Sequence[MarkRule]) -> None:
        """Put these rules in the place of all others, in one step.

        Raises:
            TableFull
        """
        self._check_room(len(rules))
        config = self._instance.config
        passed = time.monotonic_ns() - config.get(0, "marks_moved")
        if 0 <= passed < _REST:
            time.sleep((_REST - passed) / 1e9)
        row = ~config.get(0, "marks") & _layout.MARK_ROW
        interfaces = self._interfaces(rules)
        records = b"".join(pack(rule, interfaces) for rule in rules)
        self._instance.marks.write(_layout.MARK_RULES if row else 0, records)
        config.put(0, "marks_moved", time.monotonic_ns())
        config.put(0, "marks", row | len(rules))

    def look_around(self) -> None:
        """Interfaces may have gone and come back under another number."""
        named = list(self._named())
        if not named:
            return
        numbers = {interface.name: interface.ifindex for interface in netlink.interfaces()}
        for place, name in named:
            now = numbers.get(name, _layout.MARK_NO_INTERFACE)
            if self._instance.marks.get(place, "ifindex") != now:
                self._instance.marks.put(place, "ifindex", now)

    def _named(self) -> Iterator[tuple[int, str]]:
        first, count = self._in_force()
        for place in range(first, first + count):
            name = self._instance.marks.get(place, "interface").rstrip(b"\0")
            if name:
                yield place, os.fsdecode(name)

    @staticmethod
    def _check_room(count: int) -> None:
        if count > _layout.MARK_RULES:
            raise TableFull(f"there is room for {_layout.MARK_RULES} rules, not for {count}; put networks into them")

    @staticmethod
    def _interfaces(rules: Sequence[MarkRule]) -> dict[str, int]:
        if not any(rule.interface for rule in rules):
            return {}
        return {interface.name: interface.ifindex for interface in netlink.interfaces()}


def check_interface(name: str) -> None:
    """Refuse the name of an interface that is not there.

    Raises:
        InvalidValue: with errno ENODEV.
    """
    names = sorted(interface.name for interface in netlink.interfaces())
    if name and name not in names:
        raise InvalidValue(f"there is no interface {name}; there are {', '.join(names)}", errno.ENODEV)
