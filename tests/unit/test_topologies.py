"""docs/topologies.md names tests that there are, and leaves out no number."""

import ast
import re
from pathlib import Path

import pytest

from pylvs.lab.topologies import TOPOLOGIES

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "topologies.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| (T\d+) \| (.*) \|$", PAGE, re.MULTILINE))
NAMED = sorted(set(re.findall(r"`([a-z0-9_/]+\.py)::(\w+)`", PAGE)))


def test_all_of_them() -> None:
    assert sorted(ROWS, key=lambda name: int(name[1:])) == [f"T{number}" for number in range(1, 35)]
    assert len(re.findall(r"^\| T", PAGE, re.MULTILINE)) == len(ROWS), "one of them twice"


@pytest.mark.parametrize("name", sorted(ROWS))
def test_each_is_built_or_has_its_reason(name: str) -> None:
    tests = ROWS[name].rpartition(" | ")[2]
    assert "::" in tests or re.match(r"not built: \w+", tests)


@pytest.mark.parametrize(("file", "test"), NAMED, ids=["::".join(one) for one in NAMED])
def test_there_is_such_a_test(file: str, test: str) -> None:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_labs() -> None:
    said = re.search(r"\(there are ([\w, -]+)\)", PAGE)
    assert said
    assert set(re.split(r", | and ", said[1])) == set(TOPOLOGIES)
