"""A Director without a kernel: the contract of pylvs.director in plain lists, with kernel IPVS's checks in their order.

Everything LVS knows is accepted here, so that the command line can be tested whole. It keeps no connections of its
own: a test that lists some puts them in.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from errno import EEXIST, EINVAL, ENODEV, ENOENT, ESRCH
from ipaddress import ip_address

from pylvs.errors import (
    DestinationExists,
    InvalidValue,
    LVSError,
    NoSuchDestination,
    NoSuchScheduler,
    NoSuchService,
    NotPermitted,
    ServiceExists,
)
from pylvs.ipvsadm.daemon import SyncDaemon
from pylvs.model import TUNNEL, Connection, Destination, RealServer, Service, Timeouts, VirtualService
from pylvs.plan import Checks, Plan

SCHEDULERS = ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos", "none"]
ENGINES = ("", "sip")
MTU = 1500


class FakeDirector:
    table_size = 4096

    def __init__(
        self,
        permitted: bool = True,
        local: Iterable[str] = (),
        interfaces: Iterable[str] = ("lo",),
        connections: Iterable[Connection] = (),
    ):
        if not permitted:
            raise NotPermitted("needs root")
        self._services: dict[tuple[int, int, str, int, int], Service] = {}
        self._local = {"127.0.0.1", "::1", *local}
        self._interfaces = set(interfaces)
        self._connections = list(connections)
        self._timeouts = Timeouts(900, 120, 300)
        self._daemons: dict[str, SyncDaemon] = {}

    def __enter__(self) -> "FakeDirector":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """The table stays, as the kernel's does."""

    # Services.

    def services(self) -> Iterator[Service]:
        newest_first = list(reversed(self._services.values()))
        yield from (entry for entry in newest_first if not entry.service.fwmark)
        yield from (entry for entry in newest_first if entry.service.fwmark)

    def service(self, key: VirtualService) -> Service:
        try:
            return self._services[key.key]
        except KeyError:
            raise NoSuchService(f"{key} is not defined") from None

    def add_service(self, svc: VirtualService) -> None:
        if svc.key in self._services:
            raise ServiceExists(f"{svc} is defined already")
        self._check_service(svc)
        self._services[svc.key] = Service(svc)

    def edit_service(self, svc: VirtualService) -> None:
        entry = self.service(svc)
        self._check_service(svc)
        self._services[svc.key] = entry._replace(service=svc)

    def delete_service(self, key: VirtualService) -> None:
        self.service(key)
        del self._services[key.key]

    def flush(self) -> None:
        self._services.clear()

    def zero(self, key: VirtualService | None = None) -> None:
        if key is not None:
            self.service(key)

    @staticmethod
    def _check_service(svc: VirtualService) -> None:
        if svc.scheduler not in SCHEDULERS:
            raise NoSuchScheduler(f"there is no scheduler {svc.scheduler}")
        if svc.persistence_engine not in ENGINES:
            raise LVSError(f"there is no persistence engine {svc.persistence_engine}", ENOENT)

    # Real servers.

    def add_destination(self, key: VirtualService, rs: RealServer) -> None:
        entry = self.service(key)
        self._check_family(key, rs)
        if self._find(entry, rs) is not None:
            raise DestinationExists(f"{rs} is there already")
        self._check_address(rs)
        self._put(entry, [Destination(rs), *entry.destinations])

    def _check_address(self, rs: RealServer) -> bool:
        address = ip_address(rs.address)
        if rs.address not in self._local:
            mapped = address.version == 6 and address.ipv4_mapped is not None
            broadcast = rs.address == "255.255.255.255"
            link_local = address.version == 6 and address.is_link_local
            if address.is_multicast or address.is_unspecified or broadcast or link_local or mapped:
                raise InvalidValue(f"{rs.address} is not unicast", EINVAL)
        return rs.address in self._local

    def edit_destination(self, key: VirtualService, rs: RealServer) -> None:
        entry = self.service(key)
        self._check_family(key, rs)
        index = self._find(entry, rs)
        if index is None:
            raise NoSuchDestination(f"{rs} is not there")
        destinations = list(entry.destinations)
        destinations[index] = destinations[index]._replace(server=rs)
        self._put(entry, destinations)

    def delete_destination(self, key: VirtualService, rs: RealServer) -> None:
        entry = self.service(key)
        index = self._find(entry, rs)
        if index is None:
            raise NoSuchDestination(f"{rs} is not there")
        self._put(entry, [dest for i, dest in enumerate(entry.destinations) if i != index])

    @staticmethod
    def _check_family(key: VirtualService, rs: RealServer) -> None:
        if rs.family != key.family and rs.method != TUNNEL:
            raise InvalidValue("only a tunnel changes the address family", EINVAL)

    @staticmethod
    def _find(entry: Service, rs: RealServer) -> int | None:
        for index, dest in enumerate(entry.destinations):
            if (dest.server.address, dest.server.port) == (rs.address, rs.port):
                return index
        return None

    def _put(self, entry: Service, destinations: list[Destination]) -> None:
        self._services[entry.service.key] = entry._replace(destinations=tuple(destinations))

    # All at once.

    def rehearsal(self) -> Plan:
        checks = Checks(self._check_service, self._check_family, self._check_address, 1 << 20, 1 << 20)
        return Plan(self.services(), self._timeouts, checks, self.table_size, self.connections)

    @contextmanager
    def transaction(self) -> Iterator[Plan]:
        plan = self.rehearsal()
        yield plan
        self._services = {entry.service.key: entry for entry in plan.services()}
        self._timeouts = plan.timeouts()

    # The rest.

    def timeouts(self) -> Timeouts:
        return self._timeouts

    def set_timeouts(self, timeouts: Timeouts) -> None:
        self._timeouts = Timeouts(*(new or old for new, old in zip(timeouts, self._timeouts, strict=True)))

    def connections(self) -> Iterator[Connection]:
        return iter(self._connections)

    def daemons(self) -> Iterator[SyncDaemon]:
        yield from (self._daemons[role] for role in ("master", "backup") if role in self._daemons)

    def start_daemon(self, daemon: SyncDaemon) -> None:
        if daemon.role in self._daemons:
            raise LVSError("runs already", EEXIST)
        if daemon.interface not in self._interfaces:
            raise LVSError("no such interface", ENODEV)
        self._daemons[daemon.role] = daemon._replace(
            maxlen=daemon.maxlen or MTU - 28,
            group=daemon.group or "224.0.0.81",
            port=daemon.port or 8848,
            ttl=daemon.ttl or 1,
        )

    def stop_daemon(self, role: str) -> None:
        if role not in self._daemons:
            raise LVSError("does not run", ESRCH)
        del self._daemons[role]
