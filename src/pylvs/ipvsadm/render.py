"""The listings of `ipvsadm -L`: services, connections, timeouts, daemons.

Each function yields lines without their newline; nothing here writes or asks a
director, so that a listing of any length needs no more memory than a slice of it.
"""

from _socket import AF_INET6
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice

from pylvs.ipvsadm.daemon import SyncDaemon
from pylvs.ipvsadm.names import Names
from pylvs.ipvsadm.numbers import signed32
from pylvs.ipvsadm.order import sorted_destinations, sorted_services
from pylvs.model import (
    METHOD_NAMES,
    NETMASK_ALL,
    PROTOCOL_NAMES,
    SCHEDULER_FLAGS,
    TUN_CSUM,
    TUN_GRE,
    TUN_GUE,
    TUN_REMCSUM,
    TUNNEL,
    Connection,
    Destination,
    RealServer,
    Service,
    Stats,
    Timeouts,
    VirtualService,
)

NAME_WIDTH = 28  # of addresses; IPv4 ones are cut to it, IPv6 ones run over
CONNECTION_LINE = 255  # characters of /proc/net/ip_vs_conn that the original takes for a line
SLICE = 512  # connections whose names are looked up together

# The columns after the address, by what was asked for; the first that applies wins.
KINDS = STATS, RATE, THRESHOLDS, PERSISTENT, TUNNELS = "stats", "rate", "thresholds", "persistent-conn", "tun-info"
PLAIN = "plain"

_LOCAL = f"{'Prot LocalAddress:Port':<33}"
_REMOTE = "  -> RemoteAddress:Port"
TITLES = {
    STATS: (f"{_LOCAL} {'Conns':>8} {'InPkts':>8} {'OutPkts':>8} {'InBytes':>8} {'OutBytes':>8}", _REMOTE),
    RATE: (f"{_LOCAL} {'CPS':>8} {'InPPS':>8} {'OutPPS':>8} {'InBPS':>8} {'OutBPS':>8}", _REMOTE),
    THRESHOLDS: (f"{_LOCAL} {'Uthreshold':<10} {'Lthreshold':<10} {'ActiveConn':<10} {'InActConn':<10}", _REMOTE),
    PERSISTENT: (f"{_LOCAL} {'Weight':<9} {'PersistConn':<11} {'ActiveConn':<10} {'InActConn':<10}", _REMOTE),
    TUNNELS: (
        "Prot LocalAddress:Port Scheduler Flags",
        f"{_REMOTE:<33} Forward TunnelInfo    Weight ActiveConn InActConn",
    ),
    PLAIN: ("Prot LocalAddress:Port Scheduler Flags", f"{_REMOTE:<33} Forward Weight ActiveConn InActConn"),
}


def kind_of(given: set[str]) -> str:
    """Which columns the options ask for."""
    return next((kind for kind in KINDS if kind in given), PLAIN)


def version_line(size: int) -> str:
    return f"IP Virtual Server version 1.2.1 (size={size})"


def services(entries: Iterable[Service], kind: str, exact: bool, sort: bool, names: Names) -> Iterator[str]:
    """The table of services: title, then each service and its real servers."""
    yield from TITLES[kind]
    table = list(entries)
    learn(table, names)
    for entry in sorted_services(table) if sort else table:
        yield _service_line(entry, kind, exact, names)
        for dest in sorted_destinations(entry.destinations) if sort else entry.destinations:
            yield _ROWS[kind](dest, _server_name(dest.server, entry.service, names), exact)


def learn(table: Sequence[Service], names: Names) -> None:
    """Looks up the host names that a table of services will show."""
    if not names.numeric:
        addresses = (dest.server.address for entry in table for dest in entry.destinations)
        names.learn(chain((entry.service.address for entry in table if not entry.service.fwmark), addresses))


