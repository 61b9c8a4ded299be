"""Interfaces that come and go while the packet path is attached to them, by tcx links and by clsact filters."""

import errno
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from pylvs.datapath import instance as datapath
from pylvs.datapath import interfaces, syscall
from pylvs.datapath import object as loader
from pylvs.errors import InvalidValue
from support.harness import CLIENT, Harness, frame, ip
from support.talk import IPV4, Talk

NUMBER = 300
ADD = f"link add x0 index {NUMBER} type veth peer name x1"


@pytest.fixture(params=["tcx", "clsact"])
def lvs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    """A director in a network of its own, on a kernel with tcx links or on one without."""
    if request.param == "clsact":

        def refuse(*_: object) -> int:
            raise OSError(errno.EINVAL, "no such link type")

        monkeypatch.setattr(syscall, "link_create", refuse)
    with Harness() as harness:
        try:
            if request.param not in harness.instance.attached().values():
                pytest.skip("the kernel has no tcx links")
            yield harness
        finally:
            harness.enter()


def _links(lvs: Harness) -> set[str]:
    return {name for name in os.listdir(f"{lvs.instance.path}/links") if name.startswith(str(NUMBER))}


def _renew(lvs: Harness) -> None:
    lvs.instance.replace_programs()
    lvs.reopen()


def _next_command(lvs: Harness) -> None:
    """It looks around for interfaces, before it changes something."""
    lvs.reopen()
    lvs.director.set_timeouts(lvs.director.timeouts())


def test_programs_are_replaced_after_an_interface_has_gone(lvs: Harness) -> None:
    talk = Talk(lvs, IPV4).serve()
    how = lvs.instance.attached()[100]
    ip(ADD)
    _next_command(lvs)
    assert lvs.instance.attached()[NUMBER] == how
    ip("link del x0")
    assert NUMBER not in lvs.instance.attached()
    _renew(lvs)
    assert talk.asks("S").forwarded
    _next_command(lvs)
    assert not _links(lvs), "nothing reminds of it"


def test_another_interface_of_the_same_number(lvs: Harness) -> None:
    """It is not taken for the one that was there, and gets the packet path like any newcomer."""
    Talk(lvs, IPV4).serve()
    ip(ADD)
    _next_command(lvs)
    ip(f"link del x0\n{ADD}")
    assert NUMBER not in lvs.instance.attached()
    assert not lvs.instance.detach(interfaces.find("x0")), "it was not on it"
    ip(f"link del x0\n{ADD}")
    interfaces._unnote(f"{lvs.instance.path}/links/{NUMBER}x")
    _next_command(lvs)
    assert NUMBER in lvs.instance.attached()
    ip("link del x0")


def test_an_interface_that_was_taken_off_stays_off(lvs: Harness) -> None:
    Talk(lvs, IPV4).serve()
    ip(ADD)
    _next_command(lvs)
    assert lvs.instance.detach(interfaces.find("x0"))
    _next_command(lvs)
    assert NUMBER not in lvs.instance.attached()
    _renew(lvs)
    assert NUMBER not in lvs.instance.attached()
    ip("link del x0")
    _next_command(lvs)
    ip(ADD)  # another one, of which nobody has said anything
    _next_command(lvs)
    assert NUMBER in lvs.instance.attached()
    ip("link del x0")


def test_one_that_goes_just_then(lvs: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between looking which there are and putting programs on them."""
    talk = Talk(lvs, IPV4).serve()
    ip(ADD)
    _next_command(lvs)
    attach, gone = interfaces.attach, []

    def go(directory: str, program: int, ifindex: int) -> None:
        if not gone:
            gone.append(ifindex)
            ip("link del x0")
        attach(directory, program, ifindex)

    monkeypatch.setattr(interfaces, "attach", go)
    _renew(lvs)
    assert gone and NUMBER not in lvs.instance.attached()
    assert talk.asks("S").forwarded


def test_other_refusals_are_told(lvs: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOMEM, "refused")

    monkeypatch.setattr(interfaces, "attach", refuse)
    with pytest.raises(OSError, match="refused"):
        lvs.instance.replace_programs()


def test_asking_for_a_filter_leaves_no_trace(lvs: Harness) -> None:
    """libbpf complains of what is not there; the next refusal must not show that."""
    library = loader._library()
    before = list(library.log)
    assert not loader.clsact_attached(1 << 20)
    assert library.log == before
    shown = subprocess.run(["tc", "qdisc", "show", "dev", "d0"], capture_output=True, text=True, check=True).stdout
    assert ("clsact" in shown) == (lvs.instance.attached()[100] == "clsact")
    assert loader.clsact_attached(100) == ("clsact" in shown)
    assert datapath.find() is not None


def test_parts_of_a_bridge(lvs: Harness) -> None:
    """A frame comes again by the bridge, which has to see it first: so the packet path is on the bridge alone."""
    Talk(lvs, IPV4).serve()
    ip(f"{ADD}\nlink add b0 index {NUMBER + 1} type bridge")
    _next_command(lvs)
    assert {NUMBER, NUMBER + 1} <= set(lvs.instance.attached())
    ip("link set x0 master b0")
    _next_command(lvs)
    assert NUMBER not in lvs.instance.attached()
    assert not _links(lvs), "nobody has taken it off for good"
    with pytest.raises(InvalidValue, match="x0 is part of b0, where its packets come again"):
        interfaces.find("x0")
    ip("link set x0 nomaster")
    _next_command(lvs)
    assert NUMBER in lvs.instance.attached()
    ip("link del x0\nlink del b0")


def test_priority_tags(lvs: Harness) -> None:
    """A tag of VLAN 0 says how urgent a frame is, and belongs to no VLAN: the packet is taken like any other."""
    talk = Talk(lvs, IPV4).serve()
    plain = frame(talk.question("S"), CLIENT)

    def tagged(vlan: int) -> bytes:
        return plain[:12] + b"\x81\0" + (5 << 13 | vlan).to_bytes(2, "big") + plain[12:]

    assert lvs.wire([tagged(10)]) == {"up_vlan": 1}
    assert lvs.wire([tagged(0)]) == {"forwarded_nat_request": 1}
    assert talk.entry
