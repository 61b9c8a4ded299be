"""Labs come up, carry traffic, and leave nothing, even when their owner is killed."""

import os
import signal
import subprocess
import sys

import pytest

from pylvs.cli.lab import main as lab_command
from pylvs.lab import Lab, LabError, state
from pylvs.lab.lab import environment, remove_orphans
from pylvs.lab.namespaces import NETNS
from pylvs.lab.processes import is_alive
from pylvs.lab.topologies import TOPOLOGIES

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


def nothing_is_left(lab: Lab) -> bool:
    return lab.name not in state.names() and not list(NETNS.glob(f"{lab.name}-*")) and not lab.directory.exists()


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_every_real_server_is_reached_by_plain_routing(name: str) -> None:
    with Lab(name) as lab:
        client = lab.host("client")
        for server in lab.realservers:
            for url, source in ((server.ipv4, client.ipv4), (f"[{server.ipv6}]", client.ipv6)):
                who = lab.run("client", ["curl", "-sS", "-m", "3", f"http://{url}:8080/who"]).stdout.split()
                assert (who[0], who[1], who[4]) == (server.name, source, "8080")
            text = lab.run("client", f"dig +short +tries=1 +time=3 @{server.ipv6} whoami.lab TXT").stdout
            assert text.strip() == f'"{server.name}"'
        processes = lab.processes
        assert len(processes) == 2 * len(lab.realservers)
    assert nothing_is_left(lab)
    assert not any(is_alive(p.pid, p.start) for p in processes)


def test_only_the_director_answers_for_the_vip() -> None:
    """The ARP problem: the router must hold the director's hardware address for the VIP, in both families."""
    with Lab("dr", serve=False) as lab:
        mac = lab.director_run("ip -br link show dev eth0").stdout.split()[2]
        for vip in (lab.vip, lab.vip6):
            lab.run("client", f"ping -c 1 -W 2 {vip}")
            assert f"lladdr {mac} " in lab.run("router", f"ip neighbour show {vip}").stdout
        # Now a real server speaks first, in the VIP's name: the router must not learn from that.
        for server in lab.realservers:
            router = lab.host("router").interface("eth1").ipv4
            lab.run(server.name, f"ping -c 1 -W 0.1 -I {lab.vip} {router}", check=False)
            assert f"lladdr {mac} " in lab.run("router", f"ip neighbour show {lab.vip}").stdout


def test_two_labs_of_one_kind_do_not_meet() -> None:
    with Lab("nat", serve=False) as one, Lab("nat", serve=False) as two:
        assert not set(state.load(one.name).namespaces) & set(state.load(two.name).namespaces)
        with pytest.raises(LabError, match="already"):
            Lab("nat", one.name, serve=False).up()
        assert one.run("client", f"ping -c 1 -W 2 {one.vip}").returncode == 0


def test_a_failed_body_leaves_nothing() -> None:
    with pytest.raises(ZeroDivisionError), Lab("nat") as lab:
        lab.popen("client", "sleep 60")
        raise ZeroDivisionError
    assert nothing_is_left(lab)


def test_a_killed_owner_leaves_a_trace_that_is_cleaned_up() -> None:
    script = "from pylvs.lab import Lab; l = Lab('nat', 'killed-%d').up(); print('up', flush=True); input()"
    name = f"killed-{os.getpid()}"
    with subprocess.Popen(
        [sys.executable, "-c", script % os.getpid()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
    ) as owner:
        assert owner.stdout is not None and owner.stdout.readline() == b"up\n"
        assert name not in remove_orphans()
        owner.send_signal(signal.SIGKILL)
        owner.wait(5)
        processes = state.load(name).processes
        assert processes and all(is_alive(p.pid, p.start) for p in processes)
        assert name in remove_orphans()
        assert not any(is_alive(p.pid, p.start) for p in processes)
        assert not list(NETNS.glob(f"{name}-*"))


def test_the_command_builds_enters_and_removes(capfd: pytest.CaptureFixture[str]) -> None:
    name = f"cmd-{os.getpid()}"
    assert lab_command(["up", "nat", "--name", name, "--realservers", "1"]) == 0
    try:
        assert lab_command(["up", "nat", "--name", name]) == 1
        assert lab_command(["show", name]) == 0
        assert lab_command(["list"]) == 0
        out = capfd.readouterr().out
        assert "VIP .110" in out and f"{name} " in out
        child = os.fork()
        if child == 0:  # exec replaces its process
            os._exit(lab_command(["exec", "--name", name, "client", "ping", "-c", "1", "-W", "2", "10.1.1.11"]))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert lab_command(["exec", "--name", name, "nobody", "true"]) == 1
    finally:
        assert lab_command(["down", name]) == 0
    assert name not in state.names()
