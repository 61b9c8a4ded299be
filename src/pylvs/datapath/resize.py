"""Another size for the connection table, while packets pass and no connection is lost.

Programs that work on two tables take the place of those that run, connections are moved from one table to the other,
and the usual programs, on the new table, take their place in turn. How far this has come is in the configuration, so
that the next command brings to an end what a killed one had begun:

    config.resizing      programs that run              newcomers go to
    RESIZING_NOT         the usual ones                 the only table
    RESIZING_TO_OLD      the usual ones, or for two     the old table
    RESIZING_TO_NEW      for two, or the usual ones     the new table
                         on the new table

A packet on one interface must find what one on another interface has made. So newcomers only go to the new table when
no program runs any more that does not know it, and the usual programs on the new table only come when nothing is left
in the old one. While all three of the new table's maps are pinned, there may be something in it.
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pylvs.datapath import _layout, bpffs, programs, syscall
from pylvs.datapath.instance import TABLE, Instance
from pylvs.datapath.loading import CONN_BITS
from pylvs.errors import DatapathError, InvalidValue, TableFull

_SLICE = 32  # groups that are moved in one go: a millisecond, at most, for which a CPU does nothing else
_TRIES = 3  # passes over the table in which nothing more could be moved, until we give up
_FULLEST = 0.8  # a smaller table must not be fuller than this afterwards
_CONTEXT, _MARK = 192, 8  # sizeof(struct __sk_buff), and where its mark stands
_PATIENCE, _PAUSE = 5.0, 0.02  # seconds


def resize(running: Instance, conn_bits: int) -> None:
    """Give the connection table 2**conn_bits slots. The caller holds the lock.

    Raises:
        InvalidValue: the size is out of range.
        TableFull: the connections do not fit; nothing is changed.
        DatapathError: the kernel refuses the programs, or somebody does not end listing connections; nothing is
            changed.
    """
    if conn_bits not in CONN_BITS:
        raise InvalidValue(
            f"the connection table's size 2^{conn_bits} is out of range; "
            f"it may be 2^{CONN_BITS[0]} to 2^{CONN_BITS[-1]}"
        )
    finish(running)
    slots = 1 << conn_bits
    if slots == running.config.get(0, "conn_slots"):
        return
    used = sum(running.groups.get(number, "used") for number in range(running.groups.entries))
    if used > slots * _FULLEST:
        raise TableFull(f"{used} slots are in use; a table of 2^{conn_bits} would be more than four fifths full")
    with _nobody_looking(running):
        _forget_others(running)
        left = _take_over(running, slots // _layout.GROUP_SLOTS)
    if left:
        raise TableFull(f"{left} connections found no room in a table of 2^{conn_bits} slots; it has its former size")


def finish(running: Instance) -> None:
    """Bring to an end what a killed command had begun. The caller holds the lock."""
    if running.config.get(0, "resizing") == _layout.RESIZING_NOT:
        return
    with _nobody_looking(running):
        if all(os.path.exists(running.table_pin(name, 1)) for name in TABLE):
            _take_over(running, 0)
        else:  # it had not begun to move anything, or had come to its end but for this
            running.replace_programs()
            _settle(running)


def finish_if_left(running: Instance) -> None:
    """The same, for who only looks and does not hold the lock: waits for whoever is at it."""
    if running.config.get(0, "resizing") != _layout.RESIZING_NOT:
        with running.locked():
            finish(running)


@contextmanager
def _nobody_looking(running: Instance) -> Iterator[None]:
    """While nobody lists connections: a listing goes through one table from its beginning to its end.

    A listing may stand still as long as its reader likes (`pylvs conns | less`), and must not hold up every command.
    """
    deadline = time.monotonic() + _PATIENCE
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(bpffs.alone(f"{running.path}/maps", wait=False))
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise DatapathError(
                        "another command is listing connections; end it, or wait for it, and try again", errno.EBUSY
                    ) from None
            time.sleep(_PAUSE)
        yield


def _settle(running: Instance) -> None:
    """One table is in force again, and the programs that run know no other."""
    for name in os.listdir(f"{running.path}/programs"):
        if name.startswith(("move", "mend", "clear")):
            os.unlink(f"{running.path}/programs/{name}")
    _forget_others(running)
    running.config.put(0, "resizing", _layout.RESIZING_NOT)


def _forget_others(running: Instance) -> None:
    """Remove the pins of tables that are not in force."""
    number = running.config.get(0, "table")
    for pinned in os.listdir(f"{running.path}/maps"):
        name, _, other = pinned.rpartition("_")
        if name in TABLE and int(other) != number:
            os.unlink(f"{running.path}/maps/{pinned}")


def _take_over(running: Instance, groups: int) -> int:
    """Let a table of so many groups, or the one that is there already (0), take over.

    Returns:
        How many connections found no room in it. If there are any, the old table stays in force with all of them.
    """
    config = running.config
    number, seeds = config.get(0, "table") + 1, config.get(0, "seeds")
    fds = running.map_fds()
    opened = list(fds.values())
    try:
        old = syscall.map_size(fds["slots"])[2]
        existing = {name: fd for name, fd in fds.items() if name not in TABLE}
        made = bool(groups)
        if not made:
            for name in TABLE:
                existing[name] = syscall.get(running.table_pin(name, 1))
                opened.append(existing[name])
            groups = syscall.map_size(existing["slots"])[2]
        constants = programs.table_constants(number, groups, seeds, old)
        linkless = running.works_linkless()
        maps, usual = programs.load({name: groups for name in TABLE}, existing, constants, "", linkless)
        opened += [*maps.values(), *usual.values()]
        maps |= {f"old_{name}": fds[name] for name in TABLE}
        again, for_two = programs.load({}, maps, constants, programs.RESIZING, linkless)
        opened += [*again.values(), *for_two.values()]

        if config.get(0, "resizing") == _layout.RESIZING_NOT:
            config.put(0, "resizing", _layout.RESIZING_TO_OLD)
        for name in TABLE if made else ():
            syscall.pin(maps[name], running.table_pin(name, 1))
        running.put_in_place(for_two)
        syscall.wait_for_packets()
        left = _move(running, _layout.RESIZING_TO_NEW, for_two["move"], old)
        if left:
            if _move(running, _layout.RESIZING_TO_OLD, for_two["move"], groups):
                return left  # both stay in use, and nothing is lost; the next command tries again
            _mend(for_two, old)
            running.replace_programs()
            syscall.wait_for_packets()
            _settle(running)
            return left
        _mend(for_two, groups)
        running.put_in_place(usual)
        syscall.wait_for_packets()
    finally:
        for fd in set(opened):
            os.close(fd)
    config.put(0, "conn_slots", groups * _layout.GROUP_SLOTS)
    config.put(0, "table", number)
    config.put(0, "programs", programs.fingerprint())
    _settle(running)
    return 0


def _move(running: Instance, to: int, program: int, groups: int) -> int:
    """Send newcomers to one table, and move what is in the other one, of so many groups. How many did not fit."""
    running.config.put(0, "resizing", to)
    # a packet that had read what was before may still put a connection into the table that is to become empty
    syscall.wait_for_packets()
    left, fewest, tries = 0, groups * _layout.GROUP_SLOTS, _TRIES
    while tries:
        left = sum(_move_slice(program, first) for first in range(0, groups, _SLICE))
        if not left:
            break
        # what stays behind may just be filled, or taken apart, by a packet
        syscall.wait_for_packets()
        tries = _TRIES if left < fewest else tries - 1
        fewest = min(left, fewest)
    return left


def _mend(loaded: dict[str, int], groups: int) -> None:
    """All is in one table of so many groups: whatever referred to the other one is told where that is now."""
    # a packet that had found what controls its connection in the old place may still refer to that
    syscall.wait_for_packets()
    for name in ("mend", "clear"):
        for first in range(0, groups, _SLICE):
            _run_slice(loaded[name], first)
        syscall.wait_for_packets()


def _move_slice(program: int, first: int) -> int:
    """Move what is in some groups; how many did not fit."""
    return _run_slice(program, first)


def _run_slice(program: int, first: int) -> int:
    """Run a program on some groups; its answer."""
    context = bytearray(_CONTEXT)
    context[_MARK : _MARK + 4] = first.to_bytes(4, "little")
    return syscall.run(program, bytes(_SLICE), bytes(context))[0]
