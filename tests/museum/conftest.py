"""Complaints about other load balancers, each a test that bears its number: how it is here."""

import os
from collections.abc import Iterator

import pytest

from support.harness import Harness


@pytest.fixture(scope="session")
def museum_network() -> Iterator[Harness]:
    if os.geteuid() != 0:
        pytest.skip("loading the packet path needs root")
    with Harness() as harness:
        harness.leave()
        yield harness


@pytest.fixture
def lvs(museum_network: Harness) -> Iterator[Harness]:
    """A director that knows nothing yet; the test is in its network namespace."""
    museum_network.enter()
    try:
        museum_network.reset()
        yield museum_network
    finally:
        museum_network.leave()
