"""BPF Type Format: what a compiled object says of its own types.

Only what the layout needs: sizes and members of structures, values of enumerations, and where the read-only
variables lie that Python fills in before loading. Used by the build; no program of ours needs it to run.
The format is the kernel's, Documentation/bpf/btf.rst.
"""

import struct
from typing import Any

KIND_INT, KIND_PTR, KIND_ARRAY, KIND_STRUCT, KIND_UNION, KIND_ENUM, KIND_FWD, KIND_TYPEDEF = range(1, 9)
KIND_VOLATILE, KIND_CONST, KIND_RESTRICT, KIND_FUNC, KIND_FUNC_PROTO, KIND_VAR, KIND_DATASEC = range(9, 16)
KIND_FLOAT, KIND_DECL_TAG, KIND_TYPE_TAG, KIND_ENUM64 = range(16, 20)


def section(elf: bytes, name: str) -> bytes:
    """The contents of a section of a 64-bit little-endian ELF file.

    Raises:
        ValueError: it is not such a file, or has no such section.
    """
    if elf[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    (offset,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, names = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", elf, offset + i * size) for i in range(count)]
    strings = headers[names][4]
    for header in headers:
        start = strings + header[0]
        if elf[start : elf.index(b"\0", start)].decode() == name:
            return elf[header[4] : header[4] + header[5]]
    raise ValueError(f"no section {name}")


def symbols(elf: bytes) -> dict[str, int]:
    """Every symbol's value: for a variable, where it lies in its section."""
    table, names = section(elf, ".symtab"), section(elf, ".strtab")
    found = {}
    for name, _, _, _, value, _ in struct.iter_unpack("<IBBHQQ", table):
        found[names[name : names.index(b"\0", name)].decode()] = value
    return found


class Btf:
    """The types of one object.

    Attributes:
        structs: name -> (size, {member: (offset, type number)}).
        enums: name ("" for the anonymous ones, merged) -> {value's name: value}.
        variables: section -> {variable: (offset, size)}.
    """

    def __init__(self, elf: bytes):
        data = section(elf, ".BTF")
        header_length, types_at, types_length, strings_at = struct.unpack_from("<4xIIII", data)
        self._strings = data[header_length + strings_at :]
        self._types: list[tuple[int, int, int, Any]] = [(0, 0, 0, None)]
        self.structs: dict[str, tuple[int, dict[str, tuple[int, int]]]] = {}
        self.enums: dict[str, dict[str, int]] = {}
        self.variables: dict[str, dict[str, tuple[int, int]]] = {}
        self._symbols = symbols(elf)
        self._read(data[header_length + types_at : header_length + types_at + types_length])

    def _name(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode()

    def _read(self, data: bytes) -> None:
        at = 0
        datasecs = []
        while at < len(data):
            name, info, size = struct.unpack_from("<III", data, at)
            at += 12
            kind, count, flag = info >> 24 & 0x1F, info & 0xFFFF, info >> 31
            extra: Any = None
            if kind == KIND_INT:
                (extra,) = struct.unpack_from("<I", data, at)
                at += 4
            elif kind == KIND_ARRAY:
                extra = struct.unpack_from("<III", data, at)
                at += 12
            elif kind in (KIND_STRUCT, KIND_UNION):
                extra = {}
                for i in range(count):
                    member, number, offset = struct.unpack_from("<III", data, at + i * 12)
                    extra[self._name(member)] = ((offset & 0xFFFFFF if flag else offset) // 8, number)
                at += count * 12
                if name:
                    self.structs[self._name(name)] = (size, extra)
            elif kind == KIND_ENUM:
                values = struct.iter_unpack("<Ii" if flag else "<II", data[at : at + count * 8])
                at += count * 8
                self.enums.setdefault(self._name(name), {}).update((self._name(n), v) for n, v in values)
            elif kind == KIND_ENUM64:
                at += count * 12
            elif kind == KIND_FUNC_PROTO:
                at += count * 8
            elif kind in (KIND_VAR, KIND_DECL_TAG):
                at += 4
            elif kind == KIND_DATASEC:
                datasecs.append((self._name(name), list(struct.iter_unpack("<III", data[at : at + count * 12]))))
                at += count * 12
            self._types.append((kind, name, size, extra))
        for title, entries in datasecs:
            self.variables[title] = {
                # the offsets in BTF are only filled in by whoever loads the object
                self._name(self._types[number][1]): (self._symbols[self._name(self._types[number][1])], length)
                for number, _, length in entries
                if self._types[number][0] == KIND_VAR
            }

    def format(self, number: int) -> tuple[str, int]:
        """The `struct` format of a type and its size; structures and unions are bytes ("16s")."""
        kind, _, size, extra = self._types[number]
        if kind in (KIND_TYPEDEF, KIND_VOLATILE, KIND_CONST, KIND_RESTRICT, KIND_TYPE_TAG):
            return self.format(size)
        if kind == KIND_INT:
            letter = {1: "b", 2: "h", 4: "i", 8: "q"}[size]
            return (letter if extra >> 24 & 1 else letter.upper()), size
        if kind == KIND_ENUM:
            return "I", size
        if kind == KIND_ARRAY:
            element, element_size = self.format(extra[0])
            if element == "B":
                return f"{extra[2]}s", extra[2]
            return f"{extra[2]}{element}", extra[2] * element_size
        if kind in (KIND_STRUCT, KIND_UNION):
            return f"{size}s", size
        raise ValueError(f"a type of kind {kind} in a shared structure")
