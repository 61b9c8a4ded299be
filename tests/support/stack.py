"""What Linux 6.1 would say of an object's programs: how much stack they need, and whether it follows their loops.

The verifier of that kernel adds up, along every chain of calls, what each function uses below its frame pointer,
rounded up to 32 bytes; newer ones round to 16. Over 512 bytes it refuses the program. What a function uses is read
from its instructions: every access through r10 and every address made from it.
"""

import struct
from typing import NamedTuple

LIMIT = 512
ROUNDING = 32  # Linux 6.1 to 6.7; 16 since

_LDX, _ST, _STX, _ALU64 = 1, 2, 3, 7
_CALL, _LOAD_IMM64, _MOV64_X, _ADD64_K = 0x85, 0x18, 0xBF, 0x07
_JMP, _JMP32, _JUMP, _EXIT = 5, 6, 0x05, 0x95
_PSEUDO_CALL, _FRAME = 1, 10
_TIMER_SET_CALLBACK = 170
_FUNC, _EXECUTABLE, _REL = 2, 4, 9
_INSTRUCTION = struct.Struct("<BBhi")


class Function(NamedTuple):
    """A function of an object.

    Attributes:
        used: bytes below its frame pointer.
        calls: the names of those it calls, a loop's callbacks too. A timer's begins on a stack of its own.
    """

    used: int
    calls: frozenset[str]

    @property
    def frame(self) -> int:
        return max(1, -(-self.used // ROUNDING)) * ROUNDING


class _Elf:
    def __init__(self, elf: bytes):
        (at,) = struct.unpack_from("<Q", elf, 0x28)
        _, count, _ = struct.unpack_from("<HHH", elf, 0x3A)
        # name, type, flags, address, offset, size, link, info, alignment, size of an entry
        self.headers = [struct.unpack_from("<IIQQQQIIQQ", elf, at + i * 64) for i in range(count)]
        self.contents = [elf[header[4] : header[4] + header[5]] for header in self.headers]
        table = next(i for i, header in enumerate(self.headers) if header[1] == 2)
        names = self.contents[self.headers[table][6]]
        self.symbols = [
            (names[name : names.index(b"\0", name)].decode(), kind & 15, section, value, size)
            for name, kind, _, section, value, size in struct.iter_unpack("<IBBHQQ", self.contents[table])
        ]


def _used(code: bytes) -> int:
    deepest, copies = 0, {_FRAME}  # the registers that hold the frame pointer itself
    for opcode, registers, offset, immediate in _INSTRUCTION.iter_unpack(code):
        target, source, kind = registers & 15, registers >> 4, opcode & 7
        if (kind == _LDX and source == _FRAME) or (kind in (_ST, _STX) and target == _FRAME):
            deepest = max(deepest, -offset)
        if opcode == _MOV64_X and source == _FRAME:
            copies.add(target)
        elif opcode == _ADD64_K and target in copies - {_FRAME}:
            deepest = max(deepest, -immediate)
            copies.discard(target)
        elif kind in (0, _LDX, 4, _ALU64):
            copies.discard(target)
            copies.add(_FRAME)
    return deepest


def codes(elf: bytes) -> dict[str, bytes]:
    """The instructions of every function of a compiled object."""
    parts = _Elf(elf)
    return {
        name: parts.contents[section][value : value + size]
        for name, kind, section, value, size in parts.symbols
        if kind == _FUNC and parts.headers[section][2] & _EXECUTABLE
    }


def functions(elf: bytes) -> dict[str, Function]:
    """Every function of a compiled object."""
    parts = _Elf(elf)
    starts = {(section, value): name for name, kind, section, value, _ in parts.symbols if kind == _FUNC}
    relocated: dict[tuple[int, int], int] = {}
    for header, content in zip(parts.headers, parts.contents, strict=True):
        if header[1] == _REL:
            relocated.update(((header[7], at), info >> 32) for at, info in struct.iter_unpack("<QQ", content))
    found = {}
    for name, kind, section, value, size in parts.symbols:
        if kind != _FUNC or not parts.headers[section][2] & _EXECUTABLE:
            continue
        code = parts.contents[section][value : value + size]
        calls: set[str] = set()
        callbacks: set[str] = set()  # loaded since the last call of a helper: it gets one of them
        for at in range(0, size, 8):
            opcode, registers, _, immediate = _INSTRUCTION.unpack_from(code, at)
            symbol = relocated.get((section, value + at))
            if opcode == _LOAD_IMM64 and symbol is not None:
                # a function's address: of the function itself, or of its section and then by the operand in bytes
                _, kind, where, base, _ = parts.symbols[symbol]
                of_it = (where, base if kind == _FUNC else immediate)
                callbacks |= {starts[of_it]} if of_it in starts else set()
            elif opcode == _CALL and registers >> 4 == _PSEUDO_CALL:
                to = (section, value + at + 8 * (immediate + 1))
                if symbol is not None:
                    _, kind, where, base, _ = parts.symbols[symbol]
                    to = (where, base if kind == _FUNC else base + 8 * (immediate + 1))
                calls.add(starts[to])
            elif opcode == _CALL:
                calls |= callbacks if immediate != _TIMER_SET_CALLBACK else set()
                callbacks = set()
        found[name] = Function(_used(code), frozenset(calls))
    return found


def deepest(of: dict[str, Function]) -> tuple[int, list[str]]:
    """The chain of calls that needs the most: (bytes, its functions with their frames)."""

    def below(name: str) -> tuple[int, list[str]]:
        bytes_, chain = max((below(callee) for callee in of[name].calls), default=(0, []))
        return of[name].frame + bytes_, [f"{name} {of[name].frame}", *chain]

    return max(below(name) for name in of)


# ---- loops -----------------------------------------------------------------------------------------------------------


def back_edges(code: bytes) -> list[tuple[int, int]]:
    """The edges of one function at which Linux 6.1 says "back-edge from insn X to Y" and refuses the program.

    Its check of the control flow goes through the instructions depth first. It takes a loop for granted where the edge
    that closes it is a jump's: taken or not taken, and the unconditional one's. An edge from any other instruction to
    the next one must not close a loop, and whether it does depends on the way by which the search came: of a
    conditional jump, what follows it is searched before where it leads.
    """
    instructions = list(_INSTRUCTION.iter_unpack(code))
    discovered, explored = 1, 2
    state = {0: discovered}
    refused = []

    def edges(at: int) -> list[tuple[int, bool]]:
        opcode, _, offset, _ = instructions[at]
        if opcode & 7 not in (_JMP, _JMP32):
            # the second half of a 16-byte instruction is visited like any other
            return [(at + 1, False)]
        if opcode == _EXIT:
            return []
        if opcode == _CALL:  # what is called is another function: no edge of it leads back here
            return [(at + 1, False)]
        if opcode == _JUMP:
            return [(at + 1 + offset, True)]
        return [(at + 1, True), (at + 1 + offset, True)]

    path = [(0, iter(edges(0)))]
    while path:
        at, rest = path[-1]
        for to, may_loop in rest:
            if to not in state:
                state[to] = discovered
                path.append((to, iter(edges(to))))
                break
            if state[to] == discovered and not may_loop:
                refused.append((at, to))
        else:
            state[at] = explored
            path.pop()
    return refused
