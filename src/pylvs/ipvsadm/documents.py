"""What `--json` prints, for programs: docs/ipvsadm.schema.json describes it.

A document says its version and kind first. Members may be added without another version; what is there keeps its name
and meaning. Numbers are numbers, addresses are texts and never names, what is not known or does not apply is absent.
Each service, connection and change stands on a line of its own, and is written before the next one is looked at.
"""

import json
from _socket import AF_INET6
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from pylvs.ipvsadm.changes import Change
from pylvs.ipvsadm.daemon import SyncDaemon
from pylvs.ipvsadm.order import sorted_destinations, sorted_services
from pylvs.ipvsadm.render import scheduler_flags
from pylvs.model import (
    BYPASS,
    LOCALNODE,
    MASQ,
    ROUTE,
    TUN_CSUM,
    TUN_GRE,
    TUN_GUE,
    TUN_IPIP,
    TUN_NOCSUM,
    TUN_REMCSUM,
    TUNNEL,
    Connection,
    Destination,
    RealServer,
    Service,
    Stats,
    Timeouts,
    VirtualService,
    protocol_name,
)

T = TypeVar("T")
Members = dict[str, Any]

VERSION = 1
METHODS = {MASQ: "masquerading", LOCALNODE: "local", TUNNEL: "tunneling", ROUTE: "gatewaying", BYPASS: "bypass"}
_TUNNELS = {TUN_IPIP: "ipip", TUN_GUE: "gue", TUN_GRE: "gre"}
_CHECKSUMS = {TUN_NOCSUM: "none", TUN_CSUM: "full", TUN_REMCSUM: "remote"}
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode  # all that is not ASCII is escaped


def _document(kind: str, items: Iterable[T], describe: Callable[[T], Members], **head: int) -> Iterator[str]:
    """The lines of a document that is a list; an item is asked for when the one before it has been given."""
    yield _encode({"version": VERSION, "kind": kind, **head})[:-1] + f',"{kind}":['
    before = None
    for item in items:
        if before is not None:
            yield before + ","
        before = _encode(describe(item))
    if before is not None:
        yield before
    yield "]}"


# ---- services -------------------------------------------------------------------------------------------------------


def services(entries: Iterable[Service], table_size: int, sort: bool = True) -> Iterator[str]:
    """All that every option of `-L` shows of services. Which of these options are there changes nothing."""
    table = sorted_services(list(entries)) if sort else entries

    def describe(entry: Service) -> Members:
        return _service(entry, sort)

    return _document("services", table, describe, table_size=table_size)


def _service(entry: Service, sort: bool) -> Members:
    dests = sorted_destinations(entry.destinations) if sort else entry.destinations
    return {
        **service_members(entry.service),
        **_counters(entry.stats),
        "real_servers": [_destination(dest) for dest in dests],
    }


def service_key(svc: VirtualService) -> Members:
    """What tells a service from others."""
    family = "ipv6" if svc.family == AF_INET6 else "ipv4"
    if svc.fwmark:
        return {"family": family, "fwmark": svc.fwmark}
    return {"family": family, "protocol": _protocol(svc.protocol), "address": svc.address, "port": svc.port}


def service_members(svc: VirtualService) -> Members:
    """A service as it is configured."""
    members = service_key(svc)
    members["scheduler"] = svc.scheduler
    members["scheduler_flags"] = [flag for flag in scheduler_flags(svc).split(",") if flag]
    if svc.persistent:
        members["persistence"] = {"timeout": svc.persistent, **_mask(svc)}
    if svc.persistence_engine:
        members["persistence_engine"] = svc.persistence_engine
    members["one_packet"] = svc.one_packet
    return members


def _mask(svc: VirtualService) -> Members:
    if svc.family == AF_INET6:
        return {"prefix_length": svc.netmask}
    return {"netmask": ".".join(str(byte) for byte in svc.netmask.to_bytes(4, "big"))}


def server_members(rs: RealServer) -> Members:
    """A real server as it is configured."""
    members: Members = {
        "family": "ipv6" if rs.family == AF_INET6 else "ipv4",
        "address": rs.address,
        "port": rs.port,
        "method": METHODS[rs.method],
    }
    if rs.method == TUNNEL:
        members["tunnel"] = {"type": _TUNNELS[rs.tun_type], "checksum": _CHECKSUMS[rs.tun_flags]}
        if rs.tun_type == TUN_GUE:
            members["tunnel"]["port"] = rs.tun_port
    members |= {"weight": rs.weight, "upper_threshold": rs.upper, "lower_threshold": rs.lower}
    return members


def _destination(dest: Destination) -> Members:
    return {
        **server_members(dest.server),
        "active_connections": dest.active,
        "inactive_connections": dest.inactive,
        "persistent_connections": dest.persistent,
        **_counters(dest.stats),
    }


_TOTALS = ("connections", "packets_in", "packets_out", "bytes_in", "bytes_out")


def _counters(stats: Stats) -> Members:
    return {
        "stats": dict(zip(_TOTALS, stats[:5], strict=True)),
        "rate": dict(zip(_TOTALS, stats[5:], strict=True)),
    }


# ---- the rest -------------------------------------------------------------------------------------------------------


def connections(entries: Iterable[Connection]) -> Iterator[str]:
    """The connection table, in no particular order."""
    return _document("connections", entries, _connection)


def _connection(conn: Connection) -> Members:
    members: Members = {
        "family": "ipv6" if conn.family == AF_INET6 else "ipv4",
        "protocol": _protocol(conn.protocol),
        "client": {"address": conn.caddr, "port": conn.cport},
        "virtual": {"address": conn.vaddr, "port": conn.vport},
        "real_server": {"address": conn.daddr, "port": conn.dport},
        "method": METHODS.get(conn.method, "gatewaying"),
        "state": conn.state,
        "expires": max(conn.expires, 0) / 1000,
        "template": conn.template,
        "packets": conn.packets,
    }
    if conn.fwmark:
        members["fwmark"] = conn.fwmark
    if conn.pe_name:
        # whatever bytes a client sent: each is one character, and no more than that
        members |= {"persistence_engine": conn.pe_name, "persistence_data": conn.pe_data.decode("latin-1")}
    return members


def _protocol(number: int) -> str:
    return protocol_name(number).lower()


def timeouts(values: Timeouts) -> Iterator[str]:
    """The timeouts that --set sets, in seconds."""
    yield _encode({"version": VERSION, "kind": "timeouts", "timeouts": values._asdict()})


def daemons(entries: Iterable[SyncDaemon]) -> Iterator[str]:
    """The sync daemons that run."""
    return _document("daemons", entries, _daemon)


def _daemon(daemon: SyncDaemon) -> Members:
    return {name: value for name, value in daemon._asdict().items() if value != ""}


def changes(entries: Iterable[Change]) -> Iterator[str]:
    """What a rehearsed command would change."""
    return _document("changes", entries, _change)


def _change(change: Change) -> Members:
    members: Members = {"command": change.command}
    if change.service is not None:
        whole = change.command in ("add-service", "edit-service")
        members["service"] = service_members(change.service) if whole else service_key(change.service)
    if change.server is not None:
        members["real_server"] = server_members(change.server)
    if change.timeouts is not None:
        members["timeouts"] = change.timeouts._asdict()
    return members
