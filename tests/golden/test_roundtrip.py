"""Tables that went through the original and back: what was restored, and what the original then listed and saved.

When they were recorded, the original also restored what pylvs saves of each, and saved and listed the same again
(`record/roundtrip.py`). Here pylvs restores what the original was given, and what the original saved.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from golden.test_cli import _normal
from golden.test_cli_director import empty, real_director
from pylvs.ipvsadm.commands import Shell
from support.fake_director import FakeDirector
from support.hosts import TestResolver

__all__ = ["empty"]
TABLES = json.loads((Path(__file__).parent / "cli" / "roundtrip" / "tables.json").read_text(encoding="ascii"))


def play(director: Callable[[], Any], line: list[str], stdin: str = "") -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    Shell(io.StringIO(stdin), out, err, director, TestResolver()).run(line)
    return _normal("", out.getvalue()), err.getvalue()


def check(table: dict[str, Any], director: Any) -> None:
    listing, saved = _normal("", table["listing"]), table["saved"]
    for rules, errors in ((table["rules"], table["errors"]), (saved, "")):
        play(lambda: director, ["-C"])
        assert play(lambda: director, ["-R"], rules) == ("", errors)
        if rules != saved or "--thresholds" not in table["list"]:  # nobody saves them
            assert play(lambda: director, table["list"].split()) == (listing, "")
        assert play(lambda: director, ["-S", "-n"]) == (saved, "")


@pytest.mark.parametrize("table", TABLES, ids=lambda table: str(TABLES.index(table)))
def test_a_table_like_the_originals(table: dict[str, Any]) -> None:
    check(table, FakeDirector())


def test_tables_in_the_director(empty: None) -> None:
    for table in TABLES[::3]:
        check(table, real_director())
