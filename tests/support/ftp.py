"""An FTP control connection through the director, with true sequence numbers on both sides.

    control = Control(lvs, IPV4).opens()
    control.says(b"PASV\r\n")
    assert control.hears(b"227 Passive (10,2,0,1,200,10)\r\n") == b"227 Passive (10,99,0,1,200,10)\r\n"

Every packet that is forwarded must have right checksums, and continue what its receiver has: that is checked here.
"""

from dataclasses import dataclass

from pylvs.model import Connection
from support.harness import Harness, Result
from support.packets import TCP, ip, tcp, wrong_sums
from support.talk import Family, at

WORD = 1 << 32


@dataclass
class Control:
    """One client port, and the real server that it talks to.

    Attributes:
        asked, answered: the next sequence numbers of client and real server, each in its own counting.
        heard: what the client takes for the real server's next one.
    """

    lvs: Harness
    family: Family
    sport: int = 1025
    port: int = 21
    rport: int = 21
    server: str = ""
    asked: int = 1000
    answered: int = 5000
    heard: int = 5000

    def serve(self, *servers: str, options: str = "-m") -> "Control":
        self.lvs.ipvsadm(f"-A -t {at(self.family.vip, self.port)} -s rr")
        for server in servers or (self.family.server,):
            self.lvs.ipvsadm(f"-a -t {at(self.family.vip, self.port)} -r {at(server, self.rport)} {options}")
        return self

    def asks(self, flags: str = "A", payload: bytes = b"", *, ack: int | None = None, options: bytes = b"") -> Result:
        """A packet of the client's, as it is now; nothing is counted on."""
        segment = tcp(
            self.sport, self.port, flags, payload=payload, options=options, seq=self.asked % WORD,
            ack=(self.heard if ack is None else ack) % WORD,
        )  # fmt: skip
        return self._checked(self.lvs.from_client(ip(self.family.client, self.family.vip, TCP, segment)))

    def answers(self, flags: str = "A", payload: bytes = b"", *, seq: int | None = None) -> Result:
        """A packet of the real server's."""
        segment = tcp(
            self.rport, self.sport, flags, payload=payload,
            seq=(self.answered if seq is None else seq) % WORD, ack=self.asked % WORD,
        )  # fmt: skip
        return self._checked(self.lvs.from_server(ip(self.server, self.family.client, TCP, segment)))

    @staticmethod
    def _checked(result: Result) -> Result:
        if result.forwarded:
            assert not wrong_sums(result.frame[14:]), result
        return result

    def opens(self) -> "Control":
        """The handshake, and a greeting."""
        first = self.asks("S", ack=0)
        assert first.reason == "forwarded_nat_request", first
        self.server = first.packet.dst
        self.asked += 1
        assert self.answers("SA").reason == "forwarded_nat_reply"
        self.answered += 1
        self.heard += 1
        assert self.asks().reason == "forwarded_nat_request"
        self.hears(b"220 ready\r\n")
        return self

    def says(self, payload: bytes, options: bytes = b"") -> bytes:
        """The client says something; what the real server gets."""
        result = self.asks("P", payload, options=options)
        assert result.reason == "forwarded_nat_request", result
        assert numbers(result) == (self.asked % WORD, self.answered % WORD)
        self.asked += len(payload)
        return result.packet.payload

    def hears(self, payload: bytes) -> bytes:
        """The real server says something, and the client acknowledges it; what the client gets."""
        result = self.answers("P", payload)
        assert result.reason == "forwarded_nat_reply", result
        assert numbers(result) == (self.heard % WORD, self.asked % WORD)
        self.answered += len(payload)
        self.heard += len(result.packet.payload)
        acknowledged = self.asks()
        assert numbers(acknowledged) == (self.asked % WORD, self.answered % WORD)
        return result.packet.payload

    @property
    def expected(self) -> set[tuple[str, int, int, str, int, str]]:
        """Connections for data: client's address and port, VIP's port, real server's address and port, state."""
        return {
            (c.caddr, c.cport, c.vport, c.daddr, c.dport, c.state)
            for c in self.lvs.director.connections()
            if c.vport != self.port or not c.cport
        }


def numbers(result: Result) -> tuple[int, int]:
    """(sequence number, acknowledged one) of what came out."""
    segment = result.packet.segment
    return int.from_bytes(segment[4:8], "big"), int.from_bytes(segment[8:12], "big")


def data(control: Control, sport: int, port: int, flags: str = "S") -> Result:
    """A client's packet on a connection for data."""
    segment = tcp(sport, port, flags)
    return control.lvs.from_client(ip(control.family.client, control.family.vip, TCP, segment))


def data_back(control: Control, sport: int, dport: int, flags: str = "S", to: str = "") -> Result:
    """A real server's packet on one."""
    segment = tcp(sport, dport, flags)
    return control.lvs.from_server(ip(control.server, to or control.family.client, TCP, segment))


def listed(control: Control, cport: int) -> Connection:
    """The connection from this port of the client."""
    return control.lvs.connections()[control.family.client, cport]
