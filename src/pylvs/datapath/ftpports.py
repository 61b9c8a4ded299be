"""On which ports the FTP helper reads along: the kernel's `modprobe ip_vs_ftp ports=21,2121` (facts section 10).

They are two rows in the configuration, of which one is in force: a change fills the other and then moves this, so that
packets see all of it or nothing. A connection is one that the helper reads along on, or not, from its birth to its end.
"""

from _socket import htons, ntohs
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pylvs.datapath._layout import FTP_PORTS
from pylvs.errors import InvalidValue

if TYPE_CHECKING:
    from pylvs.datapath.instance import Instance

DEFAULT = (21,)
MOST = FTP_PORTS


def checked(ports: Iterable[int]) -> tuple[int, ...]:
    """The same ports, each once, in their order.

    Raises:
        InvalidValue: one is not 1 to 65535, or there are more than 8.
    """
    found = tuple(dict.fromkeys(ports))
    for port in found:
        if not 1 <= port <= 65535:
            raise InvalidValue(f"the FTP helper cannot read along on port {port}; it may be 1 to 65535")
    if len(found) > MOST:
        raise InvalidValue(
            f"the FTP helper reads along on at most {MOST} ports, as the kernel's; {len(found)} are given"
        )
    return found


def row(ports: Iterable[int]) -> tuple[int, ...]:
    """Ports as one row of the configuration."""
    filled = [htons(port) for port in ports]
    return (*filled, *[0] * (MOST - len(filled)))


def read(running: "Instance") -> tuple[int, ...]:
    """The ports in force."""
    config = running.config
    first = config.get(0, "ftp_row") * MOST
    return tuple(ntohs(port) for port in config.get(0, "ftp_ports")[first : first + MOST] if port)


def write(running: "Instance", ports: Iterable[int]) -> None:
    """Put others in force, in one store. The caller holds the lock."""
    config = running.config
    other = 1 - config.get(0, "ftp_row")
    both = list(config.get(0, "ftp_ports"))
    both[other * MOST : (other + 1) * MOST] = row(ports)
    config.put(0, "ftp_ports", both)
    config.put(0, "ftp_row", other)
