"""Clients that are never told how long a packet gets through a tunnel: routers that lose ICMP are common. So the real
server tells them how long their segments may be, `pylvs realserver decap --clamp-mss`. The topology is the lab's `tun`.

   client -- router -- director          the router drops what the director says about packets that are too big
                 \\---- rs1 ... rs5       rs1 unwraps, and answers the client itself
"""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator

import pytest

from pylvs.lab import Lab
from pylvs.lab.lab import console_script

PORT = 9000
MEGABYTE = bytes(range(256)) * (1 << 12)
LOSSY = """
table inet lossy {
  chain forward {
    type filter hook forward priority 0
    icmp type destination-unreachable icmp code frag-needed counter drop
    icmpv6 type packet-too-big counter drop
  }
}
"""


@pytest.fixture(scope="module")
def lossy() -> Iterator[Lab]:
    with Lab("tun", realservers=1) as lab:
        lab.run("router", ["nft", "-f", "-"], input=LOSSY)
        yield lab


def _decap(lab: Lab, *words: str) -> None:
    lab.run("rs1", [*console_script("pylvs"), "realserver", "decap", *words])


@contextlib.contextmanager
def _upload(lab: Lab, ipv6: bool) -> Iterator[tuple[socket.socket, list[int]]]:
    """A connection from the client to the VIP; and how many bytes rs1 has got so far, and 1 behind it at the end."""
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    vip, got = lab.vip6 if ipv6 else lab.vip, [0, 0]

    def serve() -> None:
        with contextlib.suppress(OSError), listener.accept()[0] as one:
            while piece := one.recv(1 << 20):
                got[0] += len(piece)
            got[1] = 1
            one.sendall(b"thanks")

    with lab.socket("rs1", family) as listener, lab.socket("client", family) as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((vip, PORT))
        listener.listen()
        server = threading.Thread(target=serve, daemon=True)
        server.start()
        client.settimeout(20)
        client.connect((vip, PORT))
        try:
            yield client, got
        finally:
            client.close()
            server.join(5)


def _told(client: socket.socket) -> int:
    return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)


@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("kind", ["", "--tun-type gre --tun-csum", "--tun-type gue --tun-port 6080"])
def test_100_megabytes_without_path_mtu_discovery(lossy: Lab, kind: str, ipv6: bool) -> None:
    lab, rs1 = lossy, lossy.host("rs1")
    vip, rip = (f"[{lab.vip6}]", f"[{rs1.ipv6}]") if ipv6 else (lab.vip, rs1.ipv4)
    types = ("--type", "ipip", "--type", "gre", "--port", "6080")
    vips = ("--vip", lab.vip, "--vip", lab.vip6)
    lab.ipvsadm("-R", input=f"-A -t {vip}:{PORT} -s rr\n-a -t {vip}:{PORT} -r {rip}:{PORT} -i {kind}\n")
    try:
        _decap(lab, *types, *vips)
        with _upload(lab, ipv6) as (client, got):
            client.settimeout(1)
            with pytest.raises(TimeoutError):
                for _ in range(100):
                    client.sendall(MEGABYTE)
            assert got == [0, 0], "nothing of full length gets there"
        _decap(lab, *types, *vips, "--clamp-mss", "auto")
        with _upload(lab, ipv6) as (client, got):
            assert _told(client) <= 1500 - 40 - 12 - (60 if ipv6 else 40)
            for _ in range(100):
                client.sendall(MEGABYTE)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(100) == b"thanks"
            assert got == [100 * len(MEGABYTE), 1]
        shown = json.loads(lab.run("rs1", [*console_script("pylvs"), "realserver", "status", "--json"]).stdout)
        assert shown["counters"]["clamped"] >= 1
    finally:
        lab.ipvsadm("-C")
