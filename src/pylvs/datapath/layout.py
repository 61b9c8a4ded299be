"""Python's view of the shared structures, read from `_layout.py`, which the build made from the objects' BTF."""

import struct
from collections.abc import Iterable
from typing import Any

from pylvs.datapath import _layout
from pylvs.errors import InvalidValue

Buffer = Any  # whatever the struct module reads and writes: bytes, bytearray, mmap


class Layout:
    """One structure: how to pack it, unpack it, and reach a single member in place.

    Attributes:
        size: bytes.
        names: the members, in order.
    """

    def __init__(self, description: tuple[int, dict[str, tuple[int, str]]]):
        self.size, members = description
        self.names = tuple(members)
        self._members = {name: (offset, struct.Struct("=" + form)) for name, (offset, form) in members.items()}
        self._zero = {name: form.unpack(bytes(form.size)) for name, (_, form) in self._members.items()}
        self._single = {name: zero[0] for name, zero in self._zero.items() if len(zero) == 1}
        form, at = "=", 0
        for offset, letters in members.values():
            form += f"{offset - at}x" if offset > at else ""
            form += letters
            at = offset + struct.calcsize("=" + letters)
        self._whole = struct.Struct(form + (f"{self.size - at}x" if self.size > at else ""))

    def get(self, buffer: Buffer, number: int, name: str) -> Any:
        """A member of record `number` of an array; a tuple if the member is an array of more than bytes."""
        offset, form = self._members[name]
        values = form.unpack_from(buffer, number * self.size + offset)
        return values[0] if name in self._single else values

    def place(self, name: str) -> tuple[int, str, int]:
        """Where a member lies: (offset in the record, `struct` format, bytes)."""
        offset, form = self._members[name]
        return offset, form.format[1:], form.size

    def pack(self, **values: Any) -> bytes:
        """A whole record; what is not given is zero."""
        if len(self._single) == len(self.names):
            record = self._single | values
            if len(record) != len(self.names):
                raise KeyError(*values.keys() - self._single.keys())
            return self._whole.pack(*record.values())
        flat: list[Any] = []
        for name, zero in self._zero.items():
            value = values.pop(name, zero)
            flat.extend(value if isinstance(value, (tuple, list)) else (value,))
        if values:
            raise KeyError(*values)
        return self._whole.pack(*flat)

    def unpack(self, buffer: Buffer, number: int = 0) -> tuple:
        """All members in order; for records without arrays."""
        return self._whole.unpack_from(buffer, number * self.size)

    def iterate(self, buffer: Buffer) -> Iterable[tuple]:
        """All records of a buffer."""
        return self._whole.iter_unpack(buffer)


CONFIG = Layout(_layout.CONFIG)
RUNTIME = Layout(_layout.RUNTIME)
SYSCTLS = Layout(_layout.SYSCTLS)
CONN = Layout(_layout.CONN)
CONN_IPV4 = Layout(_layout.CONN_IPV4)
CONN_REST = Layout(_layout.CONN_REST)
BACK = Layout(_layout.BACK)
MORE = Layout(_layout.MORE)
CALL_ID = Layout(_layout.CALL_ID)
FTP_TALK = Layout(_layout.FTP_TALK)
TUPLE = Layout(_layout.TUPLE)
TAG = Layout((1, {"tag": (0, "B")}))
GROUP = Layout(_layout.GROUP)
SERVICE = Layout(_layout.SERVICE)
SERVICE_KEY = Layout(_layout.SERVICE_KEY)
MARK_RULE = Layout(_layout.MARK_RULE)
POOL_HEAD = Layout(_layout.POOL_HEAD)
POOL_OPTIONS = Layout(_layout.POOL_OPTIONS)
POOL_SERVER = Layout(_layout.POOL_SERVER)
DEST = Layout(_layout.DEST)
DEST_LOAD = Layout(_layout.DEST_LOAD)
COUNTERS = Layout(_layout.COUNTERS)
ESTIMATE = Layout(_layout.ESTIMATE)
PARTIES = Layout((8, {"bits": (0, "Q")}))
OWN_ADDRESS = Layout(_layout.OWN_ADDRESS)
DECAP_CONFIG = Layout(_layout.DECAP_CONFIG)
DECAP_MEMBER = Layout(_layout.DECAP_MEMBER)
REASONS = _layout.REASONS
SLOT = POOL_HEAD.size
if {POOL_SERVER.size, POOL_OPTIONS.size} != {SLOT}:
    raise InvalidValue("all parts of a pool must be of one size")
