"""Where a director's state is pinned, and who may change it.

    <bpffs>/pylvs/<namespace cookie>/            locked (flock) by whoever changes anything
                                     current/    maps, programs, links of the running director
                                     new/        one being made: its last step is the renaming to current
                                     gone/       one being removed

The cookie is the kernel's own number of a network namespace, never used twice while the machine runs.

`ip netns exec` gives a command a mount namespace of its own, with a /sys that has no bpffs. The pins belong where
every command finds them, so the path leads through the mount namespace of the first process, or of the oldest of our
ancestors that we may look at, unless that is ours.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock

from pylvs.errors import DatapathError, NotPermitted

_MAGIC = 0xCAFE4A11
_SO_NETNS_COOKIE = 71
_CLONE_NEWNS = 0x00020000
_libc = ctypes.CDLL(None, use_errno=True)


def _is_bpffs(path: str) -> bool:
    buffer = ctypes.create_string_buffer(256)
    if _libc.statfs(os.fsencode(path), buffer):
        return False
    return int(struct.unpack_from("=q", buffer.raw)[0]) & 0xFFFFFFFF == _MAGIC


def _ancestors() -> list[int]:
    """Our ancestors' process numbers, the oldest first."""
    found = []
    process = os.getppid()
    while process > 1:
        found.append(process)
        with open(f"/proc/{process}/stat") as file:
            process = int(file.read().rpartition(")")[2].split()[1])
    return [1, *reversed(found)]


def _mount_path() -> str:
    """Where bpffs is mounted for all to see, as a path that works from our mount namespace."""
    chosen = os.environ.get("PYLVS_BPFFS")
    if chosen:
        return chosen
    try:
        for process in _ancestors():
            try:
                theirs = os.readlink(f"/proc/{process}/ns/mnt")
            except PermissionError:
                continue
            same = theirs == os.readlink("/proc/self/ns/mnt")
            return "/sys/fs/bpf" if same else f"/proc/{process}/root/sys/fs/bpf"
    except (OSError, ValueError):
        pass  # no /proc, or an ancestor that ended while we looked
    return "/sys/fs/bpf"


def _mount(path: str) -> None:
    """Mount a bpffs, in the mount namespace that the path leads to."""
    place, _, inner = path.partition("/root/")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if inner and place.startswith("/proc/"):
                fd = os.open(f"{place}/ns/mnt", os.O_RDONLY)
                if _libc.setns(fd, _CLONE_NEWNS):
                    os._exit(ctypes.get_errno())
                path = f"/{inner}"
            status = ctypes.get_errno() if _libc.mount(b"bpf", os.fsencode(path), b"bpf", 0, b"mode=0700") else 0
        finally:
            os._exit(status)
    _, result = os.waitpid(child, 0)
    number = os.waitstatus_to_exitcode(result)
    if number and not _is_bpffs(path):
        raise DatapathError(
            f"cannot mount bpffs on {path}: {os.strerror(abs(number))}; "
            "mount it by hand (mount -t bpf bpf /sys/fs/bpf) or name another place in PYLVS_BPFFS"
        )


def root(create: bool = False, name: str = "pylvs") -> str | None:
    """The directory of all directors' pins; None if there is none and it is not to be made.

    Args:
        name: of the directory; real servers' pins have one of their own.

    Raises:
        DatapathError: bpffs cannot be mounted.
        NotPermitted: it may not be read.
    """
    mount = _mount_path()
    try:
        if not _is_bpffs(mount):
            if not create:
                return None
            if not os.path.isdir(mount):
                raise DatapathError(f"{mount} is not there: is sysfs mounted, and is BPF compiled into the kernel?")
            if os.listdir(mount):
                raise DatapathError(f"{mount} is no bpffs and is not empty: nothing is mounted over it")
            _mount(mount)
        path = f"{mount}/{name}"
        if not os.path.isdir(path):
            if not create:
                return None
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                pass
        return path
    except PermissionError as error:
        raise NotPermitted(f"{error.filename or mount}: permission denied; pylvs needs root") from None


def namespace_cookie() -> str:
    """The kernel's number of the network namespace that we are in, as it is used in paths."""
    from _socket import AF_INET, SOCK_DGRAM, SOL_SOCKET, socket

    s = socket(AF_INET, SOCK_DGRAM)
    try:
        value = s.getsockopt(SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    except OSError as error:
        raise DatapathError(
            f"the kernel does not tell a network namespace's cookie ({error.strerror}); Linux 6.1 or newer is needed"
        ) from None
    finally:
        s.close()
    return f"{struct.unpack('=Q', value)[0]:x}"


@contextmanager
def locked(directory: str, create: bool = True, wait: bool = True) -> Iterator[None]:
    """Hold the namespace's lock: one change at a time. `directory` is the namespace's own.

    Raises:
        FileNotFoundError: it is not there and not to be made.
        BlockingIOError: somebody else has it and we are not to wait.
    """
    while True:
        if create:
            os.makedirs(directory, 0o700, exist_ok=True)
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            if create:
                continue  # a prune was quicker
            raise
        try:
            flock(fd, LOCK_EX if wait else LOCK_EX | LOCK_NB)
            # while we waited, an unload may have removed the directory and another command made a new one
            try:
                if os.stat(directory).st_ino != os.fstat(fd).st_ino:
                    continue
            except FileNotFoundError:
                continue
            yield
            return
        finally:
            os.close(fd)


@contextmanager
def shared(directory: str) -> Iterator[None]:
    """Hold a directory together with others who only look, and against who wants it alone (`alone`)."""
    with _held(directory, LOCK_SH):
        yield


@contextmanager
def alone(directory: str, wait: bool = True) -> Iterator[None]:
    """Hold a directory against all others.

    Raises:
        BlockingIOError: somebody else holds it and we are not to wait.
    """
    with _held(directory, LOCK_EX if wait else LOCK_EX | LOCK_NB):
        yield


@contextmanager
def _held(directory: str, how: int) -> Iterator[None]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        flock(fd, how)
        yield
    finally:
        os.close(fd)


def remove_root(name: str = "pylvs") -> None:
    """Remove the directory of all directors' pins if it is empty."""
    path = root(name=name)
    try:
        if path:
            os.rmdir(path)
    except OSError:
        pass  # there are other directors


def remove_tree(path: str) -> None:
    """Remove a directory of pins, links first: what is attached goes before what it uses."""
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        return
    for name in sorted(names, key=lambda n: n not in ("links", "egress")):
        inner = f"{path}/{name}"
        try:
            os.unlink(inner)
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.EPERM):
                raise
            remove_tree(inner)
    os.rmdir(path)
