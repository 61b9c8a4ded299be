"""TCP through the director: curl, nginx.

nat:         client ------------ director --+-- rs1..rs3      -m, replies through the director
nat-router:  client -- router -- director --+-- rs1..rs3      -m, the same behind a router
dr:          client -- router --+-- director                  -g, replies rs -> router -> client
                                +-- rs1..rs3

And with net.ipv4.vs.conntrack=1, where packets pass the stack's forwarding in between: that makes no difference.
"""

from collections import Counter
from pathlib import Path

from pylvs.lab import Lab, wait_for

from .conftest import BOTH_WAYS, EVERYWHERE
from .service import Service


@EVERYWHERE
def test_round_robin_gives_each_real_server_its_turn(any_lab: Lab, method: str, ipv6: bool) -> None:
    service = Service(any_lab, method, ipv6=ipv6).add()
    answers = [service.get() for _ in range(9)]
    assert Counter(answers) == {"rs1": 3, "rs2": 3, "rs3": 3}
    assert answers[:3] == answers[3:6] == answers[6:]


@EVERYWHERE
def test_who_sees_whom(any_lab: Lab, method: str, ipv6: bool) -> None:
    """The real server sees the client itself; with NAT it was asked on the RIP, with DR on the VIP."""
    service = Service(any_lab, method, ipv6=ipv6).add("rs2")
    client = any_lab.host("client")
    name, cip, _, asked, port = service.get("/who").split()
    assert (name, cip, port) == ("rs2", client.ipv6 if ipv6 else client.ipv4, "80")
    assert asked == (service.rip("rs2") if method == "-m" else service.vip)


@BOTH_WAYS
def test_nat_maps_the_port(nat: Lab, ipv6: bool) -> None:
    service = Service(nat, "-m", ipv6=ipv6, rport=8080).add("rs1")
    assert service.get("/who").split()[4] == "8080"


def test_the_director_keeps_account(any_lab: Lab, method: str, ipv6: bool, tmp_path: Path) -> None:
    """ActiveConn while the connection is open, InActConn afterwards; packets and bytes of each direction it sees."""
    service = Service(any_lab, method, ipv6=ipv6).add("rs1")
    before = service.counts()["rs1"]
    assert service.traffic()["rs1"] == (0, 0, 0, 0, 0)
    download = service.download(tmp_path / "big", rate="4m")
    wait_for(lambda: service.counts()["rs1"].active == 1, "the connection to be active")
    download.finish()
    after = wait_for(lambda: (c := service.counts()["rs1"]).active == 0 and c, "the connection to be inactive")
    assert after.inactive == before.inactive + 1
    traffic = service.traffic()["rs1"]
    assert traffic.conns == 1
    assert traffic.inpkts > 10 and traffic.inbytes > 40 * traffic.inpkts
    if method == "-m":
        assert traffic.outpkts > 10 and traffic.outbytes > 4 << 20
    else:
        assert traffic.outpkts == traffic.outbytes == 0, "the replies of DR do not pass the director"


@EVERYWHERE
def test_the_connection_is_on_the_list(any_lab: Lab, method: str, ipv6: bool) -> None:
    service = Service(any_lab, method, ipv6=ipv6).add("rs3")
    port = service.get("/who").split()[2]
    client = any_lab.host("client")
    cip = f"[{client.ipv6}]" if ipv6 else client.ipv4
    lines = any_lab.ipvsadm("-Lnc").stdout.splitlines()
    mine = [line.split() for line in lines if f"{cip}:{port} " in line]
    assert len(mine) == 1
    protocol, _, state, _, virtual, destination = mine[0][:6]
    assert (protocol, virtual, destination) == ("TCP", service.address, service.server("rs3"))
    assert state in ("FIN_WAIT", "TIME_WAIT", "CLOSE_WAIT", "LAST_ACK", "CLOSE")
