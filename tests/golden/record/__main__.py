"""New questions to the original ipvsadm, and its answers compared: see README.md, "Recording".

cd tests; PYTHONPATH=../src python -m golden.record draw SEED COUNT CASES.json
PYTHONPATH=../src python -m golden.record tables COUNT CASES.json
(guest.py CASES.json ANSWERS.json, where the original is)
PYTHONPATH=../src python -m golden.record compare ANSWERS.json
PYTHONPATH=../src python -m golden.record keep ANSWERS.json TABLES.json
"""

import json
import sys
from difflib import unified_diff
from pathlib import Path
from typing import Any

from golden.record import draws, roundtrip
from golden.test_cli import _normal, run_case
from support.fake_director import FakeDirector


def difference(case: dict[str, Any]) -> str:
    """The first step of a case that pylvs answers otherwise, with both answers; "" if there is none.

    A command line that the original does not survive ends the comparison.
    """
    for step, code, out, err in run_case(case, FakeDirector):
        if step["rc"] < 0:
            return ""
        ours = [f"exit {code}", *_normal(step["cmd"], out).splitlines(), "stderr:", *err.splitlines()]
        theirs = [f"exit {step['rc']}", *_normal(step["cmd"], step["stdout"]).splitlines(), "stderr:"]
        theirs += step["stderr"].splitlines()
        if ours != theirs:
            lines = unified_diff(theirs, ours, "original", "pylvs", n=0, lineterm="")
            head = [case["id"], ascii(step["cmd"]), ascii(step.get("stdin", ""))]
            return "\n".join([*head, *(f"    {ascii(line)[1:-1]}" for line in lines)])
    return ""


def main(command: str, *words: str) -> None:
    if command == "draw":
        Path(words[2]).write_text(json.dumps(draws.cases(int(words[0]), int(words[1]))))
    elif command == "tables":
        Path(words[1]).write_text(json.dumps(roundtrip.cases(int(words[0]))))
    elif command == "compare":
        differences = [text for case in json.loads(Path(words[0]).read_text()) if (text := difference(case))]
        print("\n\n".join([*differences, f"{len(differences)} cases differ"]))
    else:
        tables = roundtrip.kept(json.loads(Path(words[0]).read_text()))
        Path(words[1]).write_text("[\n" + ",\n".join(json.dumps(table) for table in tables) + "\n]\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
