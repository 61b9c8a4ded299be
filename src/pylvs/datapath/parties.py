"""Addresses to or from which fragments could be ours: those of virtual services, and of LVS-NAT real servers.

Only the first fragment of a datagram has ports, so of the others the packet path asks here whether they can concern it
at all. What is not in here it hands up at once; a bit that is set for nothing costs a look more. So bits are set before
what needs them is to be seen, and none is ever taken back: connections outlive their services.
"""

import struct

from pylvs.datapath import _layout
from pylvs.datapath.instance import Instance
from pylvs.datapath.layout import SERVICE_KEY
from pylvs.datapath.records import pack_address
from pylvs.model import MASQ, RealServer


def invite(instance: Instance, address: bytes) -> None:
    """Let fragments to or from an address be looked at; 16 bytes, as records have it."""
    first, second, third, fourth = struct.unpack("=4I", address)
    bit = ((first ^ second ^ third ^ fourth) * _layout.PARTY_FACTOR & 0xFFFFFFFF) >> 16
    words = instance.parties
    words.put(bit // 64, "bits", words.get(bit // 64, "bits") | 1 << bit % 64)


def invite_service(instance: Instance, key: bytes) -> None:
    """The same for a virtual service; with one by firewall mark all addresses are of interest, while it is there."""
    if not SERVICE_KEY.get(key, 0, "fwmark"):
        invite(instance, SERVICE_KEY.get(key, 0, "address"))


def invite_server(instance: Instance, server: RealServer) -> None:
    """The same for a real server's replies."""
    if server.method == MASQ:
        invite(instance, pack_address(server.address))
