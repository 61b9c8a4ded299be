"""What is different between two tables, as the commands that lead from one to the other: what `--dry-run` prints."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pylvs.ipvsadm.names import Names
from pylvs.ipvsadm.order import sorted_destinations, sorted_services
from pylvs.ipvsadm.save import server_parameters, service_options, service_parameters
from pylvs.model import RealServer, Service, Timeouts, VirtualService


class Change(NamedTuple):
    """One of them.

    Attributes:
        command: add-service, edit-service, delete-service, add-server, edit-server, delete-server, set or zero.
        service: whose it is; None for set, and for zero of all.
    """

    command: str
    service: VirtualService | None = None
    server: RealServer | None = None
    timeouts: Timeouts | None = None


class Table(NamedTuple):
    """What can be changed, at one moment."""

    services: dict[tuple[int, int, str, int, int], Service]
    timeouts: Timeouts


def table(services: Iterable[Service], timeouts: Timeouts) -> Table:
    """A table to compare with another."""
    return Table({entry.service.key: entry for entry in services}, timeouts)


def between(before: Table, after: Table, zeroed: Iterable[VirtualService | None] = ()) -> Iterator[Change]:
    """What leads from one to the other: what goes first, then what comes or changes, in the order of listings.

    Args:
        zeroed: whose counters begin at 0; None for all.
    """
    for entry in sorted_services([e for key, e in before.services.items() if key not in after.services]):
        yield Change("delete-service", entry.service)
    for entry in sorted_services(list(after.services.values())):
        old = before.services.get(entry.service.key)
        if old is None:
            yield Change("add-service", entry.service)
        elif old.service != entry.service:
            yield Change("edit-service", entry.service)
        yield from _servers(old or Service(entry.service), entry)
    if after.timeouts != before.timeouts:
        yield Change("set", timeouts=after.timeouts)
    for service in zeroed:
        yield Change("zero", service)


def _servers(old: Service, new: Service) -> Iterator[Change]:
    before = {(dest.server.address, dest.server.port): dest.server for dest in old.destinations}
    after = {(dest.server.address, dest.server.port) for dest in new.destinations}
    for dest in sorted_destinations(old.destinations):
        if (dest.server.address, dest.server.port) not in after:
            yield Change("delete-server", new.service, dest.server)
    for dest in sorted_destinations(new.destinations):
        server = before.get((dest.server.address, dest.server.port))
        if server is None:
            yield Change("add-server", new.service, dest.server)
        elif server != dest.server:
            yield Change("edit-server", new.service, dest.server)


def line(change: Change) -> str:
    """The command line that makes this change."""
    names, service = Names(numeric=True), change.service
    if change.timeouts is not None:
        return f"--set {change.timeouts.tcp} {change.timeouts.tcp_fin} {change.timeouts.udp}"
    if service is None:
        return "-Z"
    letter = {
        "add-service": "A", "edit-service": "E", "delete-service": "D", "zero": "Z",
        "add-server": "a", "edit-server": "e", "delete-server": "d",
    }[change.command]  # fmt: skip
    text = f"-{letter} {service_options(service, names, signed=False)}"
    if change.command in ("add-service", "edit-service"):
        return text + service_parameters(service)
    if change.server is None:
        return text
    text += f" -r {names.endpoint(change.server.address, change.server.port, 0)}"
    if change.command == "delete-server":
        return text
    text += f" {server_parameters(change.server)}"
    if change.server.upper:
        text += f" -x {change.server.upper}"
    return text + (f" -y {change.server.lower}" if change.server.lower else "")
