"""Interfaces without a link-layer header: a director with a tun on each side.

client -- t0 | director | t1 -- real server          and the two Ethernet interfaces of the Harness beside them
"""

import fcntl
import os
import select
import struct
from collections.abc import Iterator

import pytest

from support.harness import Harness, ip
from support.packets import Packet, dissect

_TUNSETIFF, _TUNSETLINK, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x400454CD, 0x0001, 0x1000
PATIENCE = 10  # seconds


class Tun:
    """An interface of the namespace that we are in, and its other end."""

    def __init__(self, name: str, hardware: int = 0) -> None:
        """`hardware`: the ARPHRD number of what it passes itself off as."""
        self.name = name
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
        if hardware:
            fcntl.ioctl(self.fd, _TUNSETLINK, hardware)
        ip(f"link set {name} up mtu 1500")

    def comes(self, packet: bytes) -> None:
        os.write(self.fd, packet)

    def gets(self) -> Packet:
        """The next packet that leaves by it, but for what the stack says of its own accord."""
        while True:
            ready, _, _ = select.select([self.fd], [], [], PATIENCE)
            assert ready, f"nothing has left by {self.name}"
            packet = dissect(os.read(self.fd, 65536))
            if packet.protocol not in (0, 58) or packet.icmp[0] < 128:
                return packet

    def close(self) -> None:
        os.close(self.fd)


@pytest.fixture
def tuns(own_network: Harness) -> Iterator[tuple[Harness, Tun, Tun]]:
    """A director with a tun towards clients and one towards real servers, attached to both."""
    lvs = own_network
    lvs.enter()
    client, server = Tun("t0"), Tun("t1")
    try:
        lvs.reload()
        ip(
            "route replace 10.1.0.0/16 dev t0\nroute replace 10.2.0.0/16 dev t1\n"
            "route replace fd00:1::/64 dev t0\nroute replace fd00:2::/64 dev t1"
        )
        yield lvs, client, server
    finally:
        client.close()
        server.close()
        ip(
            "route replace 10.1.0.0/16 via 10.0.1.2\nroute replace 10.2.0.0/16 via 10.0.2.2\n"
            "route replace fd00:1::/64 via fd00:a1::2\nroute replace fd00:2::/64 via fd00:a2::2"
        )
        lvs.leave()
