"""The order of listings.

Keys are compared number by number, by the sign of their 32-bit difference, as
ipvsadm does. That is the usual order as long as the numbers are less than 2**31
apart, but it puts fd00::1 before 2001:db8::1, and three such addresses can form
a circle; then the outcome is that of the C library's merge sort.
"""

from _socket import AF_INET, inet_pton
from collections.abc import Callable, Sequence
from struct import unpack
from typing import TypeVar

from pylvs.ipvsadm.numbers import signed32
from pylvs.model import Destination, Service

T = TypeVar("T")
Key = tuple[int, ...]


def sorted_services(services: Sequence[Service]) -> list[Service]:
    """By firewall mark (services without one first), family, protocol, address, port."""

    def key(entry: Service) -> Key:
        svc = entry.service
        return (svc.fwmark, svc.family, svc.protocol, *_words(svc.family, svc.address), svc.port)

    return _sorted(services, key)


def sorted_destinations(destinations: Sequence[Destination]) -> list[Destination]:
    """By address and port; an IPv4 address among IPv6 ones (tunnels) counts as their first 32 bits."""

    def key(entry: Destination) -> Key:
        rs = entry.server
        return (*_words(rs.family, rs.address), rs.port)

    return _sorted(destinations, key)


def _words(family: int, address: str) -> Key:
    if not address:
        return (0, 0, 0, 0)
    packed = inet_pton(family, address)
    return (*unpack("!I", packed), 0, 0, 0) if family == AF_INET else unpack("!4I", packed)


def _sorted(items: Sequence[T], key: Callable[[T], Key]) -> list[T]:
    keyed = [(key(item), item) for item in items]
    columns = zip(*(k for k, _ in keyed), strict=True)
    if all(max(column) - min(column) < 1 << 31 for column in columns):
        keyed.sort(key=lambda pair: pair[0])
    else:
        keyed = _merge_sorted(keyed)
    return [item for _, item in keyed]


def _merge_sorted(keyed: list[tuple[Key, T]]) -> list[tuple[Key, T]]:
    if len(keyed) < 2:
        return keyed
    middle = len(keyed) // 2
    left, right = _merge_sorted(keyed[:middle]), _merge_sorted(keyed[middle:])
    merged: list[tuple[Key, T]] = []
    i = j = 0
    while i < len(left) and j < len(right):
        if _compare(left[i][0], right[j][0]) <= 0:
            merged.append(left[i])
            i += 1
        else:
            merged.append(right[j])
            j += 1
    return merged + left[i:] + right[j:]


def _compare(a: Key, b: Key) -> int:
    for x, y in zip(a, b, strict=True):
        difference = signed32(x - y)
        if difference:
            return difference
    return 0
