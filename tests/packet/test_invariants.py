"""What holds for any packet by any forwarding method, whatever is edited meanwhile:

- checksums are right if they were when the packet came, and wrong if they were wrong;
- a request has one hop less and is as long as it was; what a tunnel adds is its headers and nothing else;
- what leaves goes to the client, or to a real server that the service has: never to one that was removed (facts 2.9);
  but an ICMP error about a reply is for whoever sent the reply (facts 6.10 ask for no more than the connection).

Each example is a short story of one service with three real servers, each with a method of its own.
"""

from collections.abc import Iterator
from typing import NamedTuple, cast

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from support.forwarding import ByStack
from support.fragments import cut, join
from support.harness import MACS, Harness, Result, ip
from support.packets import (
    DESTINATION,
    FRAGMENT,
    HOP_BY_HOP,
    SCTP,
    TCP,
    UDP,
    dissect,
    icmp_error,
    mac,
    wrong_sums,
)
from support.talk import FAMILIES, IPV4, Family, Talk, at
from support.tunnels import unwrap, wrong_ipv4_header, wrong_tunnel_sums

GUE = "-i --tun-type gue --tun-port 6080"
METHODS = {
    "nat": "-m", "dr": "-g", "ipip": "-i", "gre": "-i --tun-type gre", "gre-csum": "-i --tun-type gre --tun-csum",
    "gue": GUE, "gue-csum": f"{GUE} --tun-csum", "gue-remcsum": f"{GUE} --tun-remcsum",
}  # fmt: skip
EXTRA = {"ipip": 0, "gre": 4, "gre-csum": 8, "gue": 12, "gue-csum": 12, "gue-remcsum": 12}
SERVERS = {4: [f"10.0.2.{n}" for n in (11, 12, 13)], 6: [f"fd00:a2::{n}" for n in (11, 12, 13)]}
"""On the director's own network, so that frames tell whom they are for."""
HARDWARE = [mac(f"02:00:00:00:01:0{n}") for n in range(3)]
FIRST = {TCP: "S", UDP: "", SCTP: "INIT"}
PORTS = (1025, 1026, 1027)
TOO_BIG = {4: (3, 4), 6: (2, 0)}


@pytest.fixture
def neighbours(lvs: Harness) -> Iterator[None]:
    known = [f"{address} {{}} dev d1" for addresses in SERVERS.values() for address in addresses]
    links = [hardware.hex(":") for hardware in HARDWARE] * 2
    ip("".join(f"neigh replace {words.format('lladdr ' + link)}\n" for words, link in zip(known, links, strict=True)))
    yield
    ip("".join(f"neigh del {words.format('')}\n" for words in known))


class Server(NamedTuple):
    """A real server: its method, and the family in which it is reached."""

    method: str
    address: str
    port: int
    outer: Family

    @property
    def words(self) -> str:
        return f"-r {at(self.address, self.port)} {METHODS[self.method]}"


