"""Persistent services with real clients and servers: curl, nginx.

nat:  clients ------------ director --+-- rs1..rs3      -m, replies through the director
dr:   clients -- router --+-- director                  -g, replies rs -> router -> clients
                          +-- rs1..rs3

The clients are addresses of one host: its own and six more beside it.
"""

from collections.abc import Iterator

import pytest

from pylvs.lab import Lab

from .conftest import BOTH_WAYS
from .service import TIMEOUT, Service

OTHERS = range(101, 107)


@pytest.fixture(params=["nat", "dr"])
def lab(request: pytest.FixtureRequest, by_stack: bool) -> Lab:
    found: Lab = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def clients(lab: Lab, ipv6: bool) -> Iterator[list[str]]:
    """Addresses from which the client's host asks."""
    client = lab.host("client")
    own = client.ipv6 if ipv6 else client.ipv4
    separator, width, more = (":", 64, ["nodad"]) if ipv6 else (".", 24, [])
    others = [own.rpartition(separator)[0] + f"{separator}{number}" for number in OTHERS]
    for address in others:
        lab.run("client", ["ip", "addr", "add", f"{address}/{width}", "dev", "eth0", *more])
    try:
        yield [own, *others]
    finally:
        for address in others:
            lab.run("client", ["ip", "addr", "del", f"{address}/{width}", "dev", "eth0"])


@pytest.fixture
def service(lab: Lab, ipv6: bool) -> Service:
    """A persistent service over all real servers, round robin."""
    service = Service(lab, "-g" if lab.topology.name == "dr" else "-m", ipv6=ipv6).add()
    lab.ipvsadm(["-E", "-t", service.address, "-s", "rr", "-p", "300"])
    return service


def ask(service: Service, client: str) -> str:
    """Which real server answers a request that a client makes of its address."""
    words = ["curl", "-sS", "-m", TIMEOUT, "--interface", client, service.url()]
    return service.lab.run("client", words).stdout.strip()


def templates(service: Service) -> dict[str, str]:
    """The real server of each client that has a template, as `ipvsadm -Lnc` lists them."""
    rows = (line.split() for line in service.lab.ipvsadm("-Lnc").stdout.splitlines())
    return {
        row[3].rpartition(":")[0].strip("[]"): row[5]
        for row in rows
        if row[4:5] == [service.address] and row[3].endswith(":0")
    }


@BOTH_WAYS
def test_a_client_comes_back_and_others_go_elsewhere(service: Service, clients: list[str]) -> None:
    first = {client: ask(service, client) for client in clients}
    assert set(first.values()) == {"rs1", "rs2", "rs3"}
    for _ in range(3):
        assert {client: ask(service, client) for client in reversed(clients)} == dict(reversed(first.items()))
    assert templates(service) == {client: service.server(name) for client, name in first.items()}


def test_who_loses_his_real_server_is_answered_by_another(service: Service, clients: list[str]) -> None:
    first = {client: ask(service, client) for client in clients}
    lost = first[clients[0]]
    service.lab.pylvs(["sysctl", "expire_nodest_conn=1"])
    try:
        service.remove_server(lost)
        again = {client: ask(service, client) for client in clients}
        assert lost not in again.values()
        assert {c: name for c, name in again.items() if first[c] != lost} == {
            client: name for client, name in first.items() if name != lost
        }
        service.add_server(lost)
        assert {client: ask(service, client) for client in clients} == again
    finally:
        service.lab.pylvs(["sysctl", "expire_nodest_conn=0"])
