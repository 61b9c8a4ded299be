"""The connection table is resized under traffic: no request fails, no transfer breaks.

client ------------ director --+-- rs1..rs3      (nat, dr: drawn in test_tcp.py)
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylvs.datapath import instance
from pylvs.datapath.instance import Instance
from pylvs.datapath.layout import REASONS
from pylvs.lab import Lab
from support.books import Ledger, audit

from .conftest import forwarding
from .service import Service

SIZES = (18, 16)
LONG = 1000 * 10**9
"""Until every connection's time is over, in nanoseconds."""
KINDS = {
    "keep-alive": 'curl -sS -m 60 --fail -Z --parallel-max 6 -o /dev/null "{url}?[1-100]"',
    "close": 'curl -sS -m 60 --fail -Z --parallel-max 6 -H "Connection: close" -o /dev/null "{url}?[1-30]"',
    "bulk": 'curl -sS -m 60 --fail -o /dev/null "{url}big?[1-2]"',
}
NEVER = ("up_no_connection", "up_just_ended", "up_no_service", *(n for n in REASONS if n.startswith("dropped_")))


@pytest.fixture(params=["nat", "dr", "nat conntrack"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    name, _, by_stack = request.param.partition(" ")
    with Lab(name) as lab, forwarding(lab, bool(by_stack)):
        yield lab


def _reasons(running: Instance) -> dict[str, int]:
    return {name: running.reasons.sums(REASONS.index(name))[0] for name in NEVER}


def test_no_request_fails(lab: Lab, tmp_path: Path) -> None:
    lab.pylvs("load --conn-tab-bits 17")
    method = "-g" if lab.topology.name == "dr" else "-m"
    services = [Service(lab, method, ipv6=ipv6).add() for ipv6 in (False, True)]
    stop = tmp_path / "stop"
    clients: list[subprocess.Popen[str]] = []
    rounds: list[Path] = []
    for service in services:
        for name, command in KINDS.items():
            done = tmp_path / f"{name}{service.ipv6}"
            rounds.append(done)
            # curl tells of its progress, silent or not: into a pipe that nobody empties it would stop in the end
            once = f"{command.format(url=service.url())} 2> {done}.said || exit 1"
            loop = f"while [ ! -e {stop} ]; do {once}; echo >> {done}; done"
            clients.append(lab.popen("client", ["sh", "-c", loop]))
    with lab.enter("director"):
        running = instance.find()
    assert running is not None
    before = _reasons(running)
    try:
        lab.wait_for(lambda: all(done.exists() for done in rounds), "the clients to be at work", seconds=60)
        download = services[0].download(tmp_path / "slow", rate="250k")
        download.wait_until(64 << 10)
        for bits in SIZES:
            count = [done.stat().st_size for done in rounds]
            said = lab.pylvs(["load", "--conn-tab-bits", str(bits)]).stdout
            assert f"has {1 << bits} slots" in said
            assert bits != SIZES[0] or download.running(), "the transfer was meant to outlast a resizing"
            lab.wait_for(
                lambda count=count: all(d.stat().st_size > n for d, n in zip(rounds, count, strict=True)),
                "everybody to go on",
                seconds=60,
            )
    finally:
        stop.touch()
        ended = [client.wait(timeout=90) for client in clients]
    assert ended == [0] * len(clients), [Path(f"{done}.said").read_text() for done in rounds]
    download.finish(30)
    now = _reasons(running)
    assert {name: now[name] - before[name] for name in NEVER if now[name] != before[name]} == {}
    lab.wait_for(lambda: _quiet(running), "the last packets to arrive")
    assert audit(running).conns > 100
    running.config.put(0, "clock_offset", running.config.get(0, "clock_offset") + LONG)
    running.run("catch_up")
    assert audit(running) == Ledger(0, 0, 0)
    running.close()


def _quiet(running: Instance) -> bool:
    """Is nobody active any more?"""
    return not any(running.dest_loads.get(n, "active") for n in range(running.config.get(0, "dests_high")))
