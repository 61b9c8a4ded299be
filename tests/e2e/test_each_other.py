"""Two directors that are each other's real servers, by tunnels: what one has sent to the other is not sent back. The
topology is the lab's `tun`, with a director on rs1, too.

   client -- router -- director          both unwrap, both have the VIP and a service on it,
                 \\---- rs1               and each has the other as its only real server
"""

import json
import socket
from collections.abc import Iterator

import pytest

from pylvs.lab import Lab
from pylvs.lab.lab import console_script

PORT = 9000


@pytest.fixture(scope="module")
def pair() -> Iterator[Lab]:
    with Lab("tun", realservers=1) as lab:
        rs1, director = lab.host("rs1"), lab.host("director")
        # on the director decap comes behind the packet path, on rs1 before it
        for vip, rip, dip in (
            (lab.vip, rs1.ipv4, director.ipv4),
            (f"[{lab.vip6}]", f"[{rs1.ipv6}]", f"[{director.ipv6}]"),
        ):
            for name, other in (("director", rip), ("rs1", dip)):
                lab.run(name, [*console_script("ipvsadm"), "-A", "-u", f"{vip}:{PORT}", "-s", "rr"])
                lab.run(name, [*console_script("ipvsadm"), "-a", "-u", f"{vip}:{PORT}", "-r", f"{other}:{PORT}", "-i"])
        lab.pylvs(f"realserver decap --vip {lab.vip} --vip {lab.vip6}")
        yield lab
        lab.run("rs1", [*console_script("pylvs"), "unload"])


def _reasons(lab: Lab, name: str) -> dict[str, int]:
    said = json.loads(lab.run(name, [*console_script("pylvs"), "status", "--json"]).stdout)
    return {reason: count for reason, count in said["packets"].items() if count}


@pytest.mark.parametrize("ignore", [0, 1])
@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("first", ["director", "rs1"])
def test_no_packet_goes_to_and_fro(pair: Lab, first: str, ipv6: bool, ignore: int) -> None:
    lab, last = pair, "rs1" if first == "director" else "director"
    family, vip = (socket.AF_INET6, lab.vip6) if ipv6 else (socket.AF_INET, lab.vip)
    way = lab.host(first).ipv6 if ipv6 else lab.host(first).ipv4
    for name in ("director", "rs1"):
        lab.run(name, [*console_script("pylvs"), "sysctl", f"ignore_tunneled={ignore}"])
    before = {name: _reasons(lab, name).get("forwarded_tunnel", 0) for name in ("director", "rs1")}
    lab.run("router", f"ip route replace {vip} via {way}")
    try:
        with (
            lab.socket(last, family, socket.SOCK_DGRAM) as server,
            lab.socket("client", family, socket.SOCK_DGRAM) as client,
        ):
            server.bind((vip, PORT))
            server.settimeout(5)
            for number in range(10):
                client.sendto(bytes([number]), (vip, PORT))
                assert server.recv(10) == bytes([number])
    finally:
        lab.run(
            "router", f"ip route replace {vip} via {lab.host('director').ipv6 if ipv6 else lab.host('director').ipv4}"
        )
    after = {name: _reasons(lab, name).get("forwarded_tunnel", 0) for name in ("director", "rs1")}
    assert after[first] - before[first] == 10
    assert after[last] == before[last], "sent back"
