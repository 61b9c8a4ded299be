"""What the kernel's net.ipv4.vs held and took, beside ours: every recorded default, and every recorded write."""

import json

import pytest

from pylvs import sysctl
from pylvs.errors import InvalidValue
from support.harness import Harness
from support.recordings import GOLDEN

RECORDED = json.loads((GOLDEN / "proc" / "trixie.json").read_text())
WRITES: dict[str, list[tuple[str, int, str]]] = json.loads((GOLDEN / "proc" / "trixie-sysctl-writes.json").read_text())[
    "writes"
]
OURS_ALONE = {"conn_lfactor", "conn_max", "debug_level", "lblc_expiration", "lblcr_expiration", "svc_lfactor"}
"""Of newer kernels, of kernels built for debugging, of modules that were not loaded."""
OF_THE_MACHINE = ("sync_qlen_max", "est_cpulist")


def test_the_names_are_the_kernels() -> None:
    assert set(sysctl.NAMES) == set(RECORDED["defaults_init_netns"]) | OURS_ALONE


def test_defaults(lvs: Harness) -> None:
    recorded = {name: value for name, (value, _) in RECORDED["defaults_new_netns"].items()}
    ours = lvs.director.sysctls()
    for name in OF_THE_MACHINE:
        assert ours.pop(name) and recorded.pop(name)
    assert {name: value for name, value in ours.items() if name not in OURS_ALONE} == recorded


def _write(lvs: Harness, name: str, text: str) -> int:
    try:
        lvs.director.set_sysctl(name, text)
    except InvalidValue as error:
        return error.errno
    return 0


@pytest.mark.parametrize("name", [name for name in WRITES if name != "est_cpulist"])
def test_writes(lvs: Harness, name: str) -> None:
    default = lvs.director.sysctl(name)
    recorded_default = RECORDED["defaults_new_netns"][name][0]
    for text, errno, then in WRITES[name]:
        then = default if then == recorded_default else then
        assert _write(lvs, name, text) == errno, f"{name} = {text!r}"
        assert lvs.director.sysctl(name) == then, f"{name} = {text!r}"
        lvs.director.set_sysctl(name, default)


@pytest.mark.parametrize(("text", "errno", "then"), WRITES["est_cpulist"])
def test_cpu_lists(text: str, errno: int, then: str) -> None:
    """Recorded on a machine with one CPU."""
    now = sysctl.defaults(1, 1 << 20)
    try:
        now |= dict(sysctl.write("est_cpulist", text, now, 1))
        assert errno == 0
    except InvalidValue as error:
        assert error.errno == errno
    assert sysctl.read("est_cpulist", now) == then
