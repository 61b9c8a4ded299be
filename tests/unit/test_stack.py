"""What Linux 6.1 refuses and newer kernels do not: more than 512 bytes of stack, and some forms of a loop.

tests/kernel61 asks that kernel itself, where there is a guest to ask.
"""

import struct
from pathlib import Path

import pytest

from pylvs.datapath.object import DIRECTORY
from pylvs.datapath.programs import NAMES
from support.stack import LIMIT, Function, back_edges, codes, deepest, functions


@pytest.mark.parametrize("name", [*NAMES, "decap"])
def test_no_chain_of_calls_needs_more_stack_than_linux_6_1_has(name: str) -> None:
    needed, chain = deepest(functions(Path(DIRECTORY, f"{name}.bpf.o").read_bytes()))
    assert len(chain) > 1
    assert needed <= LIMIT, f"{needed} bytes: {' > '.join(chain)}"


def test_frames_are_rounded_up() -> None:
    assert [Function(used, frozenset()).frame for used in (0, 1, 32, 33, 112)] == [32, 32, 32, 64, 128]


def test_the_deepest_chain_is_the_sum_of_its_frames() -> None:
    leaf, small = Function(100, frozenset()), Function(8, frozenset({"leaf"}))
    wide, top = Function(300, frozenset()), Function(40, frozenset({"small", "wide"}))
    assert deepest({"leaf": leaf, "small": small, "wide": wide, "top": top}) == (384, ["top 64", "wide 320"])


@pytest.mark.parametrize("name", [*NAMES, "decap"])
def test_no_loop_is_closed_by_what_is_no_jump(name: str) -> None:
    of = codes(Path(DIRECTORY, f"{name}.bpf.o").read_bytes())
    assert len(of) > 3
    assert {function: found for function, code in of.items() if (found := back_edges(code))} == {}


def _code(*instructions: tuple[int, int]) -> bytes:
    """Instructions by opcode and jump offset."""
    return b"".join(struct.pack("<BBhi", opcode, 0, offset, 0) for opcode, offset in instructions)


ADD, IF, GOTO, EXIT = 0x07, 0x55, 0x05, 0x95


@pytest.mark.parametrize(
    ("code", "found"),
    [
        (_code((ADD, 0), (IF, 1), (ADD, 0), (EXIT, 0)), []),
        (_code((ADD, 0), (IF, -2), (EXIT, 0)), []),
        (_code((ADD, 0), (IF, 2), (ADD, 0), (GOTO, -3), (EXIT, 0)), []),
        # the search comes to the condition first, and from there by the loop's body, which runs into it
        (_code((GOTO, 2), (ADD, 0), (ADD, 0), (IF, -3), (EXIT, 0)), [(2, 3)]),
        # the same loop, but its body is seen from above: the condition closes it
        (_code((ADD, 0), (ADD, 0), (ADD, 0), (IF, -3), (EXIT, 0)), []),
    ],
    ids=["straight", "loop closed by a condition", "loop closed by a jump", "entered in its middle", "from its head"],
)
def test_edges_that_close_loops(code: bytes, found: list[tuple[int, int]]) -> None:
    assert back_edges(code) == found
