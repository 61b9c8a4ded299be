"""Schedulers that are written wholly in Python: a lookup table, computed when something changes.

    class Halves(TableScheduler):  # half of all clients to the newest real server, the others to the oldest
        def table(self, servers, flags):
            return [0, len(servers) - 1]

`ipvsadm -A -t 10.0.0.1:80 -s mymodule:Halves`. The packet path hashes each new connection into the table. The class is
asked by whatever command changes the service, so each of these must be able to import it (PYTHONPATH); packets, listings
and deleting the service need no Python.

The hash: index = siphash(value) % len(table), where siphash is `pylvs.schedulers.hashing.siphash` and value the folded
address (`hashing.fold`), with `by = CLIENT_PORT` plus the client's port, in 32 bits. So it is mh's.
"""

import importlib
from collections.abc import Sequence

from pylvs.errors import InvalidValue, NoSuchScheduler
from pylvs.model import GENERIC_FLAGS, RealServer
from pylvs.schedulers import FLAG_1, FLAG_2, FLAG_3, NAMES, NOBODY, Head, Places, Scheduler, Servers, Weighed

CLIENT, CLIENT_PORT, DESTINATION = range(3)
"""What a table is looked up by: the client's address; that and its port; the packet's destination address."""
TABLE_MAX = 65536
NAME_MAX = 255
_FALLBACK = 0x100


class TableScheduler:
    """Derive from this, and name the class as "module:Class" where a scheduler is asked for.

    Attributes:
        name: as it is called in messages; the class's name if it has none.
        by: CLIENT, CLIENT_PORT or DESTINATION.
        fallback: if the real server whose entry it is takes no connections (weight 0, or at its upper threshold), the
            entries behind it are tried. Without, the client is refused, as sh and mh do it.
    """

    name = ""
    by = CLIENT
    fallback = False

    def table(self, servers: Sequence[RealServer], flags: tuple[str, ...]) -> Sequence[int]:
        """Compute the table.

        Args:
            servers: the service's, newest first, with their weights.
            flags: the service's, of "flag-1", "flag-2", "flag-3" (`ipvsadm -b`).

        Returns:
            For each entry the place of a real server in `servers`, or None for nobody; 65,536 entries at most.
        """
        raise NotImplementedError(f"{type(self).__name__} has no function table(servers, flags)")


class _Adapter(Scheduler):
    """A TableScheduler as the packet path and `pylvs.schedulers` want to have one."""

    number = len(NAMES) + 1
    def __init__(self, name: str, own: TableScheduler):
        self.name, self.own = name, own

    def weighs(self, old: Weighed, new: Weighed) -> bool:
        return True

    def start(self, servers: Servers) -> Head:
        return Head(step=self.own.by | (_FALLBACK if self.own.fallback else 0))

    def changed(self, old: Head, servers: Servers, places: Places) -> Head:
        return self.start(servers)

    def table(self, servers: Servers, flags: int) -> Sequence[int]:
        names = tuple(name for name, bit in zip(GENERIC_FLAGS, (FLAG_1, FLAG_2, FLAG_3), strict=True) if flags & bit)
        values: Sequence[RealServer] = [servers.real_server(place) for place in range(len(servers))]  # type: ignore[attr-defined]
        title = self.own.name or self.name
        if not values:
            return ()
        try:
            found = list(self.own.table(values, names))
        except Exception as error:  # whatever somebody's code may do
            raise InvalidValue(f"scheduler {title} failed: {type(error).__name__}: {error}") from error
        if len(found) > TABLE_MAX:
            raise InvalidValue(f"scheduler {title} made a table of {len(found)} entries; {TABLE_MAX} are the most")
        most = min(len(values), NOBODY)
        for entry, place in enumerate(found):
            if place is None:
                found[entry] = NOBODY
            elif not isinstance(place, int) or not 0 <= place < most:
                raise InvalidValue(f"scheduler {title}: entry {entry} is {place!r}; it may be 0 to {most - 1} or None")
        return found


def load(name: str) -> Scheduler:
    """The scheduler "module:Class".

    Raises:
        NoSuchScheduler: it cannot be imported, or is no TableScheduler.
    """
    module, _, title = name.partition(":")
    parts = [*module.split("."), title]
    if not all(part.isidentifier() for part in parts) or len(name.encode()) > NAME_MAX:
        raise NoSuchScheduler(f"scheduler '{name}' is not 'module:Class' of at most {NAME_MAX} bytes")
    try:
        found = getattr(importlib.import_module(module), title)
        if not issubclass(found, TableScheduler):
            raise TypeError("it is no pylvs.schedulers.TableScheduler")
        own = found()
        if own.by not in (CLIENT, CLIENT_PORT, DESTINATION):
            raise ValueError(f"by = {own.by!r} is neither CLIENT nor CLIENT_PORT nor DESTINATION")
    except Exception as error:  # whatever somebody's code may do
        raise NoSuchScheduler(f"scheduler {name} cannot be used: {type(error).__name__}: {error}") from error
    return _Adapter(name, own)