class Story:
    """A service, its real servers, and what must be true of each packet that leaves."""

    def __init__(self, lvs: Harness, data: st.DataObject, by_stack: bool):
        if by_stack:
            hardware = {one: link for all in SERVERS.values() for one, link in zip(all, HARDWARE, strict=True)}
            lvs = cast(Harness, ByStack(lvs, hardware))
        lvs.reset()
        self.lvs, self.data = lvs, data
        self.family: Family = data.draw(st.sampled_from(FAMILIES))
        self.protocol = data.draw(st.sampled_from([TCP, UDP, SCTP]))
        self.talk = Talk(lvs, self.family, self.protocol)
        self.servers = [self._server(number) for number in range(3)]
        lvs.ipvsadm(f"-A {self.talk.key} -s {data.draw(st.sampled_from(['rr', 'wlc', 'sh']))}")
        self.present: set[Server] = set()
        self.asked: dict[int, Server] = {}
        for server in self.servers:
            self.edit(server)

    def _server(self, number: int) -> Server:
        method = self.data.draw(st.one_of(st.just("nat"), st.just("dr"), st.sampled_from(sorted(EXTRA))))
        outer = self.family if method in ("nat", "dr") else self.data.draw(st.sampled_from(FAMILIES))
        return Server(method, SERVERS[outer.version][number], 8080 if method == "nat" else 80, outer)

    # ---- what happens ----

    def edit(self, server: Server) -> None:
        """Remove it, or take it back."""
        if server in self.present:
            self.lvs.ipvsadm(f"-d {self.talk.key} -r {at(server.address, server.port)}")
        else:
            self.lvs.ipvsadm(f"-a {self.talk.key} {server.words}")
        self.present ^= {server}

    def header(self) -> dict[str, object]:
        found: dict[str, object] = {
            "ttl": self.data.draw(st.sampled_from([1, 2, 64, 255])),
            "tos": self.data.draw(st.integers(0, 255)),
        }
        words = self.data.draw(st.sampled_from([0, 0, 1, 3]))
        if self.family is IPV4:
            found |= {"df": self.data.draw(st.booleans()), "options": b"\1" * 4 * words}
        else:
            kinds = (DESTINATION, HOP_BY_HOP, DESTINATION)
            found["extensions"] = [(kind, b"\1\4" + bytes(4)) for kind in kinds[:words]]
        return found

    def _payload(self, header: dict[str, object]) -> bytes:
        if self.protocol == SCTP:
            return b""
        room = 1500 - len(self.talk.question("A", b"", **header))
        near = self.data.draw(st.sampled_from([room, room - 20, room - 60]))
        return (
            bytes(range(256)) * 6
            if near > 1536
            else self.data.draw(
                st.one_of(st.binary(max_size=40), st.integers(near - 12, near).map(lambda size: b"\x5a" * size))
            )
        )

    def _flags(self, later: str) -> str:
        return self.data.draw(st.sampled_from([FIRST[self.protocol], "DATA" if self.protocol == SCTP else later]))

    def _spoilt(self, packet: bytes) -> bytes:
        """Now and then a packet was damaged on its way here."""
        if self.data.draw(st.integers(0, 5)):
            return packet
        return packet[:-1] + bytes([packet[-1] ^ 0x40])

    def request(self) -> None:
        talk, header = self.talk.from_port(self.data.draw(st.sampled_from(PORTS))), self.header()
        merged = self.protocol == TCP and self.data.draw(st.integers(0, 4)) == 0
        payload = b"\x3c" * 2400 if merged else self._payload(header)
        packet = self._spoilt(talk.question("A" if merged else self._flags("A"), payload, **header))
        context = {"gso_size": 1200, "gso_segs": 2} if merged else {}
        self.left(packet, self.lvs.from_client(packet, **context), talk.sport)

    def reply(self) -> None:
        """Of any real server, present or not; mostly of one that was asked."""
        server, sport = self.data.draw(st.sampled_from(self.servers)), self.data.draw(st.sampled_from(PORTS))
        if self.asked and self.data.draw(st.integers(0, 3)):
            sport, server = self.data.draw(st.sampled_from(sorted(self.asked.items())))
        source = server.address if server.method == "nat" else self.family.vip
        talk = Talk(self.lvs, self.family, self.protocol, sport, 80, server.port, source)
        header = self.header()
        packet = self._spoilt(talk.answer(self._flags("SA"), self._payload(header), **header))
        result = self.lvs.from_server(packet)
        assert result.reason not in ("forwarded_nat_request", "forwarded_route", "forwarded_tunnel")
        self.left(packet, result, talk.sport)

    def complaint(self) -> None:
        """From the client's side, about a reply."""
        sport = self.data.draw(st.sampled_from(PORTS))
        answer = Talk(self.lvs, self.family, self.protocol, sport, 80, 80, self.family.vip).answer(
            "DATA" if self.protocol == SCTP else "A", b"" if self.protocol == SCTP else b"reply"
        )
        packet = self._spoilt(icmp_error(self.family.client, self.family.vip, TOO_BIG[self.family.version], answer,
                                         1300, **self.header()))  # fmt: skip
        self.left(packet, self.lvs.from_client(packet), sport)

    def protest(self) -> None:
        """From a real server's side, about a request; mostly one that it has had."""
        server, sport = self.data.draw(st.sampled_from(self.servers)), self.data.draw(st.sampled_from(PORTS))
        if self.asked and self.data.draw(st.integers(0, 3)):
            sport, server = self.data.draw(st.sampled_from(sorted(self.asked.items())))
        if server.outer is not self.family:
            return
        seen = self.family._replace(vip=server.address) if server.method == "nat" else self.family
        asked = Talk(self.lvs, seen, self.protocol, sport, server.port).question(
            "DATA" if self.protocol == SCTP else "A", b"" if self.protocol == SCTP else b"request"
        )
        packet = self._spoilt(icmp_error(server.address, self.family.client, TOO_BIG[self.family.version], asked,
                                         1300, **self.header()))  # fmt: skip
        self.left(packet, self.lvs.from_server(packet), sport)

    def pieces(self) -> None:
        """A datagram that the client's side has cut."""
        talk = self.talk.from_port(self.data.draw(st.sampled_from(PORTS)))
        payload = b"" if self.protocol == SCTP else bytes(range(200))
        whole = talk.question(
            "DATA" if self.protocol == SCTP else "S", payload, ident=self.data.draw(st.integers(1, 9))
        )
        came, sent = cut(whole, 8 if self.protocol == SCTP else 64), []
        for piece in came:
            result = self.lvs.from_client(piece)
            self.left(piece, result, talk.sport)
            if result.forwarded:
                sent.append(unwrap(result.frame[14:]).inner if self._wrapped(result.frame[14:]) else result.packet.raw)
        if len(sent) == len(came):
            joined = join(sent)
            assert joined is not None and not wrong_sums(joined)

    # ---- what must be true of it ----

    def left(self, before: bytes, result: Result, sport: int) -> None:
        """Check what became of a packet."""
        if "answered_icmp" in result.answers:
            assert result.packet.dst == dissect(before).src
            # merged packets really come with a sum that is yet to be made, which BPF_PROG_TEST_RUN cannot say
            assert len(before) > 1500 or not wrong_sums(result.packet.raw)
        if not result.forwarded:
            return
        after, old = result.frame[14:], dissect(before)
        wrapped, welcome = self._wrapped(after), self.present
        if result.reason == "forwarded_related":
            welcome = {*self.servers}
        if wrapped:
            assert wrapped in welcome
            if _is_piece(after):
                return  # cut for the narrower way: tests/packet/test_tunnel.py puts the pieces together
            after = self._unwrapped(after, before, wrapped)
        new = dissect(after)
        assert len(new.raw) == len(old.raw)
        assert new.ttl == old.ttl - 1
        if _is_piece(before):
            assert new.version == 6 or not wrong_ipv4_header(new.raw)
        else:
            assert bool(wrong_sums(after)) == bool(wrong_sums(before)), (wrong_sums(before), wrong_sums(after))
        if new.dst == self.family.client:
            assert new.src == self.family.vip and not wrapped
        elif new.dst == self.family.vip:
            assert wrapped or self._by_frame(result.frame, sport) in welcome
        else:
            assert self._with_address(new.dst) in welcome
            self.asked[sport] = self._with_address(new.dst)

    def _wrapped(self, packet: bytes) -> Server | None:
        """Whose tunnel a packet is in."""
        found = [server for server in self.servers if server.address == dissect(packet).dst]
        return found[0] if found and found[0].method in EXTRA else None

    def _unwrapped(self, after: bytes, before: bytes, server: Server) -> bytes:
        tunnelled = unwrap(after)
        assert tunnelled.overhead == server.outer.head + EXTRA[server.method]
        if not _is_piece(before) and not wrong_sums(before):
            assert not wrong_tunnel_sums(after)
        return tunnelled.inner

    def _with_address(self, address: str) -> Server:
        found = [server for server in self.servers if server.address == address]
        assert found, f"{address} is no real server"
        return found[0]

    def _by_frame(self, frame: bytes, sport: int) -> Server:
        """Whom a frame is for by its hardware address, and by what the connection says."""
        server = self._with_address(self.lvs.connections()[self.family.client, sport].daddr)
        assert frame[:6] in (HARDWARE[self.servers.index(server)], MACS["d0"]), "the latter: the neighbour code decides"
        return server


def _is_piece(packet: bytes) -> bool:
    if packet[0] >> 4 == 6:
        return packet[6] == FRAGMENT
    return bool(int.from_bytes(packet[6:8], "big") & 0x3FFF)


STEPS = st.lists(
    st.sampled_from([*["request"] * 3, "edit", "reply", "reply", "complaint", "protest", "pieces", "time"]),
    min_size=4, max_size=14,
)  # fmt: skip


@settings(
    max_examples=45, deadline=None, derandomize=True, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@pytest.mark.parametrize("by_stack", [False, True], ids=["", "by the stack"])
@given(data=st.data())
def test_any_story(lvs: Harness, neighbours: None, by_stack: bool, data: st.DataObject) -> None:
    story = Story(lvs, data, by_stack)
    for step in data.draw(STEPS):
        if step == "edit":
            story.edit(data.draw(st.sampled_from(story.servers)))
        elif step == "time":
            lvs.shift(data.draw(st.sampled_from([1, 30, 130])))
        else:
            getattr(story, step)()
