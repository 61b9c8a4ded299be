"""net.ipv4.vs.conntrack=1: balanced packets pass the kernel's forwarding, its firewall and its connection tracking.

nat:   client -- director --+-- rs1..rs3      -m    FORWARD sees  CIP -> RIP:rport,  RIP:rport -> CIP
dr:    client -- router --+-- director        -g    FORWARD sees  CIP -> RIP:vport,  and no replies
                          +-- rs1..rs3
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pylvs.lab import Lab, wait_for

from .service import Service
from .test_udp import PORT, RPORT, SIZES, ask, echo

COULD_NOT_CONNECT = 28
STATEFUL = """
table inet filter {
    chain forward {
        type filter hook forward priority filter; policy drop
        ct state established,related counter accept
        ct state new tcp dport 80 accept
        ct state new udp dport { 5300, 5301 } accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    }
}
"""
# of LVS-DR the director sees but one direction, which to conntrack is no connection
STATELESS = STATEFUL.replace("ct state established,related", "ct state invalid,established tcp dport 80").replace(
    "ct state new ", ""
)


@pytest.fixture
def filtered(nat: Lab) -> Iterator[Lab]:
    nat.run("director", ["nft", "-f", "-"], input=STATEFUL)
    nat.pylvs("sysctl -q conntrack=1")
    yield nat
    nat.pylvs("sysctl -q conntrack=0")
    nat.run("director", "nft delete table inet filter")


def test_a_stateful_firewall(filtered: Lab, ipv6: bool) -> None:
    assert Service(filtered, "-m", ipv6=ipv6).add("rs1").get() == "rs1"
    mapped = Service(filtered, "-m", ipv6=ipv6, port=81, rport=80).add("rs1")
    assert mapped.get() == "rs1", "the firewall sees the real server's port"
    refused = Service(filtered, "-m", ipv6=ipv6, port=8080).add("rs1")
    words = ["curl", "-sS", "-m", "0.4", refused.url()]
    assert filtered.run("client", words, check=False).returncode == COULD_NOT_CONNECT
    assert refused.traffic()["rs1"].outpkts == 0
    traffic = mapped.traffic()["rs1"]
    assert traffic.conns == 1 and traffic.inpkts >= 4 and traffic.outpkts >= 3
    assert "established,related counter packets 0 " not in filtered.run("director", "nft list ruleset").stdout


def test_connections_keep_their_way(filtered: Lab, ipv6: bool, tmp_path: Path) -> None:
    """Whichever way the switch is turned, what is under way goes on: one past the firewall, and one through it."""
    service = Service(filtered, "-m", ipv6=ipv6).add("rs1")
    through = service.download(tmp_path / "through", rate="2m")
    through.wait_until(1 << 16)
    filtered.pylvs("sysctl -q conntrack=0")
    past = service.download(tmp_path / "past", rate="2m")
    past.wait_until(1 << 16)
    filtered.pylvs("sysctl -q conntrack=1")
    for one in (through, past):
        one.finish()


def test_direct_routing_with_rules_that_need_no_replies(dr: Lab, ipv6: bool) -> None:
    dr.run("director", ["nft", "-f", "-"], input=STATELESS)
    dr.pylvs("sysctl -q conntrack=1")
    try:
        assert Service(dr, "-g", ipv6=ipv6).add("rs1").get("/who").split()[3] == (dr.vip6 if ipv6 else dr.vip)
        refused = Service(dr, "-g", ipv6=ipv6, port=8080).add("rs1")
        words = ["curl", "-sS", "-m", "0.4", refused.url()]
        assert dr.run("client", words, check=False).returncode == COULD_NOT_CONNECT
    finally:
        dr.pylvs("sysctl -q conntrack=0")
        dr.run("director", "nft delete table inet filter")


def test_datagrams_that_conntrack_puts_together(filtered: Lab, ipv6: bool) -> None:
    """And that are cut again where they leave."""
    service = Service(filtered, "-m", ipv6=ipv6, port=PORT, rport=RPORT, kind="-u").add("rs1")
    with echo(filtered, service, "rs1"):
        assert ask(filtered, service, *map(str, SIZES)) == [[str(size), "True", service.vip] for size in SIZES]
    traffic = service.traffic()["rs1"]
    assert traffic.inpkts == traffic.outpkts == len(SIZES)
    assert traffic.inbytes == traffic.outbytes == sum(SIZES) + (48 if ipv6 else 28) * len(SIZES)


def test_hops_are_counted_once(nat: Lab, tmp_path: Path) -> None:
    """What arrives at the real server has passed one router, by either way."""
    service = Service(nat, "-m").add("rs1")
    words = ["tcpdump", "-n", "-v", "-l", "-c", "2", "-i", "eth0", "tcp[tcpflags] & tcp-syn != 0"]
    seen = []
    for conntrack in (0, 1):
        nat.pylvs(f"sysctl -q conntrack={conntrack}")
        with open(tmp_path / f"{conntrack}", "w+") as said:
            child = nat.popen("rs1", words, stdout=said, stderr=said)
            wait_for(lambda file=tmp_path / f"{conntrack}": "listening on" in file.read_text(), "tcpdump to listen")
            service.get()
            child.wait(timeout=10)
        text = (tmp_path / f"{conntrack}").read_text()
        seen.append(sorted(word.rstrip(",") for line in text.splitlines() if "ttl " in line
                           for word in [line.split("ttl ")[1].split()[0]]))  # fmt: skip
    nat.pylvs("sysctl -q conntrack=0")
    assert seen[0] == seen[1] == ["63", "64"]
