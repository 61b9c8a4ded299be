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
in the old one.
"""

import os

from pylvs.datapath import _layout, bpffs, programs, syscall
from pylvs.datapath.instance import CONN_BITS, TABLE, Instance
from pylvs.errors import InvalidValue, TableFull

_SLICE = 32  # groups that are moved in one go: a millisecond, at most, for which a CPU does nothing else
_PASSES = 50
_FULLEST = 0.8  # a smaller table must not be fuller than this afterwards
_CONTEXT, _MARK = 192, 8  # sizeof(struct __sk_buff), and where its mark stands


def resize(running: Instance, conn_bits: int) -> None:
    """Give the connection table 2**conn_bits slots. The caller holds the lock.

    Raises:
        InvalidValue: the size is out of range.
        TableFull: the connections do not fit; nothing is changed.
        DatapathError: the kernel refuses the programs; nothing is changed.
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
    with bpffs.alone(f"{running.path}/maps"):
        _forget_others(running)
        _take_over(running, slots // _layout.GROUP_SLOTS)


def finish(running: Instance) -> None:
    """Bring to an end what a killed command had begun. The caller holds the lock."""
    if running.config.get(0, "resizing") == _layout.RESIZING_NOT:
        return
    with bpffs.alone(f"{running.path}/maps"):
        if all(os.path.exists(running.table_pin(name, 1)) for name in TABLE):
            _take_over(running, 0)
        else:  # it had come to its end but for this
            running.replace_programs()
            running.config.put(0, "resizing", _layout.RESIZING_NOT)
        _forget_others(running)


def finish_if_left(running: Instance) -> None:
    """The same, for who only looks and does not hold the lock: waits for whoever is at it."""
    while running.config.get(0, "resizing") != _layout.RESIZING_NOT:
        with running.locked():
            finish(running)


def _forget_others(running: Instance) -> None:
    """Remove the pins of tables that are not in force."""
    number = running.config.get(0, "table")
    for pinned in os.listdir(f"{running.path}/maps"):
        name, _, other = pinned.rpartition("_")
        if name in TABLE and int(other) != number:
            os.unlink(f"{running.path}/maps/{pinned}")


def _take_over(running: Instance, groups: int) -> None:
    """Let a table of so many groups, or the one that is there already (0), take over."""
    config = running.config
    fds = running.map_fds()
    old = syscall.map_size(fds["slots"])[2]
    existing = {(f"old_{name}" if name in TABLE else name): fd for name, fd in fds.items()}
    opened: list[int] = list(fds.values())
    try:
        if not groups:
            for name in TABLE:
                existing[name] = syscall.get(running.table_pin(name, 1))
                opened.append(existing[name])
            groups = syscall.map_size(existing["slots"])[2]
        number, seeds = config.get(0, "table") + 1, config.get(0, "seeds")
        constants = programs.table_constants(number, groups, seeds, old)
        sizes = {name: groups for name in TABLE}
        maps, loaded = programs.load(sizes, existing, constants, programs.RESIZING)
        opened += [*maps.values(), *loaded.values()]
        for name in TABLE:
            if name not in existing:
                syscall.pin(maps[name], running.table_pin(name, 1))
        if config.get(0, "resizing") == _layout.RESIZING_NOT:
            config.put(0, "resizing", _layout.RESIZING_TO_OLD)
        running.put_in_place(loaded)
        syscall.wait_for_packets()
        left = _move(running, _layout.RESIZING_TO_NEW, loaded["move"], old)
        if left:
            _move(running, _layout.RESIZING_TO_OLD, loaded["move"], groups)
            running.replace_programs()
            syscall.wait_for_packets()
            config.put(0, "resizing", _layout.RESIZING_NOT)
            _forget_others(running)
            raise TableFull(f"{left} connections find no room in a table of {groups * _layout.GROUP_SLOTS} slots")
        existing.update({name: maps[name] for name in TABLE})
        plain = {name: fd for name, fd in existing.items() if not name.startswith("old_")}
        maps, loaded = programs.load({}, plain, programs.table_constants(number, groups, seeds))
        opened += [*maps.values(), *loaded.values()]
        running.put_in_place(loaded)
        syscall.wait_for_packets()
    finally:
        for fd in set(opened):
            os.close(fd)
    config.put(0, "conn_slots", groups * _layout.GROUP_SLOTS)
    config.put(0, "table", config.get(0, "table") + 1)
    config.put(0, "resizing", _layout.RESIZING_NOT)
    if os.path.exists(f"{running.path}/programs/move"):
        os.unlink(f"{running.path}/programs/move")
    _forget_others(running)


def _move(running: Instance, to: int, program: int, groups: int) -> int:
    """Send newcomers to one table, and move what is in the other one, of so many groups. How many did not fit."""
    running.config.put(0, "resizing", to)
    # a packet that had read what was before may still put a connection into the table that is to become empty
    syscall.wait_for_packets()
    left = 0
    for _ in range(_PASSES):
        left = 0
        for first in range(0, groups, _SLICE):
            context = bytearray(_CONTEXT)
            context[_MARK : _MARK + 4] = first.to_bytes(4, "little")
            left += syscall.run(program, bytes(_SLICE), bytes(context))[0]
        if not left:
            break
        syscall.wait_for_packets()
    return left
