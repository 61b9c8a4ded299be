"""Packets of which a device has told the sum over all that is in them (CHECKSUM_COMPLETE), as network cards do. Here
VXLAN is that device: the kernel has verified the outer UDP checksum, and knows from that what is inside.

    c0 -- d0 --- vx0 | director | d1 -- r0          heard.bpf.c listens at c0 and r0
"""

import struct
from collections.abc import Iterable
from typing import NamedTuple

from pylvs.datapath import interfaces, netlink, syscall
from pylvs.datapath import object as loader
from pylvs.datapath.object import Object
from pylvs.lab.waiting import wait_for
from support.crowd import built
from support.harness import CLIENT, Harness, frame, ip
from support.packets import UDP, ether, udp
from support.packets import ip as packet_ip

PORT, VNI = 4789, 7
_HEARD = struct.Struct("=QQQ")
_MAC, _SENDER = bytes.fromhex("02000000000a"), bytes.fromhex("02000000000b")


class Heard(NamedTuple):
    """Packets; those with a sum; those with a wrong one."""

    packets: int
    told: int
    wrong: int


class Complete:
    """Use as a context manager, in a director's network namespace."""

    def __init__(self, lvs: Harness):
        self._lvs = lvs
        ip(
            f"link add vx0 type vxlan id {VNI} local 10.0.1.1 dev d0 dstport {PORT}\n"
            f"link set vx0 address {_MAC.hex(':')}\nlink set vx0 up"
        )
        lvs.director.set_timeouts(lvs.director.timeouts())
        assert interfaces.find("vx0").ifindex in lvs.instance.attached()
        self._object = Object("heard", {}, {}, {}, built("heard"))
        with lvs.among_peers():
            self._ends = {one.name: one.ifindex for one in netlink.interfaces() if one.name in ("c0", "r0")}
            for ifindex in self._ends.values():
                loader.clsact_attach(self._object.programs["hear"], ifindex)

    def __enter__(self) -> "Complete":
        return self

    def __exit__(self, *_: object) -> None:
        with self._lvs.among_peers():
            for ifindex in self._ends.values():
                loader.clsact_detach(ifindex)
        self._object.close()
        ip("link del vx0")

    def comes(self, packets: Iterable[bytes], leaves: int = 0) -> Heard:
        """Let packets come by VXLAN; what was heard of what left the director then: so many packets (0: as many)."""
        sent, before = list(packets), self.heard
        with self._lvs.cable(CLIENT) as cable:
            for packet in sent:
                inner = struct.pack("!II", 0x08000000, VNI << 8) + ether(packet, _MAC, _SENDER)
                outer = packet_ip("10.0.1.2", "10.0.1.1", UDP, udp(5555, PORT, inner))
                cable.send(frame(outer, CLIENT))
        count = before.packets + (leaves or len(sent))
        wait_for(lambda: self.heard.packets >= count, f"{leaves or len(sent)} packets to leave")
        return Heard(*(now - then for now, then in zip(self.heard, before, strict=True)))

    @property
    def heard(self) -> Heard:
        value = syscall.map_lookup(self._object.maps["heard"], bytes(4), _HEARD.size)
        assert value is not None
        return Heard(*_HEARD.unpack(value))
