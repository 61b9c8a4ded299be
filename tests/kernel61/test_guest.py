"""The oldest kernel that is promised, asked itself: it loads the programs built here, and packets go through them.

    PYLVS_GUEST=/path/to/runner python -m pytest tests/kernel61

The runner starts a virtual machine and runs a script in it as root: `RUNNER --suite SUITE --timeout SECONDS --merge
-v DIRECTORY:PLACE SCRIPT`, where SUITE is the Debian release whose kernel, Python and libbpf the guest has, DIRECTORY
is copied to PLACE, and what the script says and its exit status are the runner's. Without one nothing is tested.
"""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.crowd import built

ROOT = Path(__file__).resolve().parent.parent.parent
RUNNER = os.environ.get("PYLVS_GUEST", "")
KERNELS = {"bookworm": "6.1.", "trixie": "6.12."}
PYTEST = ("pytest", "_pytest", "iniconfig", "packaging", "pluggy", "py", "pygments")
"""What pytest is made of, all of it Python: the guest has none of its own."""
TESTS = {
    "packets": [f"packet/test_{name}" for name in ("nat", "dr", "counters", "servers", "table", "errors")],
    "directors": [f"packet/test_{name}" for name in ("conns", "status", "instance", "interfaces", "defence", "sysctl")],
    "protocols": [f"packet/test_{name}" for name in ("states", "ipsec", "timeouts", "persistence", "sip")],
    "schedulers": ["golden/test_sched", "packet/test_schedulers", "packet/test_thresholds"],
    "recordings": [f"golden/test_{name}" for name in ("states", "conn", "sysctl", "proc")],
    "forms": [f"packet/test_{name}" for name in ("linkless", "fragments", "fragments_jumbo")],
    "sums": ["packet/test_complete"],
    "ftp": [f"packet/test_{name}" for name in ("ftp", "ftp_rare", "ftp_stream")],
    "unwrapping": [f"packet/test_{name}" for name in ("decap_life", "tunnel_errors", "egress", "clsact")],
}
"""What packets go through; the schedulers, too: a verifier may take a loop of theirs for what it is not. A virtual
machine for each, of some minutes."""
LINKS = {
    "sent": ("test_tunnel_devices", "wrap_comes"),
    "unwrapped": ("test_tunnel_devices", "ipvs_wraps"),
    "tagged": ("test_links", "vlan or qinq"),
    "in-ethernet": ("test_links", "bond] or untagged or vxlan or geneve or gretap"),
    "in-ip": ("test_links", "(sit or ip6tnl or gre or wireguard) and not tap"),
}
"""Kinds of links, and Linux's own tunnels and director at the other end: which file has them, and what of it."""
SECONDS = 600

LOAD = """
from pylvs.datapath import loading
running = loading.load(12)
print("attached:", running.attached())
print("timer error:", running.runtime.get(0, "timer_error"))
loading.unload()
"""
PYLVS = "python3 -c 'import pylvs.cli; raise SystemExit(pylvs.cli.main())'"
IPVSADM = PYLVS.replace("pylvs.cli", "pylvs.ipvsadm")
TUNNELS = """set -e
modprobe -a ipip ip_gre fou
ip netns add c
ip netns add d
ip link add c0 netns c type veth peer name d0 netns d
ip -n c addr add 10.1.0.2/24 dev c0
ip -n d addr add 10.1.0.1/24 dev d0
ip -n d addr add 10.9.0.1/32 dev lo
for end in "c lo" "c c0" "d lo" "d d0"; do
    set -- $end
    ip -n $1 link set $2 up
done
director() { ip netns exec d "$@"; }
# nobody may say anything of his own: it would be counted among what comes out of tunnels
for end in c d; do
    ip netns exec $end sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
done
director sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
director ip fou add port 6080 gue
for kind in ipip gre; do
    ip -n d link add $kind type $kind local 10.1.0.1 remote 10.1.0.2
    ip -n d link set $kind up
done
director IPVSADM -A -u 10.9.0.1:80 -s rr
director IPVSADM -a -u 10.9.0.1:80 -r 10.1.0.2:80 -g
send() {
    ip -n c link add name out type "$@"
    ip -n c link set out up
    ip -n c route add 10.9.0.1 dev out src 10.1.0.2
    ip netns exec c python3 -c 'import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("10.9.0.1", 80))'
    ip -n c link del out
    director PYLVS status --json | python3 -c 'import json, sys
of = json.load(sys.stdin)["packets"]
print("balanced", of["forwarded_route"], "left alone", of["up_tunnelled"])'
}
for ignore in 0 1; do
    director PYLVS sysctl ignore_tunneled=$ignore
    send ipip local 10.1.0.2 remote 10.1.0.1
    send gre local 10.1.0.2 remote 10.1.0.1
    send ipip local 10.1.0.2 remote 10.1.0.1 encap gue encap-sport auto encap-dport 6080
done
""".replace("IPVSADM", IPVSADM).replace("PYLVS", PYLVS)
SCRIPT = """#!/bin/bash
echo "kernel: $(uname -r)"
mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf
modprobe -aq tun vxlan
cd /guest
export PYTHONPATH=/guest/site:/guest/src:/guest/tests PYTHONDONTWRITEBYTECODE=1
"""

