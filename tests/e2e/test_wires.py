"""What lies between the director and the others: neighbours that have still to be asked for, bridges, macvlan.

   client -- eth0 - br0 or mv0 -- director -- br1 or mv1 - eth1 --+-- rs1
                                                                  +-- rs2      (the lab's nat)

The addresses, the VIPs too, are on br0 and br1; eth0 and eth1 have none. The packet path works on the bridges, not on
their ports, where the same packets would come twice.
"""

import json
from collections import Counter
from collections.abc import Iterator

import pytest

from pylvs.lab import Lab
from pylvs.lab.lab import console_script
from pylvs.lab.servers import BIG_SIZE

from .service import TIMEOUT, Service

MOVED = {"eth0": "0", "eth1": "1"}
KINDS = {"bridge": "br", "macvlan": "mv"}


def _move(lab: Lab, kind: str) -> None:
    """The director's addresses to devices above its interfaces."""
    director, lines = lab.host("director"), []
    for old, number in MOVED.items():
        new, at = KINDS[kind] + number, director.interface(old)
        if kind == "bridge":
            lines += [f"link add {new} type bridge forward_delay 0 stp_state 0 mcast_snooping 0"]
            lines += [f"link set {old} master {new}"]
        else:
            lines += [f"link add {new} link {old} type macvlan mode bridge"]
        lines += [f"addr flush dev {old}", f"link set {new} up"]
        lines += [f"addr add {at.ipv4}/24 dev {new}", f"addr add {at.ipv6}/64 dev {new} nodad"]
    first = KINDS[kind] + "0"
    lines += [f"addr add {lab.vip}/32 dev {first}", f"addr add {lab.vip6}/128 dev {first} nodad preferred_lft 0"]
    lab.run("director", ["ip", "-batch", "-"], input="\n".join(lines) + "\n")
    for host in lab.topology.hosts:
        lab.run(host.name, "ip neigh flush all", check=False)


@pytest.fixture(scope="module", params=KINDS)
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with Lab("nat", realservers=2) as lab:
        _move(lab, request.param)
        yield lab


def test_above_the_interfaces(lab: Lab, ipv6: bool) -> None:
    service = Service(lab, "-m", ipv6=ipv6).add()
    try:
        lab.wait_for(lambda: lab.can_connect("client", service.vip, 80), "the new devices to be usable", seconds=10)
        before = sum(row.inpkts for row in service.traffic().values())
        assert Counter(service.get() for _ in range(4)) == {"rs1": 2, "rs2": 2}
        words = ["curl", "-sS", "-m", TIMEOUT, "-o", "/dev/null", "-w", "%{size_download}", service.url("/big")]
        assert int(lab.run("client", words).stdout) == BIG_SIZE
        assert sum(row.inpkts for row in service.traffic().values()) > before + 20
        status = json.loads(lab.run("director", [*console_script("pylvs"), "status", "--json"]).stdout)
        on = set(status["attached"])
        assert on & {"eth0", "eth1"} == (set() if "br0" in on else {"eth0", "eth1"})
    finally:
        lab.ipvsadm("-C")


@pytest.mark.parametrize("name", ["nat", "dr"])
def test_a_neighbour_that_has_still_to_be_asked_for(request: pytest.FixtureRequest, name: str, ipv6: bool) -> None:
    """A single datagram, which nobody repeats, waits until the real server's link-layer address is known."""
    lab: Lab = request.getfixturevalue(name)
    service = Service(lab, "-m" if name == "nat" else "-g", ipv6=ipv6, port=53, kind="-u").add("rs1", "rs2")
    for server in ("rs1", "rs2"):
        lab.run("director", "ip neigh flush all")
        known = lab.run("director", f"ip neigh show {service.rip(server)}").stdout
        assert "lladdr" not in known
    assert {service.dig(), service.dig()} == {"rs1", "rs2"}
