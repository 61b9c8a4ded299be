"""Labs for the end-to-end tests: one of each topology per module, and no service left from one test to the next.

The drawings are in pylvs.lab.topologies; `pylvs lab show nat` prints one.
"""

import os
from collections.abc import Iterator

import pytest

from pylvs.lab import Lab


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0:
        for item in items:
            if "e2e" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason="network namespaces need root"))


def _lab(name: str) -> Iterator[Lab]:
    with Lab(name) as lab:
        yield lab


@pytest.fixture(scope="module")
def nat_lab() -> Iterator[Lab]:
    yield from _lab("nat")


@pytest.fixture(scope="module")
def nat_router_lab() -> Iterator[Lab]:
    yield from _lab("nat-router")


@pytest.fixture(scope="module")
def dr_lab() -> Iterator[Lab]:
    yield from _lab("dr")


def _without_services(lab: Lab) -> Iterator[Lab]:
    yield lab
    lab.ipvsadm("-C")


@pytest.fixture
def nat(nat_lab: Lab) -> Iterator[Lab]:
    yield from _without_services(nat_lab)


@pytest.fixture
def nat_router(nat_router_lab: Lab) -> Iterator[Lab]:
    yield from _without_services(nat_router_lab)


@pytest.fixture
def dr(dr_lab: Lab) -> Iterator[Lab]:
    yield from _without_services(dr_lab)


CONNTRACK = ["nat conntrack", "dr conntrack"]
"""For `any_lab`, where a file asks for them: the same with net.ipv4.vs.conntrack, by which the stack forwards."""


@pytest.fixture(params=["nat", "nat-router", "dr"])
def any_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Each topology in turn."""
    name, _, conntrack = request.param.partition(" ")
    lab: Lab = request.getfixturevalue(name.replace("-", "_"))
    if conntrack:
        lab.pylvs("sysctl -q conntrack=1")
    yield lab
    if conntrack:
        lab.pylvs("sysctl -q conntrack=0")


@pytest.fixture
def method(any_lab: Lab) -> str:
    """The forwarding method that belongs to the topology."""
    return "-g" if any_lab.topology.name == "dr" else "-m"


@pytest.fixture(params=[False, True], ids=["ipv4", "ipv6"])
def ipv6(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)
