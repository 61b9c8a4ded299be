"""What the recordings and vectors of schedulers do not show: chance, none at all, and flags that are changed."""

import pytest

from pylvs.errors import NoSuchScheduler
from pylvs.model import virtual_service
from pylvs.selections import Selection
from support.harness import Harness
from support.talk import IPV4, Family, Talk, at

CONNECTIONS = 4000
_ALL = Selection()


def _shares(lvs: Harness, talk: Talk, loads: dict[str, int], count: int = CONNECTIONS) -> dict[str, float]:
    """Which part of new connections each real server gets, while its active connections stay as they are."""
    service = virtual_service(talk.family.vip, talk.port, scheduler="twos")
    places = {server: lvs.number_of(service, server, 8080) for server in loads}
    seen = dict.fromkeys(loads, 0)
    for number in range(count):
        for server, active in loads.items():
            lvs.instance.dest_loads.put(places[server], "active", active)
            lvs.instance.dest_loads.put(places[server], "total", active)
        seen[talk.from_port(1024 + number).asks("S").packet.dst] += 1
    return {server: hits / count for server, hits in seen.items()}


def _chances(weights: list[int], loads: list[int]) -> list[float]:
    """What twos gives each: two draws from 0 to the sum of weights, both included, and the less loaded one has it."""
    total = sum(weights)
    drawn = [(weight + (place == 0)) / (total + 1) for place, weight in enumerate(weights)]
    found = [0.0] * len(weights)
    for one, first in enumerate(drawn):
        for other, second in enumerate(drawn):
            better = weights[other] * loads[one] > weights[one] * loads[other]
            found[other if better else one] += first * second
    return found


@pytest.mark.parametrize("loads", [(0, 0, 0), (5, 0, 0), (1, 2, 3), (3, 2, 1)])
@pytest.mark.parametrize("weights", [(1, 1, 1), (5, 2, 1)])
def test_twos_draws_two(lvs: Harness, weights: tuple[int, ...], loads: tuple[int, ...]) -> None:
    """Within 0.05 of the chances: five standard deviations and more of 4,000 draws."""
    talk = Talk(lvs, IPV4)
    lvs.ipvsadm(f"-A {talk.key} -s twos")
    servers = IPV4.servers[:3]
    for server, weight in reversed(list(zip(servers, weights, strict=True))):  # so that the list is in this order
        talk.add(server, weight=weight)
    shares = _shares(lvs, talk, dict(zip(servers, loads, strict=True)))
    for server, chance in zip(servers, _chances(list(weights), list(loads)), strict=True):
        assert abs(shares[server] - chance) < 0.05, (server, chance, shares)


def test_twos_passes_over_whom_it_may_not_choose(lvs: Harness, family: Family) -> None:
    talk = Talk(lvs, family).serve(3, scheduler="twos")
    talk.weigh(family.servers[0], 0)
    lvs.ipvsadm(f"-e {talk.key} -r {at(family.servers[1], 8080)} -m -x 1")
    seen = [talk.from_port(2000 + number).asks("S").packet.dst for number in range(100)]
    assert seen.count(family.servers[1]) == 1
    assert seen.count(family.servers[2]) == 99


def test_none(lvs: Harness, family: Family) -> None:
    """A service without a scheduler: nobody has new connections, those that there are go on."""
    talk = Talk(lvs, family).serve(2).opens()
    lvs.ipvsadm(f"-E {talk.key} -s none")
    assert f"{at(family.vip, 80)} none" in lvs.ipvsadm("-Ln")
    assert f"-A {talk.key} -s none" in lvs.ipvsadm("-Sn").splitlines()
    assert talk.from_port(2000).asks("S").reason == "dropped_no_destination"
    assert talk.asks("A").forwarded and talk.answers("A").forwarded
    lvs.ipvsadm(f"-E {talk.key} -s rr")
    assert talk.from_port(2000).asks("S").forwarded


def test_none_from_the_beginning(lvs: Harness, family: Family) -> None:
    talk = Talk(lvs, family).serve(1, scheduler="none")
    assert talk.asks("S").reason == "dropped_no_destination"


@pytest.mark.parametrize("name", ["", "RR", "no", "rr ", "table"])
def test_unknown(lvs: Harness, name: str) -> None:
    with pytest.raises(NoSuchScheduler, match=f"there is no scheduler '{name}'; there are rr, wrr"):
        lvs.director.add_service(virtual_service("10.99.0.1", 80, scheduler=name))
    assert not list(lvs.director.services())


@pytest.mark.parametrize("scheduler", ["sh", "mh"])
def test_flags_count_at_once(lvs: Harness, family: Family, scheduler: str) -> None:
    talk = Talk(lvs, family).serve(4, scheduler=scheduler)

    def picks(first: int) -> set[str]:
        results = [talk.from_port(port).asks("S") for port in range(first, first + 40)]
        return {result.packet.dst if result.forwarded else result.reason for result in results}

    (mine,) = picks(2000)
    lvs.ipvsadm(f"-E {talk.key} -s {scheduler} -b {scheduler}-port")
    assert picks(3000) == set(family.servers[:4])
    lvs.ipvsadm(f"-E {talk.key} -s {scheduler}")
    assert picks(4000) == {mine}
    talk.weigh(mine, 0)
    assert picks(5000) == {"dropped_no_destination"}
    lvs.ipvsadm(f"-E {talk.key} -s {scheduler} -b {scheduler}-fallback")
    (another,) = picks(6000)
    assert another in set(family.servers[:4]) - {mine}


def test_an_mh_server_quiesced_and_back_keeps_its_clients(lvs: Harness, family: Family) -> None:
    """The last weight that was not 0 counts; one that was added with 0 has no place in the table."""
    talk = Talk(lvs, family)
    lvs.ipvsadm(f"-A {talk.key} -s mh -b mh-port")
    first, second, third = family.servers[:3]
    talk.add(first)
    talk.add(second)
    talk.add(third, weight=0)

    def picks(first_port: int) -> list[str]:
        results = [talk.from_port(first_port + n * 100).asks("S") for n in range(40)]
        lvs.director.flush_connections(_ALL)
        return [result.packet.dst if result.forwarded else "-" for result in results]

    before = picks(2000)
    assert set(before) == {first, second}
    talk.weigh(second, 0)
    assert picks(2000) == ["-" if rs == second else rs for rs in before]
    talk.weigh(second, 1)
    assert picks(2000) == before
    talk.weigh(third, 1)
    assert set(picks(2000)) == {first, second, third}
