"""Persistent services for the packet tests: defining one, asking it as a client, and what templates there are."""

from pylvs.model import Connection
from support.harness import Harness
from support.packets import UDP, ip, tcp, udp
from support.talk import Talk


def serve(talk: Talk, count: int = 3, options: str = "-p 300", method: str = "-m") -> Talk:
    """A persistent service, round robin: without persistence each new connection would go to another real server."""
    talk.lvs.ipvsadm(f"-A {talk.key} -s rr {options}")
    for server in talk.family.servers[:count]:
        talk.add(server, method)
    return talk


def ask(talk: Talk, client: str, sport: int = 1025, flags: str = "S") -> str:
    """The real server to which a client's packet goes; or what became of it."""
    segment = udp(sport, talk.port, b"x") if talk.protocol == UDP else tcp(sport, talk.port, flags)
    result = talk.lvs.from_client(ip(client, talk.family.vip, talk.protocol, segment))
    return result.packet.dst if result.forwarded else result.reason


def templates(lvs: Harness) -> list[Connection]:
    return [c for c in lvs.director.connections() if c.template]


def destination(talk: Talk, server: str) -> tuple[int, int, int]:
    """(active, inactive, persistent) connections of a real server."""
    [found] = [d for s in talk.lvs.director.services() for d in s.destinations if d.server.address == server]
    return found.active, found.inactive, found.persistent


SIP = (
    b"REGISTER sip:example.test SIP/2.0\r\nVia: SIP/2.0/UDP client\r\nCall-ID: %s\r\n"
    b"CSeq: 1 REGISTER\r\nContent-Length: 0\r\n\r\n"
)


def say(talk: Talk, call: bytes, client: str = "", sport: int = 5060, text: bytes = SIP) -> str:
    message = text % call if b"%s" in text else text
    segment = udp(sport, talk.port, message)
    result = talk.lvs.from_client(ip(client or talk.family.client, talk.family.vip, UDP, segment))
    return result.packet.dst if result.forwarded else result.reason