pytestmark = pytest.mark.skipif(not RUNNER, reason="PYLVS_GUEST names no runner of virtual machines")


@pytest.fixture(scope="module")
def baggage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the guest gets: this tree as it is built, and pytest."""
    place = tmp_path_factory.mktemp("guest")
    unwanted = shutil.ignore_patterns("__pycache__")
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, place / name, ignore=unwanted)
    shutil.copy(ROOT / "pyproject.toml", place)
    shutil.copy(Path(built("heard"), "heard.bpf.o"), place / "tests" / "support")  # the guest has no compiler
    for name in PYTEST:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue  # this pytest does without it
        origin = Path(spec.origin)
        if origin.name == "__init__.py":
            shutil.copytree(origin.parent, place / "site" / name, ignore=unwanted)
        else:
            (place / "site").mkdir(exist_ok=True)
            shutil.copy(origin, place / "site")
    return place


def _ask(suite: str, baggage: Path, commands: str) -> str:
    """What the commands print in the guest; a failure of theirs fails the test with all of it."""
    script = baggage / f"{suite}.sh"
    script.write_text(SCRIPT + commands)
    script.chmod(0o755)
    done = subprocess.run(
        [RUNNER, "--merge", "--suite", suite, "--timeout", str(SECONDS), "-v", f"{baggage}:/guest", str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS + 60,
        check=False,
    )
    assert f"kernel: {KERNELS[suite]}" in done.stdout, done.stdout
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("suite", KERNELS)
def test_it_loads(suite: str, baggage: Path) -> None:
    """The verifier takes every program, and the timer starts."""
    said = _ask(suite, baggage, f"python3 - <<'END'\n{LOAD}\nEND\n")
    how = "clsact" if suite == "bookworm" else "tcx"
    assert f"attached: {{1: '{how}'}}\ntimer error: 0\n" in said


@pytest.mark.parametrize("suite", KERNELS)
def test_it_resizes(suite: str, baggage: Path) -> None:
    """The verifier takes the programs that work on two tables, too."""
    commands = ("load --conn-tab-bits 14", "load --conn-tab-bits 16", "load --conn-tab-bits 14", "status", "unload")
    said = _ask(suite, baggage, "set -e\n" + "".join(f"{PYLVS} {words}\n" for words in commands))
    assert "has 65536 slots; it had 16384\n" in said
    assert "has 16384 slots; it had 65536\n" in said
    assert "table         16384 slots (2^14" in said


@pytest.mark.parametrize("what", TESTS)
@pytest.mark.parametrize("suite", KERNELS)
def test_packets(suite: str, what: str, baggage: Path) -> None:
    files = " ".join(f"tests/{name}.py" for name in TESTS[what])
    assert " passed" in _ask(suite, baggage, f"python3 -m pytest -p no:cacheprovider {files}\n")


@pytest.mark.parametrize("suite", KERNELS)
def test_real_associations(suite: str, baggage: Path) -> None:
    """These kernels have SCTP, where many machines that tests run on have none."""
    said = _ask(suite, baggage, "modprobe sctp && python3 -m pytest -rs -p no:cacheprovider tests/e2e/test_sctp.py\n")
    assert " passed" in said and "no SCTP" not in said


@pytest.mark.parametrize("suite", KERNELS)
def test_what_comes_out_of_real_tunnels(suite: str, baggage: Path) -> None:
    """With ignore_tunneled it is left alone; without, it is balanced."""
    said = _ask(suite, baggage, TUNNELS)
    pairs = [(number, 0) for number in (1, 2, 3)] + [(3, number) for number in (1, 2, 3)]
    assert [line for line in said.splitlines() if line.startswith("balanced")] == [
        f"balanced {balanced} left alone {alone}" for balanced, alone in pairs
    ]


@pytest.mark.parametrize("what", LINKS)
@pytest.mark.parametrize("suite", KERNELS)
def test_links(suite: str, what: str, baggage: Path) -> None:
    """These kernels have tunnel devices, VLANs, bonds, WireGuard, and kernel IPVS."""
    file, part = LINKS[what]
    words = f"python3 -m pytest -rs -p no:cacheprovider tests/kernel61/{file}.py -k '{part}'"
    said = _ask(suite, baggage, f"{words}\n")
    assert " passed" in said and "skipped" not in said
