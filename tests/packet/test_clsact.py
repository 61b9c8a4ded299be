"""The packet path where the kernel has no tcx links, before 6.6: filters of a clsact queueing discipline."""

import errno
import subprocess
from collections.abc import Iterator

import pytest

from pylvs.datapath import interfaces, syscall
from support.harness import Harness, frame
from support.talk import IPV4, Talk


@pytest.fixture
def lvs(alone: Harness) -> Harness:
    return alone


@pytest.fixture
def clsact(lvs: Harness, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    lvs.unload()

    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "no such link type")

    monkeypatch.setattr(syscall, "link_create", refuse)
    lvs.load()
    yield lvs
    lvs.unload()
    for device in ("lo", "d0", "d1"):
        subprocess.run(["tc", "qdisc", "del", "dev", device, "clsact"], capture_output=True, check=False)
    monkeypatch.undo()
    lvs.load()


def _tc(*words: str) -> str:
    return subprocess.run(["tc", *words], capture_output=True, text=True, check=True).stdout


def _filters(device: str = "d0") -> list[str]:
    """The filters that run a program of ours."""
    shown = _tc("filter", "show", "dev", device, "ingress").splitlines()
    return [line for line in shown if "pref 50432" in line and " id " in line]


def test_clsact_attached(clsact: Harness) -> None:
    assert set(clsact.instance.attached().values()) == {"clsact"}
    assert len(_filters()) == 1
    talk = Talk(clsact, IPV4).serve()
    assert clsact.wire([frame(talk.question("S"))]) == {"forwarded_nat_request": 1}


def test_clsact_replaced(clsact: Harness) -> None:
    talk = Talk(clsact, IPV4).serve()
    clsact.wire([frame(talk.question("S"))])
    before = _filters()
    clsact.instance.replace_programs()
    clsact.instance.attach(interfaces.find("d0"))
    after = _filters()
    assert len(after) == 1
    assert before != after
    assert clsact.wire([frame(talk.question("A"))]) == {"forwarded_nat_request": 1}


def test_clsact_detached(clsact: Harness) -> None:
    assert clsact.instance.detach(interfaces.find("d0"))
    assert _filters() == []
    assert len(_filters("d1")) == 1
    clsact.unload()
    assert _filters("d1") == []
    clsact.load()


def test_clsact_beside_others(clsact: Harness) -> None:
    """Somebody's own filters before and after ours stay, and let ours see their packets."""
    theirs = f"{clsact.instance.path}/programs/catch_up"  # any program that matches nothing
    for priority in ("10", "60000"):
        place = ("dev", "d0", "ingress", "pref", priority, "protocol", "all")
        _tc("filter", "add", *place, "bpf", "object-pinned", theirs)
    talk = Talk(clsact, IPV4).serve()
    assert clsact.wire([frame(talk.question("S")), frame(talk.from_port(20).question("S"))]) == {
        "forwarded_nat_request": 1, "up_client_port_20": 1,
    }  # fmt: skip
    clsact.unload()
    rest = _tc("filter", "show", "dev", "d0", "ingress")
    assert _filters() == []
    assert "pref 10 " in rest and "pref 60000 " in rest
    clsact.load()
    assert len(_filters()) == 1
