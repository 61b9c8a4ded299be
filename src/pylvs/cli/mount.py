"""pylvs proc mount: the kernel's files for IPVS as a file system of our own, by FUSE.

    DIR/net/ip_vs                  as /proc/net/ip_vs, and so on
    DIR/sys/net/ipv4/vs/drop_entry as /proc/sys/net/ipv4/vs/drop_entry, to be read and written

A file says what the director said when it was read from its beginning; it is made while it is read, so that a listing
of a million connections needs no room.
"""

import errno
import os
import stat
import time
from collections.abc import Iterator

from pylvs import proc, sysctl
from pylvs.director import Director
from pylvs.errors import InvalidValue, LVSError, NotSupported

_SYSCTLS = "sys/net/ipv4/vs"


class _Reading:
    """One open file: its content from where the reader is."""

    def __init__(self, name: str, hz: int):
        self._name, self._hz = name, hz
        self._director: Director | None = None
        self._start()

    def _start(self) -> None:
        self.close()
        self._director = Director()
        self._pieces = self._content(self._director)
        self._at, self._buffer = 0, b""

    def _content(self, director: Director) -> Iterator[bytes]:
        if self._name.startswith(_SYSCTLS):
            yield f"{director.sysctl(os.path.basename(self._name))}\n".encode()
        else:
            for line in proc.lines(director, self._name, self._hz):
                yield line + b"\n"

    def read(self, size: int, offset: int) -> bytes:
        if offset < self._at:
            self._start()
        pieces, length = [self._buffer], len(self._buffer)
        while self._at + length < offset + size:
            piece = next(self._pieces, b"")
            if not piece:
                break
            pieces.append(piece)
            length += len(piece)
            if self._at + length <= offset:  # nobody wants what is before
                self._at += length
                pieces, length = [], 0
        content = b"".join(pieces)
        skipped = offset - self._at
        self._at, self._buffer = offset + size, content[skipped + size :]
        wanted = content[skipped : skipped + size]
        if len(wanted) < size:
            self._at = offset + len(wanted)
        return wanted

    def close(self) -> None:
        if self._director is not None:
            self._director.close()
            self._director = None


class Files:
    """What the file system holds, in FUSE's words. Errors are those that the kernel's files give."""

    use_ns = True

    def __init__(self, hz: int):
        self._hz = hz
        self._born = time.time_ns()
        self.served = False
        self._open: dict[int, _Reading] = {}
        self._next = 1
        self._directories: dict[str, set[str]] = {"": set()}
        self._modes: dict[str, int] = {name: 0o444 for name in proc.FILES}
        self._modes |= {f"{_SYSCTLS}/{name}": 0o644 for name in sysctl.NAMES}
        for name in self._modes:
            path = name
            while path:
                above, _, base = path.rpartition("/")
                self._directories.setdefault(above, set()).add(base)
                path = above

    def init(self, path: str) -> None:
        self.served = True

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        name = path.strip("/")
        times = dict.fromkeys(("st_atime", "st_mtime", "st_ctime"), self._born)
        if name in self._directories:
            return {"st_mode": stat.S_IFDIR | 0o555, "st_nlink": 2, **times}
        if name in self._modes:
            return {"st_mode": stat.S_IFREG | self._modes[name], "st_nlink": 1, "st_size": 0, **times}
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *sorted(self._directories.get(path.strip("/"), ()))]

    def open(self, path: str, flags: int) -> int:
        handle = self._next
        self._next += 1
        if flags & os.O_ACCMODE != os.O_WRONLY:
            try:
                self._open[handle] = _Reading(path.strip("/"), self._hz)
            except LVSError as error:
                raise OSError(error.errno, str(error)) from None
        return handle

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        try:
            return self._open[fh].read(size, offset)
        except LVSError as error:
            raise OSError(error.errno, str(error)) from None

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        if not offset:  # the kernel's files take what is written first, and no more
            try:
                with Director() as director:
                    director.set_sysctl(os.path.basename(path), data.decode(errors="replace"))
            except LVSError as error:
                raise OSError(error.errno, str(error)) from None
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        return 0  # what `echo 1 > file` does first

    def release(self, path: str, fh: int) -> int:
        reading = self._open.pop(fh, None)
        if reading:
            reading.close()
        return 0


def mount(directory: str, hz: int) -> None:
    """Show the files below a directory until SIGINT or SIGTERM.

    Raises:
        NotSupported: mfusepy, libfuse or /dev/fuse is missing.
        InvalidValue: the directory is none.
    """
    try:
        import mfusepy
    except ImportError:
        raise NotSupported("pylvs proc mount needs mfusepy: pip install 'pylvs[fuse]'") from None
    except OSError as error:
        raise NotSupported(f"pylvs proc mount needs libfuse: {error}; on Debian: apt-get install libfuse3-3") from None
    if not os.path.isdir(directory):
        raise InvalidValue(f"{directory} is no directory", errno.ENOTDIR)
    if not os.path.exists("/dev/fuse"):
        raise NotSupported("pylvs proc mount needs /dev/fuse: modprobe fuse, or give it to the container")
    Director().close()  # who may not look at the director has nothing to show
    files = Files(hz)
    try:
        # no threads: a director is looked at by one at a time; direct_io: how long a file is shows only when it is read
        mfusepy.FUSE(
            files, directory, foreground=True, nothreads=True, direct_io=True, fsname="pylvs", subtype="pylvs",
            allow_other=True, default_permissions=True,
        )  # fmt: skip
    except RuntimeError as error:
        if not files.served:  # else a signal ended it, which libfuse takes for an error
            raise NotSupported(f"{directory} cannot be mounted: FUSE says {error}") from None
