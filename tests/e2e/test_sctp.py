"""Real SCTP associations through the director: the kernel's SCTP at both ends, LVS-NAT and LVS-DR.

   client  --- VIP:3868, SCTP --->  director  --- rs1, rs2, rs3 (LVS-NAT: port 3869; LVS-DR: the VIP itself)

Each end is bound to the one address that the other is to know it by: SCTP names its addresses in its first packets, and
no director changes those.
"""

import random
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from pylvs.lab import Lab
from pylvs.lab.waiting import wait_for

from .conftest import BOTH_WAYS, forwarding
from .service import Service

SCTP, PORT, RPORT = 132, 3868, 3869
SECONDS = 20


def _speaks_sctp() -> bool:
    try:
        subprocess.run(["modprobe", "sctp"], capture_output=True, check=False)
    except FileNotFoundError:
        pass  # then it is there, or it is not
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, SCTP).close()
    except OSError:
        return False
    return True


pytestmark = pytest.mark.skipif(not _speaks_sctp(), reason="this kernel has no SCTP")


@pytest.fixture(scope="module")
def bare_labs() -> Iterator[dict[str, Lab]]:
    """Without nginx and dnsmasq: the real servers are ours."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(Lab(name, serve=False)) for name in ("nat", "dr")}


@pytest.fixture(params=["nat", "dr"])
def lab(request: pytest.FixtureRequest, bare_labs: dict[str, Lab], by_stack: bool) -> Iterator[Lab]:
    found = bare_labs[request.param]
    with forwarding(found, by_stack, strict=request.param == "nat"):
        yield found
    found.ipvsadm("-C")
    found.pylvs("conns flush --all")


@pytest.fixture
def service(lab: Lab, ipv6: bool) -> Service:
    nat = lab.topology.name == "nat"
    return Service(
        lab, "-m" if nat else "-g", ipv6=ipv6, port=PORT, rport=RPORT if nat else PORT, kind="--sctp-service"
    ).add("rs1")


@pytest.fixture
def plain_service(bare_labs: dict[str, Lab]) -> Iterator[Service]:
    """LVS-NAT over IPv4."""
    lab = bare_labs["nat"]
    yield Service(lab, "-m", port=PORT, rport=RPORT, kind="--sctp-service").add("rs1")
    lab.ipvsadm("-C")
    lab.pylvs("conns flush --all")


def _socket(lab: Lab, host: str, address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with lab.enter(host):
        one = socket.socket(family, socket.SOCK_STREAM, SCTP)
    one.settimeout(SECONDS)
    return one


@contextmanager
def listening(service: Service, name: str = "rs1") -> Iterator[socket.socket]:
    """A real server that returns what it gets."""
    address = service.rip(name) if service.method == "-m" else service.vip
    with _socket(service.lab, name, address) as listener:
        listener.bind((address, service.rport))
        listener.listen(8)
        yield listener


def _echo(listener: socket.socket, count: int) -> None:
    one, _ = listener.accept()
    with one:
        one.settimeout(SECONDS)
        while count:
            data = one.recv(1 << 16)
            if not data:
                return
            one.sendall(data)
            count -= len(data)


def _dial(service: Service) -> socket.socket:
    host = service.lab.host("client")
    address = host.ipv6 if service.ipv6 else host.ipv4
    one = _socket(service.lab, "client", address)
    one.bind((address, 0))
    one.connect((service.vip, PORT))
    return one


def _listed(service: Service) -> list[str]:
    return [line for line in service.lab.ipvsadm("-Lcn").stdout.splitlines() if line.startswith("SCTP")]


def _wrong_sums(lab: Lab) -> int:
    found = 0
    for host in ("client", "rs1"):
        for line in lab.run(host, "cat /proc/net/sctp/snmp").stdout.splitlines():
            if line.startswith("SctpChecksumErrors"):
                found += int(line.split()[1])
    return found


@contextmanager
def _sums_by(lab: Lab, whom: str) -> Iterator[None]:
    """Let the devices make the sums, as they do by default, or those that send."""
    ends = [("client", "eth0"), ("rs1", "eth0")]
    if whom == "sender" and shutil.which("ethtool") is None:
        pytest.skip("there is no ethtool to switch offloading off")
    try:
        for host, interface in ends if whom == "sender" else ():
            lab.run(host, f"ethtool -K {interface} tx-checksum-sctp off")
        yield
    finally:
        for host, interface in ends if whom == "sender" else ():
            lab.run(host, f"ethtool -K {interface} tx-checksum-sctp on")


@BOTH_WAYS
@pytest.mark.parametrize("whom", ["device", "sender"])
def test_an_association(service: Service, whom: str) -> None:
    """Handshake, messages of many sizes both ways, an orderly end; and the director saw each step."""
    lab, luck = service.lab, random.Random(whom)
    if whom == "sender" and service.method == "-g":
        pytest.skip("LVS-DR touches no sum")
    wrong = _wrong_sums(lab)
    sizes = [1, 3, 4, 1400, 1452, 1453, 4000, 20_000, 60_000, *(luck.randrange(1, 9000) for _ in range(12))]
    with _sums_by(lab, whom), listening(service) as listener:
        server = threading.Thread(target=_echo, args=(listener, sum(sizes)))
        server.start()
        with _dial(service) as client:
            [line] = _listed(service)
            assert " ESTABLISHED " in line
            assert service.counts()["rs1"].active == 1
            for size in sizes:
                message, back = luck.randbytes(size), b""
                client.sendall(message)
                while len(back) < size:
                    more = client.recv(1 << 16)
                    assert more
                    back += more
                assert back == message
        server.join(SECONDS)
        assert not server.is_alive()
    wait_for(lambda: service.counts()["rs1"].active == 0, "the director to see the end")
    [line] = _listed(service)
    # through LVS-DR the director does not hear the real server's last word
    assert line.split()[2] in ("CLOSED", "S-RECEIVED", "S-ACK-SENT", "S-SENT")
    traffic = service.traffic()["rs1"]
    assert traffic.conns >= 1 and traffic.inbytes > sum(sizes)
    assert _wrong_sums(lab) == wrong


def test_associations_are_spread(plain_service: Service) -> None:
    service = plain_service
    service.add_server("rs2")
    with ExitStack() as stack:
        listeners = {name: stack.enter_context(listening(service, name)) for name in ("rs1", "rs2")}
        clients = [stack.enter_context(_dial(service)) for _ in range(4)]
        for listener in listeners.values():
            for _ in range(2):
                stack.enter_context(listener.accept()[0])
        assert len(clients) == 4
        assert {name: service.counts()[name].active for name in listeners} == {"rs1": 2, "rs2": 2}


def test_nobody_listens(plain_service: Service) -> None:
    """The real server's ABORT reaches the client, with the VIP's name on it."""
    with pytest.raises(ConnectionRefusedError):
        _dial(plain_service)
