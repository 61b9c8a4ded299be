"""Processes of a lab, known by process id and start time, so that a number used again is never mistaken for ours."""

import os
import select
import signal
from typing import NamedTuple


class Process(NamedTuple):
    """A process we started: `start` is its start time in clock ticks since boot."""

    pid: int
    start: int
    host: str
    what: str


def start_time(pid: int) -> int | None:
    """When a process started, or None if there is none (a zombie has ended)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def is_alive(pid: int, start: int) -> bool:
    return start_time(pid) == start


def end(processes: list[Process], grace: float = 3.0) -> list[Process]:
    """Ask the processes to end, wait for them, kill those that do not; returns those that had to be killed.

    A pidfd is taken before the start time is compared: whatever is signalled is what was compared.
    """
    handles: dict[int, Process] = {}
    poller = select.poll()
    for process in processes:
        try:
            fd = os.pidfd_open(process.pid)
        except OSError:
            continue
        if not is_alive(process.pid, process.start):
            os.close(fd)
            continue
        handles[fd] = process
        poller.register(fd, select.POLLIN)
    killed: list[Process] = []
    for number in (signal.SIGTERM, signal.SIGKILL):
        for fd, process in handles.items():
            if number == signal.SIGKILL:
                killed.append(process)
            try:
                signal.pidfd_send_signal(fd, number)
            except ProcessLookupError:
                pass
        while handles:
            ready = poller.poll(grace * 1000)
            if not ready:
                break
            for fd, _ in ready:
                poller.unregister(fd)
                os.close(fd)
                del handles[fd]
    for fd in handles:
        os.close(fd)
    return killed
