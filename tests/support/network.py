"""The fixtures of tests that send packets through a director: a conftest imports those that its folder needs."""

import os
from collections.abc import Iterator

import pytest

from support.harness import Harness
from support.talk import FAMILIES, Family


@pytest.fixture(scope="session")
def network() -> Iterator[Harness]:
    """One network namespace with a director, for all tests of a session."""
    if os.geteuid() != 0:
        pytest.skip("loading the packet path needs root")
    with Harness() as harness:
        harness.leave()
        yield harness


@pytest.fixture
def lvs(network: Harness) -> Iterator[Harness]:
    """A director that knows nothing yet; the test is in its network namespace."""
    network.enter()
    try:
        network.reset()
        yield network
    finally:
        network.leave()


@pytest.fixture(params=FAMILIES, ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> Family:
    return request.param  # type: ignore[no-any-return]
