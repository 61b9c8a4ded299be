"""The files that the kernel's IPVS has under /proc, in its own forms (facts 9.1 to 9.3), from a `Director`.

    for line in lines(director, "net/ip_vs_conn"):
        ...

Each function yields lines without their newline, as bytes: what a persistence engine keeps need not be text. A listing
of any length needs no more memory than a line of it.
"""

from _socket import AF_INET6, inet_pton
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache

from pylvs.datapath import table
from pylvs.datapath.maps import possible_cpus
from pylvs.datapath.statistics import TOTAL, Statistics
from pylvs.director import Director
from pylvs.errors import InvalidValue
from pylvs.model import (
    LOCALNODE,
    MASQ,
    METHOD_NAMES,
    ROUTE,
    TUNNEL,
    Connection,
    Destination,
    Stats,
    VirtualService,
    family_of,
    protocol_name,
)

HZ = 250
"""Clock ticks per second: what most distributions' kernels have. The timeouts in net/ip_vs are ticks."""

_METHODS = {method: METHOD_NAMES[method] for method in (LOCALNODE, TUNNEL, ROUTE)}  # all else is Masq


def lines(director: Director, name: str, hz: int = HZ) -> Iterator[bytes]:
    """A file, line by line.

    Args:
        name: one of FILES; a leading "/proc/" may stand before it, and "net/" be left out.
        hz: clock ticks per second of the kernel that is to be imitated.

    Raises:
        InvalidValue: there is no such file.
    """
    short = name.removeprefix("/proc/").removeprefix("net/")
    render = FILES.get(f"net/{short}")
    if render is None:
        raise InvalidValue(f"there is no {name}; there are {', '.join(FILES)}")
    return render(director, hz)


# ---- services -------------------------------------------------------------------------------------------------------


def _services(director: Director, hz: int) -> Iterator[bytes]:
    yield b"IP Virtual Server version 1.2.1 (size=%d)" % director.table_size
    yield b"Prot LocalAddress:Port Scheduler Flags"
    yield b"  -> RemoteAddress:Port Forward Weight ActiveConn InActConn"
    marked = []
    for service in director.services():
        # those by address come first, as there they stand in another table
        if service.service.fwmark:
            marked.append(service)
            continue
        yield _service(service.service, hz)
        yield from map(_destination, service.destinations)
    for service in marked:
        yield _service(service.service, hz)
        yield from map(_destination, service.destinations)


def _service(service: VirtualService, hz: int) -> bytes:
    ops = "ops " if service.one_packet else ""
    if service.fwmark:
        text = f"FWM  {service.fwmark:08X} {service.scheduler} {ops}"
    elif service.family == AF_INET6:
        text = f"{protocol_name(service.protocol)}  [{_hex(service.address)}]:{service.port:04X} {service.scheduler} "
    else:
        name = protocol_name(service.protocol)
        text = f"{name}  {_hex(service.address)}:{service.port:04X} {service.scheduler} {ops} "
    if service.persistent:
        netmask = service.netmask
        if service.family == AF_INET6:  # the prefix length, as a 32-bit number with its bytes turned round
            netmask = int.from_bytes(netmask.to_bytes(4, "little"), "big")
        text += f"persistent {service.persistent * hz} {netmask:08X}"
    return text.encode()


def _destination(destination: Destination) -> bytes:
    server = destination.server
    address = _hex(server.address)
    if server.family == AF_INET6:
        address = f"[{address}]"
    method = _METHODS.get(server.method, METHOD_NAMES[MASQ])
    where = f"  -> {address}:{server.port:04X}      {method:<7} "
    return f"{where}{server.weight:<6} {destination.active:<10} {destination.inactive:<10}".encode()


@lru_cache(4096)  # VIPs and real servers come again and again
def _hex(address: str) -> str:
    raw = inet_pton(family_of(address), address)
    if len(raw) == 4:
        return raw.hex().upper()
    return raw.hex(":", 2)


# ---- connections ----------------------------------------------------------------------------------------------------


def _connections(director: Director, hz: int) -> Iterator[bytes]:
    yield b"Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData"
    for conn in director.connections():
        line = f"{_ends(conn)} {conn.state:<11} {conn.expires // 1000:>7}".encode()
        yield line + b" %s %s" % (conn.pe_name.encode(), conn.pe_data) if conn.pe_data else line


