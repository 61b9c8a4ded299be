"""What became of a packet, and of a connection."""

from typing import NamedTuple

from pylvs.model import Connection
from support import packets

UP, SHOT, REDIRECT = -1, 2, 7
STAYING = ("forwarded_local", "forwarded_by_stack")
"""What is translated and handed up; or, on its way home, redirected to lo."""


class Result(NamedTuple):
    """What became of a packet."""

    verdict: int
    """What the program told the kernel: -1 handed up, 2 dropped, 7 redirected."""
    frame: bytes
    """The frame after it."""
    reason: str
    """The one name under which it was counted."""
    answers: tuple[str, ...] = ()
    """Of answered_icmp and answered_icmp_limited, what was counted beside it."""

    @property
    def packet(self) -> packets.Packet:
        """The IP packet after it."""
        return packets.dissect(self.frame[14:])

    @property
    def forwarded(self) -> bool:
        return self.reason.startswith("forwarded_")

    @property
    def handed_up(self) -> bool:
        return self.reason.startswith("up_")

    @property
    def dropped(self) -> bool:
        return self.reason.startswith("dropped_")


class Sent(NamedTuple):
    """What the egress program made of a packet."""

    verdict: int
    frame: bytes
    reason: str
    """"": it let it pass."""

    @property
    def packet(self) -> packets.Packet:
        """The IP packet after it."""
        return packets.dissect(self.frame[14:])


class Entry(NamedTuple):
    """A connection with what listings do not show."""

    shown: Connection
    timeout: int
    """Milliseconds from each packet to the end."""
    dest: int
    inactive: bool
