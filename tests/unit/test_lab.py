"""The lab's topologies, records and processes as values: no namespace is made here."""

import ipaddress
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.lab import processes, state
from pylvs.lab.namespaces import LabError, wiring
from pylvs.lab.processes import Process
from pylvs.lab.state import State
from pylvs.lab.topologies import TOPOLOGIES, topology
from pylvs.lab.topology import ROLES, Topology, addressing, sysctls
from pylvs.lab.waiting import wait_for

every_topology = pytest.mark.parametrize("drawn", [topology(n, k) for n in TOPOLOGIES for k in (1, 3, 64)], ids=str)


@every_topology
def test_addresses_are_private_distinct_and_on_their_network(drawn: Topology) -> None:
    seen = set()
    for host in drawn.hosts:
        assert host.role in ROLES
        for interface in host.interfaces:
            network = drawn.network(interface.network)
            for address, prefix in ((interface.ipv4, network.ipv4), (interface.ipv6, network.ipv6)):
                assert ipaddress.ip_address(address) in ipaddress.ip_network(prefix)
                assert ipaddress.ip_address(address).is_private
                assert address not in seen
                seen.add(address)
    assert drawn.vip not in seen and drawn.vip6 not in seen


@every_topology
def test_gateways_are_hosts_that_forward(drawn: Topology) -> None:
    addresses = {a: h for h in drawn.hosts for i in h.interfaces for a in (i.ipv4, i.ipv6)}
    for host in drawn.hosts:
        for gateway in filter(None, (host.gateway, host.gateway6)):
            assert ("ipv4/ip_forward", "1") in sysctls(addresses[gateway])


@every_topology
def test_the_director_holds_the_vip_after_its_own_address(drawn: Topology) -> None:
    director = drawn.host("director")
    lines = addressing(drawn, director)
    dip = next(n for n, line in enumerate(lines) if director.ipv4 in line)
    vip = next(n for n, line in enumerate(lines) if f"{drawn.vip}/32" in line)
    assert dip < vip


@every_topology
def test_links_are_born_inside_namespaces(drawn: Topology) -> None:
    links = [line for line in wiring("x", drawn) if line.startswith("link")]
    assert links
    for line in links:
        assert line.count(" netns ") == (1 if "type bridge" in line else 2)


@every_topology
def test_it_is_drawn(drawn: Topology) -> None:
    assert drawn.vip.rpartition(".")[2] in drawn.drawing
    assert all(len(line) <= 110 and line.isascii() for line in drawn.drawing.splitlines())


@pytest.mark.parametrize(("name", "count"), [("nat", 0), ("nat", 65), ("dr", -1), ("lan", 3)])
def test_an_impossible_topology_is_refused(name: str, count: int) -> None:
    with pytest.raises(ValueError):
        topology(name, count)


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "-x", "A", "a b", "a.b", "x" * 41, None, 3, "ä"])
def test_a_name_that_would_leave_the_directory_is_refused(name: object) -> None:
    with pytest.raises(LabError):
        state.check_name(name)


def record(name: str = "one") -> State:
    return State(name, "nat", 3, (1, 2), ("one-client",), (Process(3, 4, "rs1", "nginx"),))


def test_a_record_survives_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "RUN", tmp_path)
    state.create(record())
    assert state.load("one") == record()
    assert state.names() == ["one"]
    with pytest.raises(LabError, match="already"):
        state.create(record())
    state.forget("one")
    assert state.names() == []
    with pytest.raises(LabError, match="no lab 'one'"):
        state.load("one")


@given(st.text())
def test_a_damaged_record_is_a_lab_error(text: str) -> None:
    with pytest.raises(LabError):
        state.from_json(text)


@pytest.mark.parametrize("key", ["name", "owner", "namespaces", "processes", "realservers"])
def test_a_record_with_a_wrong_field_is_a_lab_error(key: str) -> None:
    text = record().to_json().replace(f'"{key}"', '"other"')
    with pytest.raises(LabError):
        state.from_json(text)


def test_a_reused_process_id_is_not_ours() -> None:
    """The number is right and the start time is not: whoever has that number now must live."""
    with subprocess.Popen(["sleep", "60"]) as child:
        start = processes.start_time(child.pid)
        assert start is not None
        processes.end([Process(child.pid, start - 1, "client", "sleep")])
        assert child.poll() is None
        assert processes.end([Process(child.pid, start, "client", "sleep")]) == []
        assert child.wait(5) == -15
    assert not processes.is_alive(child.pid, start)


def test_who_does_not_listen_is_killed() -> None:
    script = "trap '' TERM; echo ready; while :; do read -t 60 x < /dev/zero; done"
    with subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        process = Process(child.pid, processes.start_time(child.pid) or 0, "client", "bash")
        assert processes.end([process], grace=0.05) == [process]
        assert child.wait(5) == -9


def test_a_zombie_has_ended() -> None:
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert processes.start_time(child.pid) is None


def test_waiting_says_for_what() -> None:
    assert wait_for(lambda: 7, "seven") == 7
    with pytest.raises(TimeoutError, match="the cows"):
        wait_for(lambda: False, "the cows", seconds=0.01)
