"""What users of LVS complained about for years: connections after a real server was quiesced or taken away.

Each test is named after a complaint. It shows what kernel IPVS does by default, and so do we, and then what cures it.
"""

from pylvs.selections import selection
from support.harness import Harness
from support.packets import TCP, UDP
from support.talk import Family, Talk


def _steady(talk: Talk, seconds: int, every: int = 60) -> list[str]:
    """A client that sends a datagram every so often; where each of them goes."""
    seen = []
    for _ in range(seconds // every):
        talk.lvs.advance(every)
        result = talk.asks()
        seen.append(result.packet.dst if result.forwarded else result.reason)
    return seen


def test_udp_blackhole_k76664(lvs: Harness, family: Family) -> None:
    """A log sender's datagrams keep its connection to a dead real server alive for ever (kubernetes 76664).

    Quiescing (weight 0) leaves connections alone, by design. The cure: delete the real server, with
    expire_nodest_conn; or end its connections, `pylvs conns flush --rip`.
    """
    talk = Talk(lvs, family, UDP, port=514, rport=514).serve(2).opens()
    other = next(server for server in family.servers[:2] if server != talk.rs)
    talk.weigh(talk.rs, 0)
    assert _steady(talk, 3600) == 60 * [talk.rs]
    # cured without touching the rules
    assert lvs.director.flush_connections(selection(server=talk.rs)) == 1
    assert _steady(talk, 120) == 2 * [other]
    # cured for all by a setting
    talk.weigh(talk.rs, 1)
    talk.weigh(other, 0)
    lvs.set(expire_nodest_conn=1)
    talk.delete(other)
    assert _steady(talk, 120) == 2 * [talk.rs]


def test_dns_rollout_k71514(lvs: Harness, family: Family) -> None:
    """Resolvers ask from the same ports again; of a replaced DNS server's clients each query is lost for five minutes
    (kubernetes 71514).

    The cure: expire_nodest_conn, after which not one is lost; or one-packet scheduling, which knows no connections.
    """
    talk = Talk(lvs, family, UDP, port=53, rport=53).serve(2)
    clients = [talk.from_port(sport).opens() for sport in range(2000, 2020)]
    talk.delete(family.servers[0])
    lost = [client for client in clients if client.asks().reason == "dropped_destination_gone"]
    assert len(lost) == 10
    lvs.advance(299)
    assert all(client.asks().reason == "dropped_destination_gone" for client in lost)
    lvs.advance(2)
    assert all(client.asks().packet.dst == family.servers[1] for client in clients)
    # the same replacement again, cured
    lvs.set(expire_nodest_conn=1)
    talk.add(family.servers[2])
    talk.delete(family.servers[1])
    assert {client.asks().packet.dst for client in clients} == {family.servers[2]}
    # or without connections at all
    lvs.set(expire_nodest_conn=0)
    lvs.ipvsadm(f"-E {talk.key} -s rr -o")
    lvs.director.flush_connections(selection())
    talk.add(family.servers[3])
    talk.delete(family.servers[2])
    assert {client.asks().packet.dst for client in clients} == {family.servers[3]}


def test_port_reuse_stall_k70747(lvs: Harness, family: Family) -> None:
    """A client that uses a port again too early waits a second for its SYN's repetition (kubernetes 70747).

    Kernel IPVS drops the first SYN where connection tracking knows the old connection. Ours is forwarded at once, and
    may go to another real server: nothing has to be cured.
    """
    talk = Talk(lvs, family).serve(2).opens()
    for who, flags in ((talk.asks, "F"), (talk.answers, "F"), (talk.asks, "A")):
        who(flags)
    assert talk.entry.shown.state == "TIME_WAIT"
    again = talk.asks("S")
    assert again.reason == "forwarded_nat_request" and again.packet.dst != talk.rs
    assert talk.entry.shown.state == "SYN_RECV"


def test_reuse_to_removed_k81775(lvs: Harness, family: Family) -> None:
    """conn_reuse_mode=0, the old cure for that stall, sends new connections to quiesced and removed real servers
    (kubernetes 81775).

    The cure: leave conn_reuse_mode at 1; or set expire_nodest_conn, which looks at the weight first.
    """
    talk = Talk(lvs, family).serve(2).opens()
    for who, flags in ((talk.asks, "F"), (talk.answers, "F"), (talk.asks, "A")):
        who(flags)
    other = next(server for server in family.servers[:2] if server != talk.rs)
    talk.weigh(talk.rs, 0)
    lvs.set(conn_reuse_mode=0)
    assert talk.asks("S").packet.dst == talk.rs, "quiesced, and it gets a new connection"
    talk.delete(talk.rs)
    assert talk.asks("S").reason == "dropped_destination_gone", "removed, and the new connection is lost"
    talk.add(talk.rs, weight=0)
    lvs.set(expire_nodest_conn=1)
    assert talk.asks("S").packet.dst == other
    lvs.set(expire_nodest_conn=0, conn_reuse_mode=1)


def test_drain_never_ends_k81308(lvs: Harness, family: Family) -> None:
    """Who waits for a quiesced real server's last connection waits up to 15 minutes for peers that crashed
    (kubernetes 81308).

    The cure: see whose they are and end them, `pylvs conns flush --rip`; or shorter timeouts, `ipvsadm --set`.
    """
    talk = Talk(lvs, family, TCP).serve(2).opens()
    talk.weigh(talk.rs, 0)

    def left() -> int:
        return lvs.director.count_connections(selection(server=talk.rs))

    lvs.advance(890)
    assert left() == 1, "nobody is at its other end any more"
    assert lvs.director.flush_connections(selection(server=talk.rs)) == 1
    assert left() == 0
    # or by a timeout that fits the service
    talk.weigh(talk.rs, 1)
    lvs.ipvsadm("--set 120 0 0")
    again = talk.from_port(2000).opens()
    lvs.advance(121)
    assert again.entry is None
