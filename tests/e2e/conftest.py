"""Labs for the end-to-end tests: one of each topology per module, and no service left from one test to the next.

The drawings are in pylvs.lab.topologies; `pylvs lab show nat` prints one.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pylvs.director import Director
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


# ---- the two ways of forwarding --------------------------------------------------------------------------------------

BOTH_WAYS = pytest.mark.parametrize("by_stack", [False, True], ids=["", "conntrack"], indirect=True)
"""For tests about forwarding: once past the director's stack, once through it (net.ipv4.vs.conntrack=1)."""


def places(*names: str) -> pytest.MarkDecorator:
    """For tests that take `any_lab`: topologies, each by itself or, "nat conntrack", where the stack forwards."""
    pairs = [(name.removesuffix(" conntrack"), name.endswith(" conntrack")) for name in names]
    return pytest.mark.parametrize(("any_lab", "by_stack"), pairs, ids=names, indirect=True)


EVERYWHERE = places("nat", "nat-router", "dr", "nat conntrack", "dr conntrack")
"""Router or not is all the same to the stack."""

_TRACKING = """
table inet tracking {
    chain forward {
        type filter hook forward priority filter; policy accept
        ct state invalid counter %s
        meta l4proto { tcp, udp, sctp } counter
    }
    chain output {
        type filter hook output priority filter; policy accept
        meta l4proto { tcp, udp, sctp } counter
    }
}
"""


@pytest.fixture
def by_stack(request: pytest.FixtureRequest) -> bool:
    """Does the director's stack forward? Not unless a test asks for it, by one of the marks above."""
    return bool(getattr(request, "param", False))


@contextmanager
def forwarding(lab: Lab, by_stack: bool, strict: bool = False) -> Iterator[None]:
    """Have the director forward by itself, or its stack, with connection tracking at work.

    Args:
        strict: what connection tracking calls invalid is dropped. It is not where it sees one direction alone, as with
            LVS-DR and LVS-TUN.
    """
    if not by_stack:
        yield
        return
    lab.run("director", ["nft", "-f", "-"], input=_TRACKING % ("drop" if strict else "accept"))
    with lab.enter("director"), Director() as director:
        director.set_sysctl("conntrack", 1)
    lab.pylvs("conns flush --all")  # those of before keep their way
    try:
        yield
        seen = re.findall(r"counter packets (\d+)", lab.run("director", "nft list table inet tracking").stdout)
        assert int(seen[1]) + int(seen[2]), "the stack has forwarded something, or it was the director's own"
    finally:
        with lab.enter("director"), Director() as director:
            director.set_sysctl("conntrack", 0)
        lab.pylvs("conns flush --all")
        lab.run("director", "nft delete table inet tracking")


def _without_services(lab: Lab, by_stack: bool) -> Iterator[Lab]:
    with forwarding(lab, by_stack, strict=lab.topology.name != "dr"):
        yield lab
    lab.ipvsadm("-C")


@pytest.fixture
def nat(nat_lab: Lab, by_stack: bool) -> Iterator[Lab]:
    yield from _without_services(nat_lab, by_stack)


@pytest.fixture
def nat_router(nat_router_lab: Lab, by_stack: bool) -> Iterator[Lab]:
    yield from _without_services(nat_router_lab, by_stack)


@pytest.fixture
def dr(dr_lab: Lab, by_stack: bool) -> Iterator[Lab]:
    yield from _without_services(dr_lab, by_stack)


@pytest.fixture(params=["nat", "nat-router", "dr"])
def any_lab(request: pytest.FixtureRequest, by_stack: bool) -> Lab:  # what is asked for by name depends on that
    """Each topology in turn."""
    lab: Lab = request.getfixturevalue(request.param.replace("-", "_"))
    return lab


@pytest.fixture
def method(any_lab: Lab) -> str:
    """The forwarding method that belongs to the topology."""
    return "-g" if any_lab.topology.name == "dr" else "-m"


@pytest.fixture(params=[False, True], ids=["ipv4", "ipv6"])
def ipv6(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)
