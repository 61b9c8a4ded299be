"""What the table benchmark compares, each in a process of its own, and how much memory that may take."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import rivals

# program -> (who runs it, what it is)
PROGRAMS = {
    "slots": ("slots", "pylvs"),
    "hash": ("hash", "the same over a BPF hash of connections"),
    "index": ("index", "the same over a BPF hash of record numbers"),
    "plain": ("plain", "plain: hash, rewrite, redirect"),
    "plain_fib": ("plain", "plain, with a route lookup"),
    "plain_neigh": ("plain", "plain, by redirect_neigh"),
    "floor_of": ("plain", "plain, with counters, state and time"),
    "one_line": ("plain", "one cache line of an array of as many slots, and nothing else"),
}
TABLES = ("slots", "index", "hash")
# Bytes per entry, roughly: only to know beforehand what fits. `wide` and `lines` are maps of floor_of and one_line.
_BYTES = {"slots": 66, "index": 184, "hash": 170, "plain": 114, "wide": 170, "lines": 64}


def available() -> int:
    """Bytes of memory that this machine has left."""
    with open("/proc/meminfo", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))


def fitting(names: Iterable[str], slots: int, entries: int, budget: int) -> list[str]:
    """Of some programs those that fit into the memory together: what matters least is left out first.

    Args:
        slots: capacity of the connection tables.
        entries: what the plain programs have to know.
    """
    chosen = list(names)
    budget = min(budget, available() - (2 << 30))

    def needed() -> int:
        users = {PROGRAMS[name][0] if name in PROGRAMS else "slots" for name in chosen}
        total = sum(_BYTES[user] * (entries if user == "plain" else slots) for user in users)
        total += _BYTES["wide"] * entries if "floor_of" in chosen else 0
        return total + (_BYTES["lines"] * slots if "one_line" in chosen else 0)

    for least in (["floor_of"], ["one_line"], ["index"], ["plain", "plain_fib", "plain_neigh"], ["hash"], chosen[:]):
        if needed() <= budget:
            break
        chosen = [name for name in chosen if name not in least]
    return chosen


class Subject:
    """A worker process, spoken to line by line."""

    def __init__(self, kind: str, source: Path) -> None:
        environment = os.environ | {"PYTHONPATH": f"{source}:{rivals.ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
        self.kind = kind
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", kind],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the worker's `Product` or `Plain`."""
        assert self._process.stdin and self._process.stdout
        print(json.dumps([method, *arguments]), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"bench: the worker for {self.kind} has ended")
        return json.loads(answer)

    def close(self) -> None:
        """Let it end, and remove what it has loaded."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


class Subjects:
    """All workers that some programs need, begun; a context manager."""

    def __init__(self, kinds: Iterable[str], headers: Path = rivals.HERE / "tables") -> None:
        self._stack = ExitStack()
        self.by_kind: dict[str, Subject] = {}
        with ExitStack() as stack:
            for kind in dict.fromkeys(kinds):
                source = rivals.ROOT / "src"
                if (headers / f"{kind}.h").exists():
                    place = stack.enter_context(tempfile.TemporaryDirectory(prefix=f"pylvs-{kind}-"))
                    try:
                        source = rivals.build(headers / f"{kind}.h", Path(place))
                    except SystemExit as error:
                        if kind in TABLES:
                            raise
                        print(error, file=sys.stderr)  # a step that has changed does not keep the others
                        continue
                subject = Subject(kind, source)
                stack.callback(subject.close)
                self.by_kind[kind] = subject
            self._stack = stack.pop_all()

    def __enter__(self) -> "Subjects":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def of(self, program: str) -> Subject:
        return self.by_kind[PROGRAMS[program][0] if program in PROGRAMS else program]
