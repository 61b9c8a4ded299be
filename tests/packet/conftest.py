"""A director for the packet tests: one network namespace for all of them, and nothing known yet in each."""

import os
from collections.abc import Iterator

import pytest

from support.forwarding import either
from support.harness import Harness
from support.network import family, lvs, network
from support.packets import TCP, UDP
from support.tuns import tuns

__all__ = ["alone", "either", "family", "lvs", "movable", "network", "own_network", "protocol", "tuns"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0:
        for item in items:
            if "packet" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason="loading the packet path needs root"))


@pytest.fixture(scope="module")
def own_network() -> Iterator[Harness]:
    """For files in which interfaces, programs or tables come and go: what others put back would not be there."""
    with Harness() as harness:
        harness.leave()
        yield harness


@pytest.fixture
def alone(own_network: Harness) -> Iterator[Harness]:
    """A director of one's own with nothing configured: files have it as their `lvs`."""
    own_network.enter()
    try:
        own_network.reset()
        yield own_network
    finally:
        own_network.enter()
        own_network.leave()


@pytest.fixture
def movable(own_network: Harness) -> Iterator[Harness]:
    """A director of one's own that was just loaded: for tests that give its table another size."""
    own_network.enter()
    try:
        own_network.reload()
        yield own_network
    finally:
        own_network.enter()
        own_network.leave()


@pytest.fixture(params=[TCP, UDP], ids=["tcp", "udp"])
def protocol(request: pytest.FixtureRequest) -> int:
    return int(request.param)
