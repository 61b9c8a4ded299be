"""The recorded command lines once more, with the real director behind them: those that need nothing it lacks yet.

The table is emptied between cases, not loaded anew: the commands of these cases make no connections.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from golden.test_cli import CASES, check_case, needs
from pylvs import Director, Timeouts
from pylvs.datapath import instance as datapath
from pylvs.datapath import loading
from pylvs.errors import NotPermitted
from pylvs.schedulers import NAMES
from support.harness import Harness

DEFAULTS = Timeouts(900, 120, 300)
SUPPORTED = {
    "connections", "fwmark", "ops", "pe", "persistence", "sched-flags", "sctp", "threshold",
    "tunnel",
    *(f"scheduler {name}" for name in NAMES),
}  # fmt: skip
CASES_HERE = [case for case in CASES if needs(case) <= SUPPORTED and not case.get("setup")]


class Reopened:
    """A director that every command line of a case opens for itself, as separate processes do."""

    def __init__(self, **_: Any) -> None:
        self._director: Director | None = None

    def __getattr__(self, name: str) -> Any:
        if self._director is None:
            self._director = Director()
        return getattr(self._director, name)

    def close(self) -> None:
        if self._director is not None:
            self._director.close()
            self._director = None


def real_director(permitted: bool = True, **_: Any) -> Reopened:
    if not permitted:
        raise NotPermitted("not root")
    return Reopened()


@pytest.fixture
def empty(network: Harness) -> Iterator[None]:
    network.enter()
    try:
        running = datapath.find()
        room = running.services.entries if running else 0
        if running:
            running.close()
        if room < loading.LEAST_SERVICES:
            network.unload()  # so that it does not take the next one for its own
            loading.load(conn_bits=12)
        with Director() as director:
            director.set_timeouts(DEFAULTS)
            yield
            director.flush()
    finally:
        network.leave()


@pytest.mark.parametrize("case", CASES_HERE, ids=lambda case: case["id"])
def test_like_the_original(case: dict[str, Any], empty: None) -> None:
    check_case(case, real_director)


def test_they_are_many() -> None:
    """A slip in `needs` must not empty this file."""
    assert len(CASES_HERE) > 250
