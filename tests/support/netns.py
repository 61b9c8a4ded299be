"""Network namespaces of this process, and what is set in the one that it is in."""

import ctypes
import os
import subprocess
import time

_CLOCK = 6  # CLOCK_MONOTONIC_COARSE, the director's
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def unshare_net() -> int:
    """A new network namespace, which we are in then; its file descriptor."""
    if _libc.unshare(_CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def setns(fd: int) -> None:
    """Go into a network namespace."""
    if _libc.setns(fd, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def ip(lines: str) -> None:
    """Commands for ip(8), one on a line, in the namespace that we are in."""
    done = subprocess.run(["ip", "-batch", "-"], input=lines, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip -batch: {done.stderr}{lines}")
    # the packet path remembers a route for a tick of the clock
    tick = time.clock_gettime_ns(_CLOCK)
    while time.clock_gettime_ns(_CLOCK) == tick:
        pass


def set_proc(name: str, value: str) -> None:
    """A setting of the kernel's in this namespace: what is under /proc/sys/net."""
    with open(f"/proc/sys/net/{name}", "w", encoding="ascii") as file:
        file.write(value)
