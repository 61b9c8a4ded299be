"""LVS-TUN with Linux itself at one end: what our director sends comes out of the kernel's tunnel devices, and what a
director in the kernel sends is unwrapped by ours. Runs where there are such devices, and ip_vs (test_guest.py).

   client -- router -- director          the lab's `tun`
                 \\---- rs1
"""

import itertools
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest

from pylvs.lab import Lab
from pylvs.lab.lab import console_script
from support.upload import datagram, upload

PORT, GUE_PORT = 9000, 6080
GUE = f"--tun-type gue --tun-port {GUE_PORT}"
KINDS = {
    "ipip": "", "gre": "--tun-type gre", "gre-csum": "--tun-type gre --tun-csum", "gue": GUE,
    "gue-csum": f"{GUE} --tun-csum", "gue-remcsum": f"{GUE} --tun-remcsum",
}  # fmt: skip
TYPES = ("ipip", "gre", "gue")
SIZE = 100_001
SECONDS = 30
kinds = pytest.mark.parametrize("kind", KINDS)


def _has(modules: str) -> bool:
    try:
        return all(not subprocess.run(["modprobe", one], capture_output=True).returncode for one in modules.split())
    except FileNotFoundError:
        return False


pytestmark = pytest.mark.skipif(
    not _has("ip_vs ip_vs_rr ipip sit ip6_tunnel ip_gre ip6_gre fou fou6"), reason="this kernel has no such devices"
)


@pytest.fixture(scope="module")
def tun() -> Iterator[Lab]:
    with Lab("tun", realservers=1, serve=False) as lab:
        yield lab


def _families(lab: Lab) -> Iterator[tuple[int, str, str]]:
    """(port, VIP, address of the real server), in every mixture."""
    rs1 = lab.host("rs1")
    for port, (vip, rip) in enumerate(itertools.product((lab.vip, lab.vip6), (rs1.ipv4, rs1.ipv6)), PORT):
        yield port, vip, rip


def _restored(lab: Lab, kind: str) -> str:
    lines = []
    for (port, vip, rip), protocol in itertools.product(_families(lab), ("-t", "-u")):
        service, server = (f"[{one}]:{port}" if ":" in one else f"{one}:{port}" for one in (vip, rip))
        lines += [f"-A {protocol} {service} -s rr", f"-a {protocol} {service} -r {server} -i {KINDS[kind]}"]
    return "\n".join(lines) + "\n"


def _talk(lab: Lab) -> None:
    for port, vip, _ in _families(lab):
        datagram(lab, vip, port, b"odd" * 301, seconds=SECONDS)
        datagram(lab, vip, port, b"", seconds=SECONDS)
        upload(lab, vip, port, SIZE, seconds=SECONDS)


@contextmanager
def _segmenting(lab: Lab) -> Iterator[None]:
    """The client's device takes no merged packets, and makes checksums: as from a wire."""
    lab.run("client", "ethtool -K eth0 tso off gso off tx off")
    try:
        yield
    finally:
        lab.run("client", "ethtool -K eth0 tso on gso on tx on")


# ---- our director, their real server ---------------------------------------------------------------------------------

NAMES = ("four", "six", "over6")


def _devices(lab: Lab, kind: str) -> list[str]:
    rs1, (name, _, sum_) = lab.host("rs1"), kind.partition("-")
    csum = "icsum" if name == "gre" and sum_ else ""
    if name == "gre":
        return [
            f"link add four type gre local {rs1.ipv4} remote any {csum}",
            f"link add over6 type ip6gre local {rs1.ipv6} remote any {csum}",
        ]
    return [
        f"link add four type ipip local {rs1.ipv4} remote any",
        f"link add six type sit local {rs1.ipv4} remote any",
        f"link add over6 type ip6tnl mode any local {rs1.ipv6} remote any",
    ]


@contextmanager
def _tunnel_devices(lab: Lab, kind: str) -> Iterator[None]:
    """rs1 unwraps by the kernel's devices, and not by our program."""
    lab.run("rs1", [*console_script("pylvs"), "realserver", "stop"])
    lines = _devices(lab, kind)
    names = [line.split()[2] for line in lines]
    lines += [f"link set {name} up" for name in names]
    gue = kind.startswith("gue")
    try:
        lab.run("rs1", ["ip", "-batch", "-"], input="\n".join(lines) + "\n")
        if gue:
            lab.run("rs1", f"ip fou add port {GUE_PORT} gue")
            lab.run("rs1", f"ip -6 fou add port {GUE_PORT} gue")
        for name in ("all", *names):
            lab.run("rs1", f"sysctl -q net.ipv4.conf.{name}.rp_filter=0")
        yield
        for name in names:
            counted = json.loads(lab.run("rs1", f"ip -json -stats link show {name}").stdout)[0]["stats64"]["rx"]
            assert counted["packets"] > 10 and not counted["errors"] and not counted["dropped"], (name, counted)
    finally:
        if gue:
            lab.run("rs1", f"ip fou del port {GUE_PORT}", check=False)
            lab.run("rs1", f"ip -6 fou del port {GUE_PORT}", check=False)
        for name in names:
            lab.run("rs1", f"ip link del {name}", check=False)


@pytest.mark.parametrize(
    ("kind", "merged"),
    # of a merged packet GRE has no checksum here, and a device that was made with icsum wants one of every packet
    [(kind, merged) for kind in KINDS for merged in (True, False) if (kind, merged) != ("gre-csum", True)],
)
def test_what_we_wrap_comes_out_of_the_kernels_devices(tun: Lab, kind: str, merged: bool) -> None:
    tun.ipvsadm("-R", input=_restored(tun, kind))
    try:
        with _tunnel_devices(tun, kind), nullcontext() if merged else _segmenting(tun):
            _talk(tun)
    finally:
        tun.ipvsadm("-C")


# ---- their director, our real server ---------------------------------------------------------------------------------


def _counters(lab: Lab) -> dict[str, int]:
    told = json.loads(lab.run("rs1", [*console_script("pylvs"), "realserver", "status", "--json"]).stdout)
    of: dict[str, int] = told["counters"]
    return of


@kinds
@pytest.mark.parametrize("merged", [True, False], ids=["merged", "cut"])
def test_what_kernel_ipvs_wraps_is_unwrapped(tun: Lab, kind: str, merged: bool) -> None:
    tun.run("rs1", [*console_script("pylvs"), "realserver", "decap", *(f"--type={one}" for one in TYPES)])
    tun.run("director", "/sbin/ipvsadm -R", input=_restored(tun, kind))
    before = _counters(tun)
    try:
        with nullcontext() if merged else _segmenting(tun):
            _talk(tun)
    finally:
        tun.run("director", "/sbin/ipvsadm -C")
    now = {name: count - before[name] for name, count in _counters(tun).items()}
    assert now[f"unwrapped_{kind.partition('-')[0]}"] > 40
    assert not [name for name in now if now[name] and name.startswith("dropped")], now
