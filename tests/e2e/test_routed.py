"""Addresses that no director holds, and that are only routed through it: VIPs, the whole web, everything.

   client                   director                               rs1 and rs2: real servers; caches; gateways
 +--------+   outside   +------------------+    inside     +-----+
 |   .2   |-------------| .9            .9 |-------+-------| rs1 | .11     whatever is asked of them, they are
 +--------+             |                  |       +-------| rs2 | .12     (local 203.0.113.0/24)
                        +------------------+       +-------| rs3 | .13     the web itself: 203.0.113.0/24 is there

The client's default route leads to the director, and the director's to 203.0.113.0/24 (2001:db8:113::/64) to rs3.
"""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from pylvs.lab import Lab

from .service import TIMEOUT, endpoint


class Web(NamedTuple):
    """The addresses in one family."""

    ipv6: bool
    network: str
    sites: tuple[str, ...]

    def rip(self, lab: Lab, name: str) -> str:
        host = lab.host(name)
        return host.ipv6 if self.ipv6 else host.ipv4

    @property
    def mark(self) -> str:
        return "-f 1 -6" if self.ipv6 else "-f 1"


WEBS = {
    "ipv4": Web(False, "203.0.113.0/24", tuple(f"203.0.113.{n}" for n in range(1, 9))),
    "ipv6": Web(True, "2001:db8:113::/64", tuple(f"2001:db8:113::{n}" for n in range(1, 9))),
}


@pytest.fixture(params=WEBS)
def web(request: pytest.FixtureRequest) -> Web:
    return WEBS[request.param]


@pytest.fixture(scope="module")
def whole_lab() -> Iterator[Lab]:
    with Lab("nat") as lab:
        for bits, vip, web in ((32, lab.vip, WEBS["ipv4"]), (128, lab.vip6, WEBS["ipv6"])):
            family = "-6" if web.ipv6 else "-4"
            lab.run("director", f"ip {family} addr del {vip}/{bits} dev eth0")
            lab.run("director", f"ip {family} route add {web.network} via {web.rip(lab, 'rs3')}")
            for host in lab.realservers:
                lab.run(host.name, f"ip {family} route add local {web.network} dev lo")
        yield lab


@pytest.fixture
def lab(whole_lab: Lab) -> Iterator[Lab]:
    try:
        yield whole_lab
    finally:
        whole_lab.ipvsadm("-C")
        whole_lab.pylvs("mark flush")
        whole_lab.pylvs("sysctl -w cache_bypass=0")


def _who(lab: Lab, address: str) -> list[str]:
    """The real server that answers, the client and the address that it sees."""
    said = lab.run("client", ["curl", "-sS", "-m", TIMEOUT, f"http://{endpoint(address, 80)}/who"]).stdout.split()
    return [said[0], said[1], said[3]]


def _client(lab: Lab, web: Web) -> str:
    return web.rip(lab, "client")


def _direct(lab: Lab, service: str, web: Web, names: tuple[str, ...]) -> None:
    for name in names:
        lab.ipvsadm(f"-a {service} -r {endpoint(web.rip(lab, name), 0)} -g")


@pytest.mark.parametrize(("web", "method"), [("ipv4", "-m"), ("ipv6", "-m"), ("ipv4", "-g")], indirect=["web"])
def test_a_vip_that_the_director_does_not_hold(lab: Lab, web: Web, method: str) -> None:
    """An ordinary service, without a mark: what kernel IPVS needs the VIP on the director for."""
    vip = web.sites[0]
    lab.ipvsadm(f"-A -t {endpoint(vip, 80)} -s rr")
    assert lab.connect("client", vip, 80, timeout=5) == 111, "the client is told at once that there is nobody"
    for name in ("rs1", "rs2"):
        lab.ipvsadm(f"-a -t {endpoint(vip, 80)} -r {endpoint(web.rip(lab, name), 80)} {method}")
    answers = [_who(lab, vip) for _ in range(4)]
    assert Counter(name for name, _, _ in answers) == {"rs1": 2, "rs2": 2}
    assert {client for _, client, _ in answers} == {_client(lab, web)}
    assert _who(lab, web.sites[1])[0] == "rs3", "what is no service is routed as before"


def test_transparent_caches(lab: Lab, web: Web) -> None:
    """All of the web by one mark: a site is always asked of the same cache, and of itself when no cache is left."""
    lab.pylvs(f"mark add --dst {web.network} --proto tcp --dport 80 --mark 1")
    lab.pylvs("sysctl -w cache_bypass=1")
    lab.ipvsadm(f"-A {web.mark} -s {'lblc' if web.ipv6 else 'dh'}")
    _direct(lab, web.mark, web, ("rs1", "rs2"))
    first = {site: _who(lab, site) for site in web.sites[:3]}
    assert {who[0] for who in first.values()} <= {"rs1", "rs2"}
    again = web.sites[:2]
    assert {site: _who(lab, site) for site in again} == {site: first[site] for site in again}
    assert all(who[2] == site for site, who in first.items())
    for name in ("rs1", "rs2"):
        lab.ipvsadm(f"-e {web.mark} -r {endpoint(web.rip(lab, name), 0)} -g -w 0")
    assert _who(lab, web.sites[0]) == ["rs3", _client(lab, web), web.sites[0]]
    nowhere = "[::]:0" if web.ipv6 else "0.0.0.0:0"
    shown = lab.ipvsadm("-Lcn").stdout
    assert any(row.split()[-1] == nowhere for row in shown.splitlines()), shown
    lab.pylvs("sysctl -w cache_bypass=0")
    assert lab.connect("client", web.sites[0], 80, timeout=5) == 111


def test_several_ways_out(lab: Lab, web: Web) -> None:
    """Gateways as real servers: whatever comes from the clients, to wherever, takes them by turns."""
    lab.pylvs("mark add --in eth0 --mark 1")
    lab.ipvsadm(f"-A {web.mark} -s rr")
    _direct(lab, web.mark, web, ("rs1", "rs2"))
    answers = [_who(lab, site) for site in web.sites[:4]]
    assert Counter(name for name, _, _ in answers) == {"rs1": 2, "rs2": 2}
    assert [seen for _, _, seen in answers] == list(web.sites[:4])
    lab.ipvsadm(f"-d {web.mark} -r {endpoint(web.rip(lab, 'rs1'), 0)}")
    assert {_who(lab, site)[0] for site in web.sites[:2]} == {"rs2"}
