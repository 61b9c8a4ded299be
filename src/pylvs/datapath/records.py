"""Services and real servers as the shared maps hold them: from our values to bytes, and back."""

import struct
from _socket import AF_INET6, htonl, htons, inet_ntop, inet_pton, ntohl, ntohs

from pylvs.datapath import _layout
from pylvs.datapath.layout import DEST, POOL_OPTIONS, SERVICE_KEY
from pylvs.errors import NoSuchEngine
from pylvs.model import MASQ, RealServer, VirtualService, scheduler_flag_names

_ENGINES = ("", "sip")
_SCHEDULER_FLAGS = (_layout.POOL_SCHED1, _layout.POOL_SCHED2, _layout.POOL_SCHED3)


def pack_address(address: str) -> bytes:
    """An address as the maps hold it."""
    if ":" in address:
        return inet_pton(AF_INET6, address)
    return inet_pton(2, address) + bytes(12)


def unpack_address(raw: bytes, family: int) -> str:
    """The text of an address from the maps."""
    return inet_ntop(family, raw if family == AF_INET6 else raw[:4])


def service_key(service: VirtualService) -> bytes:
    """The key under which the packet path finds a service."""
    family, protocol, address, port, fwmark = service.key
    return SERVICE_KEY.pack(
        address=pack_address(address) if address else bytes(16),
        fwmark=fwmark,
        port=htons(port),
        protocol=protocol,
        family=family,
    )


def _engine(name: str) -> int:
    if name not in _ENGINES:
        raise NoSuchEngine(f"there is no persistence engine '{name}'; there is sip")
    return _ENGINES.index(name)


def pack_options(service: VirtualService) -> bytes:
    """What a service's pool says beside its real servers."""
    flags = _layout.POOL_PERSISTENT if service.persistent else 0
    flags |= _layout.POOL_ONE_PACKET if service.one_packet else 0
    for name, bit in zip(scheduler_flag_names(service.scheduler), _SCHEDULER_FLAGS, strict=True):
        flags |= bit if name in service.scheduler_flags else 0
    return POOL_OPTIONS.pack(
        flags=flags,
        timeout=service.persistent,
        netmask=service.netmask if service.family == AF_INET6 else htonl(service.netmask),
        engine=_engine(service.persistence_engine),
    )


def virtual_service(key: bytes, scheduler: str, options: bytes) -> VirtualService:
    """The service of such a key, with such options."""
    address, fwmark, port, protocol, family = SERVICE_KEY.unpack(key)
    flags, timeout, netmask, engine = struct.unpack_from("=4I", options)
    names = zip(scheduler_flag_names(scheduler), _SCHEDULER_FLAGS, strict=True)
    return VirtualService(
        "" if fwmark else unpack_address(address, family),
        ntohs(port),
        protocol,
        family,
        fwmark,
        scheduler,
        tuple(flag for flag, bit in names if flags & bit),
        timeout if flags & _layout.POOL_PERSISTENT else 0,
        netmask if family == AF_INET6 else ntohl(netmask),
        _ENGINES[engine],
        bool(flags & _layout.POOL_ONE_PACKET),
    )


def real_server(record: bytes, weight: int, flags: int, upper: int, lower: int, tunnel: int) -> RealServer:
    """The real server of a struct dest, and what its pool says of it."""
    address = unpack_address(DEST.get(record, 0, "address"), DEST.get(record, 0, "family"))
    port = ntohs(DEST.get(record, 0, "port"))
    kind, sums = tunnel & _layout.TUNNEL_TYPE, tunnel >> _layout.TUNNEL_FLAGS_SHIFT & 0xFF
    method = flags & _layout.CONN_METHOD
    return RealServer(address, port, method, weight, upper, lower, kind, tunnel >> _layout.TUNNEL_PORT_SHIFT, sums)


def pack_tunnel(server: RealServer) -> int:
    """How a tunnel to a real server is made, in one word."""
    return (
        server.tun_type | server.tun_flags << _layout.TUNNEL_FLAGS_SHIFT | server.tun_port << _layout.TUNNEL_PORT_SHIFT
    )


def identity(record: bytes) -> bytes:
    """By what a real server is known again in the trash (facts 1.11): its address and port, and its service."""
    return DEST.pack(
        address=DEST.get(record, 0, "address"),
        port=DEST.get(record, 0, "port"),
        family=DEST.get(record, 0, "family"),
        key=DEST.get(record, 0, "key"),
    )


def endpoint(record: bytes) -> bytes:
    """By what a real server is known within its service: address, port and family, which stand first in its record."""
    return record[: DEST.place("flags")[0]]


def endpoint_of(server: RealServer) -> bytes:
    """The same, of a real server that may have no record."""
    return endpoint(DEST.pack(address=pack_address(server.address), port=htons(server.port), family=server.family))


def conn_flags(method: int) -> int:
    """The flags that a connection to such a real server is born with (facts 1.8)."""
    return method | _layout.CONN_INACTIVE | (0 if method == MASQ else _layout.CONN_NOOUTPUT)


def serves(key: bytes) -> int:
    """What a service of this key makes packets be looked up as: bits of config.families. As in the kernel, any service
    on port 21 counts for FTP, and one by mark has the port 0."""
    family, port = SERVICE_KEY.get(key, 0, "family"), ntohs(SERVICE_KEY.get(key, 0, "port"))
    found = _layout.SERVES_IPV6 if family == AF_INET6 else _layout.SERVES_IPV4
    found |= _layout.SERVES_MARKS if SERVICE_KEY.get(key, 0, "fwmark") else 0
    return int(found | {0: _layout.SERVES_PORT_ZERO, 21: _layout.SERVES_FTP}.get(port, 0))
