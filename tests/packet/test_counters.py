"""What is counted, for whom, and what the rates make of it (facts 8)."""

from pylvs.lab.waiting import wait_for
from support.harness import SERVER, Harness, frame
from support.packets import TCP, UDP
from support.talk import IPV4, Family, Talk

NOTHING = (0, 0, 0, 0, 0)


def _counted(lvs: Harness, number: int = 0) -> tuple[tuple, tuple, tuple]:
    """The counters of the total, the only service, and its n-th real server."""
    [service] = lvs.director.services()
    return lvs.director.totals()[:5], service.stats[:5], service.destinations[number].stats[:5]


def test_connections_packets_and_bytes(lvs: Harness, family: Family, protocol: int) -> None:
    """All of the packet from the IP header on; and the same for real server, service and total."""
    talk = Talk(lvs, family, protocol).serve()
    sent = [talk.question("S"), talk.question("A", b"x" * 333)]
    answered = [talk.answer("SA"), talk.answer("A", b"y" * 1001), talk.answer("A")]
    for packet in sent:
        lvs.from_client(packet)
    for packet in answered:
        lvs.from_server(packet)
    wanted = (1, 2, 3, sum(map(len, sent)), sum(map(len, answered)))
    assert _counted(lvs) == (wanted, wanted, wanted)


def test_each_for_his_own(lvs: Harness, family: Family) -> None:
    talk = Talk(lvs, family).serve(2)
    other = Talk(lvs, family, UDP).serve(1)
    talk.asks("S")
    talk.from_port(1026).asks("S")
    talk.from_port(1027).asks("S")
    other.asks()
    services = {service.service.protocol: service for service in lvs.director.services()}
    assert lvs.director.totals().conns == 4
    assert (services[TCP].stats.conns, services[UDP].stats.conns) == (3, 1)
    assert sorted(destination.stats.conns for destination in services[TCP].destinations) == [1, 2]


def test_what_fails_on_its_way_is_counted_too(lvs: Harness, family: Family) -> None:
    """Counted before it is forwarded, whatever becomes of it (facts 8.1)."""
    talk = Talk(lvs, family).serve()
    assert talk.asks("S", ttl=1).dropped
    assert _counted(lvs)[0][:2] == (1, 1)


def test_what_is_handed_up_is_not(lvs: Harness, family: Family) -> None:
    talk = Talk(lvs, family).serve()
    talk.asks("A")
    talk.asks("R")
    talk.from_port(20).asks("S")
    Talk(lvs, family, port=81).asks("S")
    assert _counted(lvs) == (NOTHING, NOTHING, NOTHING)


def test_refused_is_not(lvs: Harness, family: Family) -> None:
    talk = Talk(lvs, family).serve(1, weight=0)
    assert talk.asks("S").dropped
    assert _counted(lvs) == (NOTHING, NOTHING, NOTHING)


def test_a_real_server_in_the_trash_counts_nothing(lvs: Harness, family: Family) -> None:
    talk = Talk(lvs, family).serve(2).opens()
    talk.delete()
    before = lvs.director.totals()[:5]
    talk.asks("A")
    talk.answers("A")
    assert lvs.director.totals()[:5] == before


def test_dr_counts_requests(lvs: Harness, family: Family) -> None:
    talk = Talk(lvs, family, rport=80).serve(method="-g")
    question = talk.question("S")
    lvs.from_client(question)
    assert _counted(lvs)[1] == (1, 1, 0, len(question), 0)


def test_zero_all(lvs: Harness, family: Family) -> None:
    """`ipvsadm -Z`: everything counts from 0; connections do not end."""
    talk = Talk(lvs, family).serve().opens()
    lvs.ipvsadm("-Z")
    assert _counted(lvs) == (NOTHING, NOTHING, NOTHING)
    question = talk.question("A")
    lvs.from_client(question)
    one = (0, 1, 0, len(question), 0)
    assert _counted(lvs) == (one, one, one)
    assert lvs.loads() and set(lvs.loads().values()) == {(1, 0)}


def test_zero_one_service(lvs: Harness, family: Family) -> None:
    """Its real servers with it, but not the total, nor the others."""
    talk = Talk(lvs, family).serve().opens()
    other = Talk(lvs, family, UDP).serve().opens()
    total = lvs.director.totals()[:5]
    lvs.ipvsadm(f"-Z {talk.key}")
    services = {service.service.protocol: service for service in lvs.director.services()}
    assert services[TCP].stats[:5] == NOTHING
    assert services[TCP].destinations[0].stats[:5] == NOTHING
    assert services[UDP].stats.conns == 1 and other.entry
    assert lvs.director.totals()[:5] == total


# Rates: every two seconds the newest interval gets a quarter of the weight.


SLICE = 16_000_000


def _step(lvs: Harness) -> None:
    """On to just after the estimator's next visit. It visits the total, the first service and the first real server at
    fixed places of its round of 125 slices: the first two. The timer does it; asking for it besides could do it twice.
    """
    now, runtime = lvs.instance.now(), lvs.instance.runtime
    begin = (now // (125 * SLICE) + 1) * 125
    lvs.shift((begin * SLICE + SLICE * 3 // 2 - now) / 1e9)
    wait_for(lambda: runtime.get(0, "estimated") > begin, "the estimator")
    seen = runtime.get(0, "swept")
    wait_for(lambda: runtime.get(0, "swept") > seen, "its next turn, when this one is over")


def test_rates_of_a_steady_stream(lvs: Harness) -> None:
    """100 packets a second, seen every two seconds (the vector of facts 8.3)."""
    talk = Talk(lvs, IPV4, UDP).serve()
    question = talk.question(payload=bytes(1500 - 20 - 8))
    assert len(question) == 1500
    packets, octets = [], []
    _step(lvs)
    for _ in range(8):
        lvs.pour([frame(question)] * 200)
        _step(lvs)
        [service] = lvs.director.services()
        total = lvs.director.totals()
        assert total == service.stats == service.destinations[0].stats
        packets.append(total.inpps)
        octets.append(total.inbps)
    assert packets == [25, 44, 58, 68, 76, 82, 87, 90]
    assert octets == [37500, 65625, 86719, 102539, 114404, 123303, 129977, 134983]


def test_rates_of_connections_and_replies_that_stop(lvs: Harness) -> None:
    """They fall by a quarter each interval, rounded up."""
    talk = Talk(lvs, IPV4, UDP).serve()
    _step(lvs)
    lvs.pour(frame(talk.from_port(sport).question()) for sport in range(2000, 2200))
    lvs.pour([frame(talk.from_port(2000).answer(), SERVER)] * 80, SERVER)
    _step(lvs)
    shown = []
    for _ in range(4):
        total = lvs.director.totals()
        shown.append((total.cps, total.inpps, total.outpps))
        _step(lvs)
    assert shown == [(25, 25, 10), (19, 19, 7), (14, 14, 6), (11, 11, 4)]


def test_zero_begins_the_rates_anew(lvs: Harness) -> None:
    talk = Talk(lvs, IPV4, UDP).serve()
    _step(lvs)
    lvs.pour([frame(talk.question())] * 200)
    _step(lvs)
    lvs.ipvsadm("-Z")
    assert lvs.director.totals() == (0,) * 10
    lvs.pour([frame(talk.question())] * 200)
    _step(lvs)
    assert lvs.director.totals().inpps == 25