def _service_line(entry: Service, kind: str, exact: bool, names: Names) -> str:
    svc = entry.service
    if svc.fwmark:
        name = f"FWM  {signed32(svc.fwmark)}" + (" IPv6" if svc.family == AF_INET6 else "")
    else:
        address = cut(names.endpoint(svc.address, svc.port, svc.protocol), svc.address)
        name = f"{PROTOCOL_NAMES.get(svc.protocol, 'TCP'):<4} {address}"
    if kind == STATS:
        return f"{name:<33}" + _totals(entry.stats, exact)
    if kind == RATE:
        return f"{name:<33}" + _rates(entry.stats, exact)
    text = f"{name} {svc.scheduler}"
    if svc.scheduler_flags:
        text += f" ({scheduler_flags(svc)})"
    if svc.persistent:
        text += f" persistent {svc.persistent}"
        mask = netmask(svc)
        if mask:
            text += f" mask {mask}"
        if svc.persistence_engine:
            text += f" pe {svc.persistence_engine}"
    return text + (" ops" if svc.one_packet else "")


def scheduler_flags(svc: VirtualService) -> str:
    """The flags as shown: a scheduler with names for its flags shows only those."""
    own = SCHEDULER_FLAGS.get(svc.scheduler)
    return ",".join(flag for flag in svc.scheduler_flags if own is None or flag in own)


def netmask(svc: VirtualService) -> str:
    """The persistence netmask as options and listings have it; "" for a single client address."""
    if svc.family == AF_INET6:
        return "" if svc.netmask == 128 else str(svc.netmask)
    return "" if svc.netmask == NETMASK_ALL else ".".join(str(byte) for byte in svc.netmask.to_bytes(4, "big"))


def cut(text: str, address: str) -> str:
    return text if ":" in address else text[:NAME_WIDTH]


def _server_name(rs: RealServer, svc: VirtualService, names: Names) -> str:
    return cut(names.endpoint(rs.address, rs.port, 0 if svc.fwmark else svc.protocol), rs.address)


def _plain_row(dest: Destination, name: str, _exact: bool) -> str:
    method = METHOD_NAMES.get(dest.server.method, "")
    return f"  -> {name:<28} {method:<7} {dest.server.weight:<6} {dest.active:<10} {dest.inactive:<10}"


def _tunnel_row(dest: Destination, name: str, _exact: bool) -> str:
    rs = dest.server
    method = METHOD_NAMES.get(rs.method, "")
    return f"  -> {name:<28} {method:<7} {_tunnel(rs):<13} {rs.weight:<6} {dest.active:<10} {dest.inactive:<10}"


def _tunnel(rs: RealServer) -> str:
    if rs.method != TUNNEL:
        return "n/a"
    checksum = {TUN_CSUM: "+c", TUN_REMCSUM: "r+c"}.get(rs.tun_flags, "-c")
    if rs.tun_type == TUN_GUE:
        return f"gue:{rs.tun_port}:{checksum}"
    return f"gre:{checksum}" if rs.tun_type == TUN_GRE else "ipip"


def _threshold_row(dest: Destination, name: str, _exact: bool) -> str:
    rs = dest.server
    return f"  -> {name:<28} {rs.upper:<10} {rs.lower:<10} {dest.active:<10} {dest.inactive:<10}"


def _persistent_row(dest: Destination, name: str, _exact: bool) -> str:
    return f"  -> {name:<28} {dest.server.weight:<9} {dest.persistent:<11} {dest.active:<10} {dest.inactive:<10}"


def _stats_row(dest: Destination, name: str, exact: bool) -> str:
    return f"  -> {name:<28}" + _totals(dest.stats, exact)


def _rate_row(dest: Destination, name: str, exact: bool) -> str:
    return f"  -> {name:<28}" + _rates(dest.stats, exact)


_ROWS: dict[str, Callable[[Destination, str, bool], str]] = {
    STATS: _stats_row,
    RATE: _rate_row,
    THRESHOLDS: _threshold_row,
    PERSISTENT: _persistent_row,
    TUNNELS: _tunnel_row,
    PLAIN: _plain_row,
}


