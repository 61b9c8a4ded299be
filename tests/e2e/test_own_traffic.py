"""The director itself at one end of a connection, or at both.

nat:   client -- director (nginx, curl) --+-- rs1..rs3
dr:    client -- router --+-- director
                          +-- rs1 (a second director)
"""

from collections import Counter
from collections.abc import Iterator

import pytest

from pylvs.datapath import _layout
from pylvs.director import Director
from pylvs.lab import Lab, servers
from pylvs.lab.lab import console_script
from pylvs.model import real_server, virtual_service

from .conftest import BOTH_WAYS
from .service import TIMEOUT, Service, endpoint


def _curl(lab: Lab, host: str, service: Service, path: str = "/who", *options: str) -> str:
    words = ["curl", "-sS", "-m", TIMEOUT, *options, service.url(path)]
    return lab.run(host, words, check=False).stdout.strip()


@pytest.fixture(scope="module")
def serving_lab(nat_lab: Lab) -> Iterator[Lab]:
    """The director serves, too: as "director", on all of its addresses."""
    director = nat_lab.host("director")
    child = nat_lab.start("director", servers.nginx(director, nat_lab.directory), "nginx")
    nat_lab.wait_for(lambda: nat_lab.can_connect("director", director.ipv4, 8080), "the director's nginx to answer")
    yield nat_lab
    nat_lab.stop(child)


def _far(service: Service) -> str:
    """The director's address towards the real servers."""
    far = service.lab.host("director").interface("eth1")
    return far.ipv6 if service.ipv6 else far.ipv4


@pytest.fixture
def local(serving_lab: Lab, ipv6: bool) -> Iterator[Service]:
    """A service of rs1 and the director, both by LVS-NAT, on another port than the service's."""
    service = Service(serving_lab, "-m", ipv6=ipv6, port=90, rport=8080).add("rs1")
    serving_lab.ipvsadm(["-a", "-t", service.address, "-r", endpoint(_far(service), 8080), "-m"])
    yield service
    serving_lab.ipvsadm("-C")


@pytest.mark.parametrize("host", ["client", "director"])
def test_a_real_server_on_the_director(local: Service, host: str) -> None:
    answers = [_curl(local.lab, host, local).split() for _ in range(4)]
    assert Counter(answer[0] for answer in answers) == {"rs1": 2, "director": 2}
    assert {tuple(answer[3:]) for answer in answers if answer[0] == "director"} == {(_far(local), "8080")}
    totals = local.lab.ipvsadm("-Ln --stats --exact").stdout
    [row] = [line.split() for line in totals.splitlines() if endpoint(_far(local), 8080) in line]
    assert row[2] == "2" and int(row[3]) >= 8 and int(row[4]) >= 6, "both directions are counted"


def test_much_from_a_real_server_on_the_director(local: Service) -> None:
    local.set_weight("rs1", 0)
    size = _curl(local.lab, "client", local, "/big", "-o", "/dev/null", "-w", "%{size_download}")
    assert size == str(servers.BIG_SIZE)


@BOTH_WAYS
def test_a_client_on_the_director(nat: Lab, ipv6: bool) -> None:
    """By LVS-NAT from any of its addresses, the VIP too, which it takes by itself."""
    service = Service(nat, "-m", ipv6=ipv6, rport=8080).add()
    director = nat.host("director")
    own = director.ipv6 if ipv6 else director.ipv4
    assert Counter(_curl(nat, "director", service).split()[0] for _ in range(3)) == {"rs1": 1, "rs2": 1, "rs3": 1}
    assert _curl(nat, "director", service).split()[1] == service.vip
    assert _curl(nat, "director", service, "/who", "--interface", own).split()[1] == own
    size = _curl(nat, "director", service, "/big", "-o", "/dev/null", "-w", "%{size_download}")
    assert size == str(servers.BIG_SIZE)


@BOTH_WAYS
def test_a_client_on_the_director_by_direct_routing(dr: Lab, ipv6: bool) -> None:
    """Not from the VIP, which the real server takes for its own; kernel IPVS cannot do it at all."""
    service = Service(dr, "-g", ipv6=ipv6).add("rs2")
    director = dr.host("director")
    own = director.ipv6 if ipv6 else director.ipv4
    assert _curl(dr, "director", service, "/who", "--interface", own).split()[:2] == ["rs2", own]


@BOTH_WAYS
def test_a_service_whose_address_is_elsewhere(nat: Lab, ipv6: bool) -> None:
    """What the director asks the client's address for leaves by eth0, and is balanced all the same."""
    service = Service(nat, "-m", ipv6=ipv6, port=90, rport=8080)
    client = nat.host("client")
    service.vip = client.ipv6 if ipv6 else client.ipv4
    service.address = endpoint(service.vip, 90)
    service.add("rs1")
    assert _curl(nat, "director", service).split()[0] == "rs1"


# ---- two directors that are each other's real servers ----------------------------------------------------------------


@pytest.fixture
def second(dr: Lab) -> Iterator[Lab]:
    """rs1 is a director as well, which holds the VIP quietly; both balance over both."""
    yield dr
    dr.run("rs1", [*console_script("pylvs"), "unload"])


def _balance(lab: Lab, host: str) -> None:
    director = lab.host("director")
    with lab.enter(host), Director() as here:
        key = virtual_service(lab.vip, 80, scheduler="rr")
        here.add_service(key)
        for one in (director, lab.host("rs1")):
            here.add_destination(key, real_server(one.ipv4, 80))


def _asks(lab: Lab, count: int) -> list[str]:
    words = ["curl", "-sS", "-m", "0.5", f"http://{lab.vip}/"]
    return [lab.run("client", words, check=False).stdout.strip() for _ in range(count)]


def test_a_backup_does_not_send_back_what_it_is_sent(second: Lab) -> None:
    """backup_only: what the master gives to the backup is served there."""
    child = second.start("director", servers.nginx(second.host("director"), second.directory), "nginx")
    second.wait_for(lambda: second.can_connect("director", second.host("director").ipv4, 80), "nginx to answer")
    for host in ("director", "rs1"):
        _balance(second, host)
    with second.enter("rs1"), Director() as backup:
        assert backup.instance
        backup.set_sysctl("backup_only", 1)
        backup.instance.config.put(0, "sync_state", _layout.SYNC_BACKUP)
        assert Counter(_asks(second, 4)) == {"director": 2, "rs1": 2}
        assert backup.totals().conns == 0
        # without it, some of what rs1 is sent goes back, and comes again, until its TTL is over
        backup.set_sysctl("backup_only", 0)
        _asks(second, 4)
        assert backup.totals().conns > 0
        assert backup.totals().inpkts < 4 * 8 * 64
    second.stop(child)
