"""The pinned maps, typed: arrays in our own memory, hashes and per-CPU arrays by system call."""

import mmap
import os
import struct
from typing import Any

from pylvs.datapath import syscall
from pylvs.datapath.layout import Layout

_LARGEST = (1 << 64) - 1


class SharedArray:
    """An array map mapped into memory: reading and writing it costs no system call.

    Attributes:
        memory: the records, one after the other.
        entries: how many there are.
    """

    def __init__(self, fd: int, layout: Layout):
        _, size, entries = syscall.map_size(fd)
        # an entry of the map may hold many records
        if size % layout.size:
            raise ValueError(f"a record is {size} bytes in the kernel and {layout.size} here")
        self.entries = entries * (size // layout.size)
        size = layout.size
        self.fd = fd
        self.layout = layout
        # the kernel hands out whole pages
        length = -(-self.entries * size // mmap.PAGESIZE) * mmap.PAGESIZE
        self.memory = mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        # struct.pack_into clears the place before it writes: packets would see the zero in between. An item of a
        # memoryview is one store.
        view = memoryview(self.memory)
        self._words = {
            "B": view,
            "H": view.cast("H"),
            "I": view.cast("I"),
            "i": view.cast("i"),
            "Q": view.cast("Q"),
            "q": view.cast("q"),
        }
        # name -> where all records have a number: (view, place in the first record, from one record to the next)
        self._numbers: dict[str, tuple[memoryview, int, int]] = {}
        for name in layout.names:
            offset, form, wide = layout.place(name)
            if form in self._words and not offset % wide and not size % wide:
                self._numbers[name] = self._words[form], offset // wide, size // wide

    @property
    def words(self) -> memoryview:
        """All of it as 32-bit words: reading one is one load."""
        return self._words["I"]

    def get(self, number: int, name: str) -> Any:
        """One member of one record."""
        found = self._numbers.get(name)
        if found is None:
            return self.layout.get(self.memory, number, name)
        view, first, step = found
        return view[first + number * step]

    def put(self, number: int, name: str, value: Any, layout: Layout | None = None) -> None:
        """Set one member of one record, perhaps of another layout than most are. A number is one store: other readers
        see it old or new, and nothing else."""
        found = self._numbers.get(name) if layout is None else None
        if found is not None and isinstance(value, int):
            view, first, step = found
            view[first + number * step] = value
            return
        offset, form, size = (layout or self.layout).place(name)
        at = number * self.layout.size + offset
        if isinstance(value, int):
            self._words[form][at // size] = value
        else:
            packed = value if isinstance(value, bytes) else struct.pack(f"={form}", *value)
            if len(packed) != size:
                raise ValueError(f"{name} is {size} bytes, not {len(packed)}")
            self.memory[at : at + size] = packed

    def write(self, number: int, record: bytes) -> None:
        """Set whole records from `number` on. Not one step: only for what nobody reads yet."""
        at = number * self.layout.size
        self.memory[at : at + len(record)] = record

    def read(self, number: int, count: int = 1) -> bytes:
        """Whole records."""
        at = number * self.layout.size
        return self.memory[at : at + count * self.layout.size]

    def close(self) -> None:
        self._numbers.clear()
        for words in self._words.values():
            words.release()
        self.memory.close()


class Hash:
    """A hash map of records."""

    def __init__(self, fd: int):
        self.fd = fd
        self.key_size, self.value_size, self.entries = syscall.map_size(fd)

    def get(self, key: bytes) -> bytes | None:
        return syscall.map_lookup(self.fd, key, self.value_size)

    def put(self, key: bytes, value: bytes) -> None:
        syscall.map_update(self.fd, key, value)

    def delete(self, key: bytes) -> bool:
        return syscall.map_delete(self.fd, key)

    def keys(self) -> list[bytes]:
        return syscall.map_keys(self.fd, self.key_size)


class PerCpuArray:
    """An array of 64-bit counters of which every CPU has its own."""

    def __init__(self, fd: int):
        self.fd = fd
        _, size, self.entries = syscall.map_size(fd)
        self._cpus = possible_cpus()
        self._row = struct.Struct(f"={size // 8}Q")
        self._size = self._row.size * self._cpus

    def rows(self, number: int) -> list[tuple[int, ...]]:
        """The counters of one record, of each CPU."""
        value = syscall.map_lookup(self.fd, struct.pack("=I", number), self._size)
        assert value is not None  # every record of an array is there
        return list(self._row.iter_unpack(value))

    def sums(self, number: int) -> tuple[int, ...]:
        """The counters of one record, summed over the CPUs. What one of them has counted, another may take back: each
        alone may be below 0, which is a very large number."""
        return tuple(sum(column) & _LARGEST for column in zip(*self.rows(number), strict=True))

    def clear(self, number: int) -> None:
        syscall.map_update(self.fd, struct.pack("=I", number), bytes(self._size))


def possible_cpus() -> int:
    """How many CPUs this machine may ever have: the number of values in a per-CPU map."""
    fd = os.open("/sys/devices/system/cpu/possible", os.O_RDONLY)
    try:
        ranges = os.read(fd, 4096).decode()
    finally:
        os.close(fd)
    return int(ranges.strip().rpartition("-")[2].rpartition(",")[2]) + 1
