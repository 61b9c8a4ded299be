"""Real connections through tunnels to real servers that unwrap them. The topology is the lab's `tun`.

What a director's packet path does is done here by a TUN device and some lines of Python, so that it is the real
servers' side that is tested: packets to the VIP leave the director in IPIP, GRE or GUE.

   client -- router -- director: route VIP dev tun0 -> this test -> tap0 of rs1, as from a cable
"""

import fcntl
import hashlib
import json
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pylvs.lab import Lab
from pylvs.lab.lab import console_script
from pylvs.lab.waiting import wait_for
from support.packets import ICMP6, mac
from support.unwrapping import frame, wrap

_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TUN, _IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x0002, 0x1000, 0x4000
_OFFLOADS = 1 | 2 | 4  # checksums and merged TCP of both families are taken as they are
_VIRTIO = struct.Struct(
    "=BBHHHH"
)  # flags, kind of merging, headers' length, size of pieces, checksum's start and place
MTU, PORT = 1300, 9000
families = pytest.mark.parametrize("v6", [False, True], ids=["over4", "over6"])
inners = pytest.mark.parametrize("inner6", [False, True], ids=["inner4", "inner6"])


@pytest.fixture(scope="module")
def tun() -> Iterator[Lab]:
    with Lab("tun", realservers=1) as lab:
        # the VIP's packets shall be forwarded by the director, to tun0
        for family, vip, way in ((4, lab.vip, lab.host("director").ipv4), (6, lab.vip6, lab.host("director").ipv6)):
            bits = 32 if family == 4 else 128
            lab.run("director", f"ip -{family} address del {vip}/{bits} dev eth0")
            lab.run("router", f"ip -{family} route add {vip} via {way}")
        yield lab


def _device(lab: Lab, host: str, name: bytes, kind: int) -> int:
    with lab.enter(host):
        device = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("=16sH22x", name, kind | _IFF_NO_PI | _IFF_VNET_HDR))
    return device


@contextmanager
def director(lab: Lab, wrapping: Callable[[bytes], bytes], merged: bool = False) -> Iterator[None]:
    """Whatever is sent to the VIPs goes to rs1, wrapped; `merged`: as large as it comes, checksums left to devices."""
    device = _device(lab, "director", b"tun0", _IFF_TUN)
    fcntl.ioctl(device, _TUNSETOFFLOAD, _OFFLOADS if merged else 0)
    cable = _device(lab, "rs1", b"tap0", _IFF_TAP)
    lab.run("rs1", "ip link set tap0 up")
    decap = "realserver decap --type ipip --type gre --type gue --vip"
    lab.run("rs1", [*console_script("pylvs"), *decap.split(), lab.vip, "--vip", lab.vip6])
    lab.run("director", f"ip link set tun0 up mtu {MTU}")
    lab.run("director", f"ip route add {lab.vip} dev tun0")
    lab.run("director", f"ip -6 route add {lab.vip6} dev tun0")
    own = mac(json.loads(lab.run("rs1", "ip -json link show tap0").stdout)[0]["address"])
    stop_here, stop_there = os.pipe()

    def work() -> None:
        while stop_here not in select.select([device, stop_here], [], [])[0]:
            packet = os.read(device, 1 << 17)
            flags, kind, headers, pieces, start, place = _VIRTIO.unpack_from(packet)
            inner = packet[_VIRTIO.size :]
            if inner[0] >> 4 == 6 and inner[6] == ICMP6:
                continue  # what IPv6 says of itself on a new device
            sent = frame(wrapping(inner), own)
            more = len(sent) - len(inner)
            shifted = (headers + more if kind else 0, pieces, start + more if flags else 0, place)
            os.write(cable, _VIRTIO.pack(flags, kind, *shifted) + sent)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        yield
    finally:
        os.write(stop_there, b".")
        worker.join()
        for fd in (device, cable, stop_here, stop_there):
            os.close(fd)


def wrapped(lab: Lab, name: str, v6: bool) -> Callable[[bytes], bytes]:
    """What puts a tunnel from the director to rs1 around a packet."""
    rs1, dip = lab.host("rs1"), lab.host("director")
    ends = {"src": dip.ipv6 if v6 else dip.ipv4, "dst": rs1.ipv6 if v6 else rs1.ipv4}
    return lambda inner: wrap(name, inner, v6, **ends)


def counters(lab: Lab) -> dict[str, int]:
    told = json.loads(lab.run("rs1", [*console_script("pylvs"), "realserver", "status", "--json"]).stdout)
    of: dict[str, int] = told["counters"]
    return of


@pytest.mark.parametrize(("v6", "inner6"), [(False, False), (True, False)], ids=["4in4", "4in6"])
@pytest.mark.parametrize("name", ["gre-csum", "gue-csum", "gue-remcsum"])
def test_connections(tun: Lab, name: str, v6: bool, inner6: bool) -> None:
    before = counters(tun)
    with director(tun, wrapped(tun, name, v6)):
        vip = f"[{tun.vip6}]" if inner6 else tun.vip
        said = tun.run("client", f"curl -sS --max-time 10 http://{vip}/who").stdout.split()
        assert said[0] == "rs1"
        assert said[1] == (tun.host("client").ipv6 if inner6 else tun.host("client").ipv4), "the client's own address"
        assert said[3] == (tun.vip6 if inner6 else tun.vip)
        which = f"unwrapped_{name.partition('-')[0]}"  # opened, agreed, asked, and closed when curl is gone already
        wait_for(lambda: counters(tun)[which] >= before[which] + 4, "the client's packets, unwrapped")
    now = counters(tun)
    assert all(now[reason] == before[reason] for reason in now if reason.startswith("dropped"))


@families
@inners
@pytest.mark.parametrize("name", ["ipip", "gre", "gue"])
def test_merged_packets(tun: Lab, name: str, v6: bool, inner6: bool) -> None:
    """What the client's machine has not divided into packets yet, nor made checksums for, comes so to the real server
    of a lab, and of a machine with containers."""
    content = bytes(range(256)) * 4096
    vip, family = (tun.vip6, socket.AF_INET6) if inner6 else (tun.vip, socket.AF_INET)
    digest = hashlib.sha256()

    def serve() -> None:
        with listener.accept()[0] as one:
            one.settimeout(10)
            while piece := one.recv(1 << 17):
                digest.update(piece)
            one.sendall(b"thanks")

    before = counters(tun)
    with tun.socket("rs1", family) as listener, tun.socket("client", family) as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((vip, PORT))
        listener.listen()
        listener.settimeout(10)
        server = threading.Thread(target=serve, daemon=True)
        server.start()
        with director(tun, wrapped(tun, name, v6), merged=True):
            client.settimeout(10)
            client.connect((vip, PORT))
            client.sendall(content)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(100) == b"thanks"
        server.join()
    assert digest.digest() == hashlib.sha256(content).digest()
    now = counters(tun)
    unwrapped = now[f"unwrapped_{name}"] - before[f"unwrapped_{name}"]
    assert 10 < unwrapped < len(content) // MTU // 2, "they were not merged"
    assert all(now[reason] == before[reason] for reason in now if reason.startswith("dropped"))
