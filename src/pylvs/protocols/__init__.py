"""Protocol states, transitions and timeouts, as data (facts section 3). The packet path gets them at load."""

from pylvs.protocols import sctp, tcp, udp

STATES = {6: tcp.STATES, 17: udp.STATES, 132: sctp.STATES}
"""The names of a protocol's states, by its number and theirs."""
