"""A director in the topology in which the real one was recorded, with nothing known yet in each case."""

import os
from collections.abc import Iterator

import pytest

from support.harness import Harness


@pytest.fixture(scope="session")
def recorded_network() -> Iterator[Harness]:
    if os.geteuid() != 0:
        pytest.skip("loading the packet path needs root")
    with Harness() as harness:
        harness.leave()
        yield harness


@pytest.fixture
def lvs(recorded_network: Harness) -> Iterator[Harness]:
    """A director that knows nothing yet; the test is in its network namespace."""
    recorded_network.enter()
    try:
        recorded_network.reset()
        yield recorded_network
    finally:
        recorded_network.leave()