def _connections_sync(director: Director, hz: int) -> Iterator[bytes]:
    yield b"Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Origin Expires"
    for conn in director.connections():
        yield f"{_ends(conn)} {conn.state:<11} {'LOCAL':<6} {conn.expires // 1000:>7}".encode()


def _ends(conn: Connection) -> str:
    client, virtual, server = _hex(conn.caddr), _hex(conn.vaddr), _hex(conn.daddr)
    ports = conn.cport, conn.vport, conn.dport
    name = protocol_name(conn.protocol)
    return f"{name:<3} {client} {ports[0]:04X} {virtual} {ports[1]:04X} {server} {ports[2]:04X}"


# ---- counters -------------------------------------------------------------------------------------------------------


def _counts(conns: int, inpkts: int, outpkts: int, inbytes: int, outbytes: int) -> str:
    return f"{conns:8X} {inpkts:8X} {outpkts:8X} {inbytes:16X} {outbytes:16X}"


def _stats(director: Director, hz: int) -> Iterator[bytes]:
    total = director.totals()
    yield b"   Total Incoming Outgoing         Incoming         Outgoing"
    yield b"   Conns  Packets  Packets            Bytes            Bytes"
    yield _counts(*total[:5]).encode()
    yield b""
    yield b" Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s"
    yield _counts(*total[5:]).encode()


def _stats_percpu(director: Director, hz: int) -> Iterator[bytes]:
    total = director.totals()
    yield b"       Total Incoming Outgoing         Incoming         Outgoing"
    yield b"CPU    Conns  Packets  Packets            Bytes            Bytes"
    for cpu, row in enumerate(_by_cpu(director)):
        yield f"{cpu:3X} {_counts(*row[:5])}".encode()
    yield f"  ~ {_counts(*total[:5])}".encode()
    yield b""
    yield b"     Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s"
    yield f"    {_counts(*total[5:])}".encode()


def _by_cpu(director: Director) -> list[Stats]:
    if director.instance is None:
        return [Stats()] * possible_cpus()
    return Statistics(director.instance).by_cpu(TOTAL)


# ---- the rest -------------------------------------------------------------------------------------------------------


def _applications(director: Director, hz: int) -> Iterator[bytes]:
    yield b"prot port    usecnt name"
    ports = director.ftp_ports()
    used = Counter(director.helped_connections()) if ports else Counter[int]()
    for port in sorted(ports):
        yield f"TCP  {port:<7} {used[port]:<6} {'ftp':<17}".encode()


def _status(director: Director, hz: int) -> Iterator[bytes]:
    """There, a bucket's length is how many connections a lookup may have to look at; the nearest thing to it here is a
    word of tags. There is no estimation thread to speak of, and buckets are as many as there are."""
    running = director.instance
    if running is None:
        yield b"Conns:\t0"
        yield b"Services:\t0"
        return
    lengths = table.word_lengths(running)
    buckets = running.config.get(0, "conn_slots") // (table.GROUP_SLOTS // table.TAG_WORDS)
    conns = running.runtime.get(0, "conns")
    yield b"Conns:\t%d" % conns
    yield b"Conn buckets:\t%d (%d bits)" % (buckets, buckets.bit_length() - 1)
    if conns:
        empty = lengths[0]
        yield b"Conn buckets empty:\t%d (%d%%)" % (empty, 100 * empty // buckets)
        long = Counter({length: lengths[length] for length in range(1, 7)})
        long[7] = sum(lengths[7:])
        for length, number in sorted(long.items()):
            if number:
                yield b"Conn buckets len-%d:\t%d (%d%%)" % (length, number, 100 * number // max(buckets - empty, 1))
    yield b"Services:\t%d" % sum(1 for _ in director.services())


FILES: dict[str, Callable[[Director, int], Iterator[bytes]]] = {
    "net/ip_vs": _services,
    "net/ip_vs_app": _applications,
    "net/ip_vs_conn": _connections,
    "net/ip_vs_conn_sync": _connections_sync,
    "net/ip_vs_stats": _stats,
    "net/ip_vs_stats_percpu": _stats_percpu,
    "net/ip_vs_status": _status,
}
