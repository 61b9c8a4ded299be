"""A director for the packet tests: one network namespace for all of them, and nothing known yet in each."""

import os
from collections.abc import Iterator

import pytest

from support.harness import Harness
from support.packets import TCP, UDP
from support.talk import FAMILIES, Family


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0:
        for item in items:
            if "packet" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason="loading the packet path needs root"))


@pytest.fixture(scope="session")
def packet_network() -> Iterator[Harness]:
    with Harness() as harness:
        harness.leave()
        yield harness


@pytest.fixture(scope="module")
def own_network() -> Iterator[Harness]:
    """For files in which interfaces, programs or tables come and go: what others put back would not be there."""
    with Harness() as harness:
        harness.leave()
        yield harness


@pytest.fixture
def lvs(packet_network: Harness) -> Iterator[Harness]:
    """A director that knows nothing yet; the test is in its network namespace."""
    packet_network.enter()
    try:
        packet_network.reset()
        yield packet_network
    finally:
        packet_network.leave()


@pytest.fixture(params=FAMILIES, ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> Family:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=[TCP, UDP], ids=["tcp", "udp"])
def protocol(request: pytest.FixtureRequest) -> int:
    return int(request.param)
