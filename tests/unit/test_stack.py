"""The programs' stack: Linux 6.1 refuses more than 512 bytes, and newer kernels, which reckon otherwise, do not say so.

tests/kernel61 asks that kernel itself, where there is a guest to ask.
"""

from pathlib import Path

import pytest

from pylvs.datapath.object import DIRECTORY
from support.stack import LIMIT, Function, deepest, functions


@pytest.mark.parametrize("name", ["tc", "sweep"])
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
