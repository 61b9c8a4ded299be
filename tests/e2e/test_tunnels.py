"""LVS-TUN from end to end: the director's packet path wraps, real servers in another network unwrap, and answer their
clients themselves. The topology is the lab's `tun`.

   client -- router -- director          the router: eth0 to the client, eth1 to the director, eth2 to the real servers
                 \\---- rs1
"""

import hashlib
import itertools
import socket
import threading
from collections.abc import Iterator

import pytest

from pylvs.lab import Lab

PORT = 9000
GUE = "--tun-type gue --tun-port 6080"
KINDS = {"ipip": "", "gre": "--tun-type gre", "gue-csum": f"{GUE} --tun-csum"}
CONTENT = bytes(range(256)) * (1 << 12)


@pytest.fixture(scope="module")
def tun() -> Iterator[Lab]:
    with Lab("tun", realservers=1) as lab:
        yield lab


def _upload(lab: Lab, v6: bool) -> bytes:
    """Send the content to the VIP; the digest of what the real server got."""
    family, vip = (socket.AF_INET6, lab.vip6) if v6 else (socket.AF_INET, lab.vip)
    digest = hashlib.sha256()

    def serve() -> None:
        with listener.accept()[0] as one:
            one.settimeout(10)
            while piece := one.recv(1 << 17):
                digest.update(piece)
            one.sendall(b"thanks")

    with lab.socket("rs1", family) as listener, lab.socket("client", family) as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((vip, PORT))
        listener.listen()
        listener.settimeout(10)
        server = threading.Thread(target=serve, daemon=True)
        server.start()
        client.settimeout(10)
        client.connect((vip, PORT))
        client.sendall(CONTENT)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b"thanks"
        server.join()
    return digest.digest()


@pytest.mark.parametrize(
    ("inner6", "outer6", "kind"),
    [
        pytest.param(inner6, outer6, kind, id=f"{6 if inner6 else 4}in{6 if outer6 else 4}-{kind}")
        for inner6, outer6, kind in itertools.product((False, True), (False, True), KINDS)
    ],
)
def test_every_byte_arrives(tun: Lab, inner6: bool, outer6: bool, kind: str) -> None:
    """At full speed: the client's machine leaves packets merged and checksums to be finished, and they stay so on their
    way through the tunnel."""
    rs1 = tun.host("rs1")
    service = f"[{tun.vip6}]:{PORT}" if inner6 else f"{tun.vip}:{PORT}"
    server = f"[{rs1.ipv6}]:{PORT}" if outer6 else f"{rs1.ipv4}:{PORT}"
    tun.ipvsadm(["-A", "-t", service, "-s", "rr"])
    try:
        tun.ipvsadm(["-a", "-t", service, "-r", server, "-i", *KINDS[kind].split()])
        assert _upload(tun, inner6) == hashlib.sha256(CONTENT).digest()
        rows = tun.ipvsadm(["-Ln", "--stats", "--exact", "-t", service]).stdout.splitlines()
        packets = int(rows[-1].split()[3])
        assert packets < len(CONTENT) // 1400 // 2, "they were not merged"
    finally:
        tun.ipvsadm(["-D", "-t", service])
