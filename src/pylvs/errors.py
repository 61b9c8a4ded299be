"""What can go wrong, as values a caller can tell apart.

Every error carries `errno`, the number the kernel's IPVS would have answered
with, so that `ipvsadm` can say the original's words and a program can decide.
The text says what was wrong and what would be right.
"""

import errno as _errno


class LVSError(Exception):
    """The base of every error that pylvs raises on purpose.

    Attributes:
        errno: the error number that kernel IPVS gives in the same case.
    """

    errno = _errno.EINVAL

    def __init__(self, message: str, errno: int | None = None):
        super().__init__(message)
        if errno is not None:
            self.errno = errno


class InvalidValue(LVSError):
    """A value outside what is allowed (EINVAL, or ERANGE for weights and thresholds)."""


class NoSuchService(LVSError):
    """The virtual service is not defined."""

    errno = _errno.ESRCH


class ServiceExists(LVSError):
    """A virtual service with this key is defined already."""

    errno = _errno.EEXIST


class NoSuchDestination(LVSError):
    """The virtual service has no such real server."""

    errno = _errno.ENOENT


class DestinationExists(LVSError):
    """The virtual service has this real server already."""

    errno = _errno.EEXIST


class NoSuchScheduler(LVSError):
    """There is no scheduler of that name."""

    errno = _errno.ENOENT


class NoSuchEngine(LVSError):
    """There is no persistence engine of that name."""

    errno = _errno.ENOENT


class NoSuchSysctl(LVSError):
    """There is no such name under net.ipv4.vs."""

    errno = _errno.ENOENT


class NotSupported(LVSError):
    """Known to LVS, but not (yet) to this version of pylvs."""

    errno = _errno.EOPNOTSUPP


class NotPermitted(LVSError):
    """Needs root (CAP_NET_ADMIN and CAP_BPF)."""

    errno = _errno.EPERM


class TableFull(LVSError):
    """No room for another service or real server; the message names the limit and how to raise it."""

    errno = _errno.ENOMEM


class DatapathError(LVSError):
    """The kernel refused our programs, or lacks something we need; the message says what."""

    errno = _errno.ENOPROTOOPT


class Unloaded(DatapathError):
    """Another command has unloaded the director meanwhile."""

    def __init__(self) -> None:
        super().__init__("the director was unloaded by another command")
