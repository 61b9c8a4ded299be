"""The sync daemons as the command line names them, and the one place that asks a director for them."""

from collections.abc import Iterable
from errno import ESRCH
from typing import Any, NamedTuple

from pylvs.errors import LVSError, NotSupported

MASTER, BACKUP = "master", "backup"


class SyncDaemon(NamedTuple):
    """A connection synchronization daemon.

    Attributes:
        role: MASTER or BACKUP.
        interface: where it multicasts or listens; "" when it was not given.
        syncid: of its messages, 0..255.
        maxlen: longest message; 0 leaves it to the interface's MTU.
        group, port, ttl: of the multicast; "" and 0 leave the defaults 224.0.0.81, 8848 and 1.
    """

    role: str = ""
    interface: str = ""
    syncid: int = 0
    maxlen: int = 0
    group: str = ""
    port: int = 0
    ttl: int = 0


def running(director: Any) -> Iterable[SyncDaemon]:
    """The daemons that run, the master first."""
    daemons = getattr(director, "daemons", None)
    return daemons() if daemons else ()


def start(director: Any, daemon: SyncDaemon) -> None:
    method = getattr(director, "start_daemon", None)
    if method is None:
        raise NotSupported("the connection synchronization daemon is not supported yet")
    method(daemon)


def stop(director: Any, role: str) -> None:
    method = getattr(director, "stop_daemon", None)
    if method is None:  # then none can run, which is what scripts that stop it before they start it expect to hear
        raise LVSError("no daemon is running", ESRCH)
    method(role)
