"""What a lab leaves on disk while it lives, so that another process can find it, use it and remove it.

A lab's directory appears complete, by one rename, before its first namespace does: whoever dies after that leaves
a trace that `pylvs lab down` can follow.
"""

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from pylvs.lab.namespaces import LabError
from pylvs.lab.processes import Process, is_alive

RUN = Path("/run/pylvs/lab")
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*", re.ASCII)


class State(NamedTuple):
    """A lab on record. `owner` is the process that takes it down when it leaves, as (pid, start time), or None."""

    name: str
    topology: str
    realservers: int
    owner: tuple[int, int] | None
    namespaces: tuple[str, ...]
    processes: tuple[Process, ...] = ()

    @property
    def directory(self) -> Path:
        return RUN / self.name

    @property
    def orphaned(self) -> bool:
        return self.owner is not None and not is_alive(*self.owner)

    def to_json(self) -> str:
        return json.dumps(self._asdict() | {"processes": [p._asdict() for p in self.processes]}, indent=1)


def from_json(text: str) -> State:
    """Read a record; a damaged one is a LabError."""
    try:
        data: dict[str, Any] = json.loads(text)
        owner = data["owner"]
        return State(
            check_name(data["name"]),
            str(data["topology"]),
            int(data["realservers"]),
            None if owner is None else (int(owner[0]), int(owner[1])),
            tuple(check_name(name, limit=80) for name in data["namespaces"]),
            tuple(Process(int(p["pid"]), int(p["start"]), str(p["host"]), str(p["what"])) for p in data["processes"]),
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise LabError(f"a damaged record of a lab: {error!r}") from None


def check_name(name: object, limit: int = 40) -> str:
    """A lab's name becomes part of paths and namespace names: small letters, digits, - and _, and not too long."""
    if not isinstance(name, str) or not NAME.fullmatch(name) or len(name) > limit:
        raise LabError(f"{name!r} cannot name a lab: use small letters, digits, '-' and '_', at most {limit}")
    return name


def create(state: State) -> None:
    """Put a new lab on record; a LabError if the name is taken."""
    RUN.mkdir(parents=True, exist_ok=True)
    # The dot keeps a half-made directory out of names(); servers that drop their rights must get in later.
    draft = Path(tempfile.mkdtemp(prefix=".new-", dir=RUN))
    draft.chmod(0o755)
    (draft / "state.json").write_text(state.to_json())
    try:
        os.rename(draft, state.directory)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        raise LabError(f"there is a lab '{state.name}' already; remove it with: pylvs lab down {state.name}") from None


def save(state: State) -> None:
    """Replace the record at once, so that a reader sees the old one or the new one."""
    draft = state.directory / ".state.json"
    draft.write_text(state.to_json())
    os.replace(draft, state.directory / "state.json")


def load(name: str) -> State:
    try:
        return from_json((RUN / check_name(name) / "state.json").read_text())
    except FileNotFoundError:
        raise LabError(f"no lab '{name}'; there are: {', '.join(names()) or 'none'}") from None


def names() -> list[str]:
    """Every lab on record."""
    try:
        return sorted(entry.name for entry in RUN.iterdir() if NAME.fullmatch(entry.name))
    except FileNotFoundError:
        return []


def forget(name: str) -> None:
    shutil.rmtree(RUN / check_name(name), ignore_errors=True)
