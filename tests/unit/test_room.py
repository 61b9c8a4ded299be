"""How many services and real servers there is room for by default."""

import os

import pytest

from pylvs.datapath import loading

PAGE = 4096


@pytest.mark.parametrize(
    ("gigabytes", "room"),
    [(0.25, (4096, 16384)), (2, (4096, 16384)), (4, (8192, 65536)), (8, (16384, 131072)), (512, (16384, 131072))],
)
def test_room_by_memory(monkeypatch: pytest.MonkeyPatch, gigabytes: float, room: tuple[int, int]) -> None:
    known = {"SC_PHYS_PAGES": int(gigabytes * (1 << 30)) // PAGE, "SC_PAGE_SIZE": PAGE}
    monkeypatch.setattr(os, "sysconf", known.__getitem__)
    monkeypatch.setattr(loading, "possible_cpus", lambda: 2)
    assert loading.default_room() == room


def test_each_cpu_needs_counters_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"SC_PHYS_PAGES": (8 << 30) // PAGE, "SC_PAGE_SIZE": PAGE}
    monkeypatch.setattr(os, "sysconf", known.__getitem__)
    monkeypatch.setattr(loading, "possible_cpus", lambda: 256)
    services, _ = loading.default_room()
    assert loading.LEAST_SERVICES <= services < loading.MOST_SERVICES
