"""The truth lives in the kernel: processes come, go, collide and are killed, and packets flow.

client ------------ director --+-- rs1..rs3      (nat, dr: drawn in test_tcp.py)
"""

import os
import random
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from pylvs.datapath import instance
from pylvs.lab import Lab
from pylvs.lab.lab import console_script

from .service import Service


def test_packets_flow_with_no_process_of_ours_alive(any_lab: Lab, method: str, ipv6: bool, tmp_path: Path) -> None:
    service = Service(any_lab, method, ipv6=ipv6).add()
    download = service.download(tmp_path / "big", rate="8m")
    with any_lab.enter("director"):
        inside = os.stat("/proc/thread-self/ns/net").st_ino
    assert [p for p in Path("/proc").iterdir() if p.name.isdigit() and _namespace(p) == inside] == []
    assert service.get() in ("rs1", "rs2", "rs3"), "a new connection"
    assert download.running(), "an old one"
    download.finish()


def _namespace(process: Path) -> int:
    try:
        return (process / "ns/net").stat().st_ino
    except OSError:
        return 0


def test_commands_killed_at_any_moment_leave_a_working_director(nat: Lab, tmp_path: Path) -> None:
    """Killed in the middle of a change: it is there or it is not, the next command works, traffic never stops."""
    service = Service(nat, "-m").add("rs1", "rs2")
    download = service.download(tmp_path / "big", rate="2m")
    chance = random.Random(7)
    killed = 0
    for number in range(20):
        verb = ["-a", "-t", service.address, "-r", service.server("rs3"), "-m"] if number % 2 == 0 else None
        words = verb or ["-d", "-t", service.address, "-r", service.server("rs3")]
        child = nat.popen(
            "director", [*console_script("ipvsadm"), *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:  # the moment of the kill is spread over what a command takes
            child.wait(timeout=chance.uniform(0.0, 0.08))
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
            killed += 1
        assert set(service.counts()) in ({"rs1", "rs2"}, {"rs1", "rs2", "rs3"})
        assert service.get() in ("rs1", "rs2", "rs3")
    assert killed > 0
    download.finish()


def test_commands_at_the_same_time_take_turns(nat: Lab) -> None:
    """Each of them reads the table, changes it and writes it: none may lose another's change."""
    service = Service(nat, "-m")
    nat.ipvsadm(["-A", "-t", service.address, "-s", "rr"])
    rips = [f"10.1.1.{number}" for number in range(101, 109)]
    children = [
        nat.popen("director", [*console_script("ipvsadm"), "-a", "-t", service.address, "-r", rip, "-m"])
        for rip in rips
    ]
    assert [child.wait(timeout=20) for child in children] == [0] * len(rips)
    listed = nat.ipvsadm("-Ln").stdout
    assert all(f"-> {rip}:80 " in listed for rip in rips)


@pytest.fixture
def fresh(request: pytest.FixtureRequest) -> Lab:
    """A lab on whose director no command of ours has run."""
    lab = Lab("nat").up()
    request.addfinalizer(lab.down)
    return lab


def plain(lab: Lab) -> str:
    """All that we could have changed in the director's namespace."""
    commands = ["tc qdisc show", "tc filter show dev eth0 ingress", "tc filter show dev eth0 egress"]
    commands += ["tc filter show dev eth1 ingress", "ip -o -d link", "ip -o addr", "ip route show table all", "ip rule"]
    text = [lab.director_run(command, check=False).stdout for command in commands]
    sysctls = lab.director_run("sysctl -a --pattern ^net\\.(ipv4|ipv6)\\.(conf|ip_forward)").stdout
    return "\n".join([*text, sysctls])


def test_unload_leaves_the_namespace_as_it_was(fresh: Lab, tmp_path: Path) -> None:
    before = plain(fresh)
    service = Service(fresh, "-m").add()
    download = service.download(tmp_path / "big", rate="1m")
    download.wait_until(64 << 10)
    fresh.pylvs("unload")
    assert plain(fresh) == before
    assert service.try_get().returncode == 7, "the VIP is the director's own again, and nobody listens"
    rip = fresh.host("rs1").ipv4
    assert fresh.run("client", ["curl", "-sS", "-m", "3", f"http://{rip}/"]).stdout == "rs1\n"
    download.process.kill()
    service.add()
    assert service.get() in ("rs1", "rs2", "rs3"), "and it can be loaded again"


def test_a_loading_killed_at_any_moment_is_made_good_by_the_next_command(fresh: Lab) -> None:
    """The first command loads, pins and attaches; whatever of that it had done when it was killed is no hindrance."""
    before = plain(fresh)
    chance = random.Random(11)
    killed = 0
    for _ in range(5):
        first = fresh.popen("director", [*console_script("ipvsadm"), "-A", "-t", f"{fresh.vip}:81", "-s", "wlc"])
        try:
            first.wait(timeout=chance.uniform(0.02, 0.15))
        except subprocess.TimeoutExpired:
            first.send_signal(signal.SIGKILL)
            first.wait()
            killed += 1
        fresh.ipvsadm("-C")
        service = Service(fresh, "-m").add()
        assert {service.get() for _ in range(3)} == {"rs1", "rs2", "rs3"}
        fresh.pylvs("unload")
    assert killed > 0
    assert plain(fresh) == before


KILLED_WHILE_LOADING = """
import os, sys
from pylvs.datapath import interfaces
from pylvs.ipvsadm import main
interfaces.attach = lambda *arguments: os.kill(os.getpid(), 9)
sys.argv = ["ipvsadm", "-A", "-t", "10.9.9.9:80"]
main()
"""


def test_a_killed_loading_does_not_forget_what_to_undo(fresh: Lab) -> None:
    """A load switches lo's forwarding on where it was off: on a host that does not forward, here the client."""

    def forwarding() -> str:
        return fresh.run("client", "sysctl net.ipv4.conf.lo.forwarding net.ipv6.conf.lo.forwarding").stdout

    before = forwarding()
    assert fresh.run("client", [sys.executable, "-c", KILLED_WHILE_LOADING], check=False).returncode == -signal.SIGKILL
    fresh.run("client", [*console_script("ipvsadm"), "-A", "-t", "10.9.9.9:80"])
    fresh.run("client", [*console_script("pylvs"), "unload"])
    assert forwarding() == before


def test_directors_that_come_and_go_do_not_disturb_each_other() -> None:
    """Namespaces share one bpffs: a command that looks around in it meets directors that are just being removed."""

    def come_and_go(lab: Lab) -> None:
        for _ in range(6):
            lab.ipvsadm(["-A", "-t", f"{lab.vip}:80"])
            assert f"{lab.vip}:80" in lab.ipvsadm("-Ln").stdout
            lab.pylvs("unload")

    with ExitStack() as stack:
        labs = [stack.enter_context(Lab("nat", serve=False, realservers=1)) for _ in range(3)]
        with ThreadPoolExecutor(len(labs)) as pool:
            list(pool.map(come_and_go, labs))


def test_a_lab_that_goes_down_leaves_nothing_pinned(fresh: Lab) -> None:
    """Not even for a host that was none of the lab's directors."""
    pinned = []
    for host in ("director", "client"):
        fresh.run(host, [*console_script("ipvsadm"), "-A", "-t", f"{fresh.vip}:80"])
        with fresh.enter(host):
            pinned.append(Path(instance.directory() or ""))
    assert all(path.is_dir() for path in pinned)
    fresh.down()
    assert not any(path.exists() for path in pinned)