def _totals(stats: Stats, exact: bool) -> str:
    return _numbers((stats.conns, stats.inpkts, stats.outpkts, stats.inbytes, stats.outbytes), exact)


def _rates(stats: Stats, exact: bool) -> str:
    return _numbers((stats.cps, stats.inpps, stats.outpps, stats.inbps, stats.outbps), exact)


def _numbers(values: Sequence[int], exact: bool) -> str:
    return "".join(f" {value:>8}" if exact else large_number(value) for value in values)


def large_number(value: int) -> str:
    """A counter in nine columns, rounded down when it needs more."""
    if value < 100_000_000:
        return f" {value:>8}"
    for limit, unit, letter in (
        (1_000_000_000, 1_000, "K"),
        (100_000_000_000, 1_000_000, "M"),
        (100_000_000_000_000, 1_000_000_000, "G"),
    ):
        if value < limit:
            return f" {value // unit:>7}{letter}"
    # At this size the original leaves the separating blank out only when the digits need its place.
    return f"{value // 1_000_000_000_000:>8}T"


def connections(entries: Iterable[Connection], persistence: bool, names: Names) -> Iterator[str]:
    """The connection table; with `persistence`, the persistence engine's data too."""
    yield "IPVS connection entries"
    title = f"pro expire {'state':<11} {'source':<18} {'virtual':<18} "
    yield title + (f"{'destination':<18} {'pe name':<16} pe_data" if persistence else "destination")
    rest = iter(entries)
    while True:
        batch = list(islice(rest, SLICE))
        if not batch:
            return
        if not names.numeric:
            names.learn(address for conn in batch for address in (conn.caddr, conn.vaddr, conn.daddr))
        for conn in batch:
            yield _connection_line(conn, persistence, names)


def _connection_line(conn: Connection, persistence: bool, names: Names) -> str:
    protocol = PROTOCOL_NAMES.get(conn.protocol) or f"IP_{conn.protocol}"
    minutes, seconds = divmod(max(conn.expires, 0) // 1000, 60)
    client = names.endpoint(conn.caddr, conn.cport, conn.protocol)
    virtual = names.endpoint(conn.vaddr, conn.vport, conn.protocol)
    server = names.endpoint(conn.daddr, conn.dport, conn.protocol)
    text = f"{protocol:<3} {minutes:02}:{seconds:02}  {conn.state:<11} {client:<18} {virtual:<18} "
    if persistence and conn.pe_name:
        data = _readable(conn.pe_data)[: _room_for_data(conn, protocol)]
        return f"{text}{server:<16} {conn.pe_name:<18} {data}"
    return text + server


def _room_for_data(conn: Connection, protocol: str) -> int:
    """How much of a persistence engine's data is shown: the original reads a connection's line in
    /proc/net/ip_vs_conn into a buffer for so many characters. (It then takes the rest for a connection of its own;
    we do not.)"""
    addresses = sum(39 if ":" in address else 8 for address in (conn.caddr, conn.vaddr, conn.daddr))
    before = len(f"{protocol:<3}") + addresses + 6 + 3 * 4 + 1 + 11 + 1 + 7 + 1 + len(conn.pe_name) + 1
    return CONNECTION_LINE - before


def _readable(data: bytes) -> str:
    """The first word of what a client sent, with nothing in it that a terminal would obey."""
    word = data.split(maxsplit=1)[:1]
    return "".join(chr(byte) if 0x20 < byte < 0x7F else "?" for byte in word[0]) if word else ""


def timeouts(values: Timeouts) -> str:
    return f"Timeout (tcp tcpfin udp): {values.tcp} {values.tcp_fin} {values.udp}"


def daemons(entries: Iterable[SyncDaemon]) -> Iterator[str]:
    for entry in entries:
        yield (
            f"{entry.role} sync daemon (mcast={entry.interface}, syncid={entry.syncid}, maxlen={entry.maxlen}, "
            f"group={entry.group}, port={entry.port}, ttl={entry.ttl})"
        )
