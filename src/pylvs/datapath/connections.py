"""Reading the connection table: through shared memory, no system call per entry, constant memory."""

from _socket import ntohs
from collections.abc import Iterator

from pylvs.datapath import _layout
from pylvs.datapath.instance import Instance
from pylvs.datapath.layout import CONN
from pylvs.datapath.services import unpack_address
from pylvs.model import TCP, Connection
from pylvs.protocols import tcp, udp

_AT_ONCE = 4096
_FIELDS = {name: index for index, name in enumerate(CONN.names) if not name.startswith("unused")}


def state_name(protocol: int, state: int) -> str:
    """The name that listings show for a state."""
    names = tcp.STATES if protocol == TCP else udp.STATES
    return names[state] if state < len(names) else "ERR!"


def connections(instance: Instance) -> Iterator[Connection]:
    """Every connection whose time is not over, in no particular order."""
    position = [_FIELDS[name] for name in ("expires", "status", "packets", "life", "cport", "vport", "dport",
                                           "protocol", "family", "fwmark", "daddr", "caddr", "vaddr")]  # fmt: skip
    number, high = 0, min(instance.runtime.get(0, "fresh"), instance.conns.entries)
    while number < high:
        count = min(_AT_ONCE, high - number)
        now = instance.now()
        for record in CONN.iterate(instance.conns.read(number, count)):
            (expires, status, packets, life, cport, vport, dport,
             protocol, family, fwmark, daddr, caddr, vaddr) = (record[p] for p in position)  # fmt: skip
            if life != _layout.CONN_LIVE or expires <= now:
                continue
            yield Connection(
                family, protocol,
                unpack_address(caddr, family), ntohs(cport),
                unpack_address(vaddr, family), ntohs(vport),
                unpack_address(daddr, family), ntohs(dport),
                state_name(protocol, status & 0xFF),
                (expires - now) // 1_000_000,
                status >> 8 & _layout.CONN_METHOD,
                packets=packets,
                fwmark=fwmark,
            )  # fmt: skip
        number += count
