"""Bytes from a lab's client to a VIP, by TCP and by UDP, and whether its real server got them as they were."""

import socket
import threading
import zlib

from pylvs.lab import Lab

MEGABYTE = bytes(range(256)) * (1 << 12)
SECONDS = 10


def upload(lab: Lab, vip: str, port: int, size: int = len(MEGABYTE), at: str = "", seconds: float = SECONDS) -> None:
    """Send so much to a VIP; rs1, which listens at this address (the VIP), must get all of it as it is."""
    family = socket.AF_INET6 if ":" in vip else socket.AF_INET
    got = [0, 0]  # bytes, and their CRC

    def serve() -> None:
        with listener.accept()[0] as one:
            one.settimeout(seconds)
            while piece := one.recv(1 << 20):
                got[:] = got[0] + len(piece), zlib.crc32(piece, got[1])
            one.sendall(b"thanks")

    with lab.socket("rs1", family) as listener, lab.socket("client", family) as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((at or vip, port))
        listener.listen()
        listener.settimeout(seconds)
        server = threading.Thread(target=serve, daemon=True)
        server.start()
        client.settimeout(seconds)
        client.connect((vip, port))
        sent = left = 0
        for left in range(size, 0, -len(MEGABYTE)):
            piece = MEGABYTE[:left]
            client.sendall(piece)
            sent = zlib.crc32(piece, sent)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b"thanks"
        server.join()
    assert got == [size, sent]


def datagram(lab: Lab, vip: str, port: int, content: bytes, at: str = "", seconds: float = SECONDS) -> None:
    """Send it to a VIP by UDP; rs1 must get it, and its answer must come from there."""
    family = socket.AF_INET6 if ":" in vip else socket.AF_INET
    with (
        lab.socket("rs1", family, socket.SOCK_DGRAM) as server,
        lab.socket("client", family, socket.SOCK_DGRAM) as client,
    ):
        server.bind((at or vip, port))
        server.settimeout(seconds)
        client.settimeout(seconds)
        client.connect((vip, port))
        client.send(content)
        heard, sender = server.recvfrom(1 << 16)
        assert heard == content
        server.sendto(heard[::-1], sender)
        assert client.recv(1 << 16) == content[::-1]
