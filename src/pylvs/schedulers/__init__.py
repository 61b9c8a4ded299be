"""One module per scheduler: its documentation, and what it computes when a service or its real servers change.

The choosing itself is `datapath/bpf/sched/<name>.h`. What it needs to have computed, once per change of the
configuration, a subclass of `Scheduler` says here: numbers for the pool's head (`start`, `changed`), a lookup table
(`table`), or nothing at all. docs/writing-a-scheduler.md shows how one is made.

A scheduler that is nothing but a lookup table can be written in Python alone: `pylvs.schedulers.table.TableScheduler`.
Its name is "module:Class".
"""

import importlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from pylvs.errors import NoSuchScheduler

NAMES = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos")
"""The registry: place + 1 is the number in the packet path (enum scheduler)."""
NONE = "none"
"""A service with this one finds nobody for new connections (facts 1.4)."""
FLAG_1, FLAG_2, FLAG_3 = 0x08, 0x10, 0x20
"""The kernel's bits of the three scheduler flags (facts section 0)."""
NOBODY = 0xFFFF
"""In a table: no real server's place."""
STATE_PLACE_BITS = 23
"""A state that holds a place has 1 + it in these low bits, 0 for the list's head."""


class Head(NamedTuple):
    """What the packet path's pool_head holds for a scheduler. `state` it moves with its choices; 54 bits of it."""

    state: int = 0
    step: int = 0
    top: int = 0


class Weighed(Protocol):
    """A real server before or after an edit."""

    @property
    def weight(self) -> int: ...

    @property
    def last_weight(self) -> int:
        """The last weight that was not 0."""


class Servers(Protocol):
    """A service's real servers, newest first, as schedulers see them."""

    family: int
    """Of the service: AF_INET or AF_INET6."""

    def __len__(self) -> int: ...

    @property
    def weights(self) -> Sequence[int]: ...

    @property
    def last_weights(self) -> Sequence[int]:
        """The last weights that were not 0."""

    def endpoint(self, place: int) -> tuple[bytes, int]:
        """The 16 bytes of an address as the packet path has it, and the port."""


Places = Callable[[int], int]
"""Maps each former place to its present one; that of a removed server to the place before it, -1 for the list's head."""


class Scheduler:
    """One scheduler. All that it remembers is what these functions return.

    Attributes:
        name: as `ipvsadm -s` knows it.
        number: enum scheduler of the packet path.
    """

    name = NONE
    number = 0

    def weighs(self, old: Weighed, new: Weighed) -> bool:
        """Does such an edit change what `changed` or `table` returns? If not, a new weight is a single store."""
        return False

    def start(self, servers: Servers) -> Head:
        """A service is bound to it."""
        return Head()

    def changed(self, old: Head, servers: Servers, places: Places) -> Head:
        """Real servers were added, edited or removed."""
        return Head()

    def table(self, servers: Servers, flags: int) -> Sequence[int]:
        """The lookup table: places of real servers, or NOBODY.

        Args:
            flags: the service's, of FLAG_1, FLAG_2 and FLAG_3.
        """
        return ()


def find(name: str) -> Scheduler:
    """A scheduler by its name, or one written in Python by "module:Class".

    Raises:
        NoSuchScheduler: there is none of that name, or it cannot be imported; the text says why.
    """
    if name in NAMES:
        scheduler: Scheduler = importlib.import_module(f"pylvs.schedulers.{name}").SCHEDULER
        scheduler.name, scheduler.number = name, NAMES.index(name) + 1
        return scheduler
    if name == NONE:
        return Scheduler()
    if ":" in name:
        from pylvs.schedulers.table import load

        return load(name)
    raise NoSuchScheduler(
        f"there is no scheduler '{name}'; there are {', '.join(NAMES)}, none, and 'module:Class' for one in Python"
    )


def name_of(number: int, own_name: str = "") -> str:
    """The name of a scheduler by its number in the packet path; `own_name`: the one beside its table, if it has one."""
    return own_name or (NONE, *NAMES)[number]


__all__ = [
    "FLAG_1",
    "FLAG_2",
    "FLAG_3",
    "NAMES",
    "NOBODY",
    "NONE",
    "STATE_PLACE_BITS",
    "Head",
    "Places",
    "Scheduler",
    "Servers",
    "TableScheduler",
    "Weighed",
    "find",
    "name_of",
]


def __getattr__(attribute: str) -> object:
    if attribute == "TableScheduler":  # its module needs this one
        from pylvs.schedulers.table import TableScheduler

        return TableScheduler
    raise AttributeError(f"module {__name__!r} has no attribute {attribute!r}")
