"""loxilb #1020: "least connection" goes astray when endpoints come and go.

What was counted for an endpoint that left stayed, or was lost, and from then on the least loaded one was not. Here a
real server's load is what its connections say, in the trash, too; it comes back with them.
"""

from collections import Counter

import pytest

from support.harness import Harness
from support.talk import IPV4, Talk, at


def _loads(lvs: Harness) -> dict[str, int]:
    return {name: active + inactive for name, (active, inactive) in lvs.loads().items()}


def _held(lvs: Harness) -> Counter[str]:
    return Counter(at(c.daddr, c.dport) for c in lvs.director.connections())


@pytest.mark.parametrize("scheduler", ["lc", "wlc"])
def test_lc_churn_loxilb1020(lvs: Harness, scheduler: str) -> None:
    talk = Talk(lvs, IPV4).serve(4, scheduler=scheduler)
    servers = IPV4.servers[:4]
    port = 2000
    for turn in range(24):
        away = servers[turn % 4]
        for _ in range(5):
            port += 1
            talk.from_port(port).opens()
        talk.delete(away)
        for _ in range(3):
            port += 1
            talk.from_port(port).opens()
        if turn % 3 == 0:  # some end while it is away
            for number in range(port - 8, port, 2):
                talk.from_port(number).asks("R")
            lvs.advance(11)
        talk.add(away)
        assert _loads(lvs) == {at(server, 8080): _held(lvs)[at(server, 8080)] for server in servers}, turn
    # and the next ones go to who has least, until all have as many
    loads = _loads(lvs)
    while len(set(loads.values())) > 1:
        port += 1
        chosen = at(talk.from_port(port).opens().rs, 8080)
        assert loads[chosen] == min(loads.values())
        loads = _loads(lvs)
    assert len(set(_held(lvs).values())) == 1
