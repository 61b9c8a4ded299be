"""A tunnel real server's program comes, is changed while packets pass, and goes; whoever is killed on the way."""

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from socket import AF_PACKET, SOCK_RAW, socket

import pytest

from pylvs.cli import realserver
from pylvs.datapath import bpffs, decap, instance, loading, netlink, syscall
from pylvs.errors import InvalidValue
from pylvs.ipvsadm.commands import Shell
from pylvs.lab.waiting import wait_for
from pylvs.realserver import TUNNELS, Decapsulation
from support.harness import ip
from support.packets import tcp_packet
from support.unwrapping import DIP, DIP6, RealServer, frame, gre, gue, ipip, remcsum, wrap

VIP, VIP6 = "10.99.0.1", "fd00:99::1"
INNER, INNER6 = tcp_packet("10.1.0.1", 1025, VIP, 80, "S"), tcp_packet("fd00:1::1", 1025, VIP6, 80, "S")


class _Killed(BaseException):
    pass


@pytest.fixture
def server() -> Iterator[RealServer]:
    """A real server of one's own."""
    server = RealServer()
    server.enter()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def without_tcx(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "no such link type")

    monkeypatch.setattr(syscall, "link_create", refuse)


def _pylvs(*words: str) -> tuple[int, str]:
    said = io.StringIO()
    with redirect_stdout(said):
        code = realserver.main(list(words))
    return code, said.getvalue()


def _really(packets: list[bytes]) -> dict[str, int]:
    """Send packets through the cable; how many came to each end."""

    def counters() -> dict[str, int]:
        running = decap.find()
        assert running is not None
        with running:
            return running.counters()

    before = counters()
    with socket(AF_PACKET, SOCK_RAW) as cable:
        cable.bind(("p0", 0))
        for packet in packets:
            cable.send(frame(packet))
    wait_for(lambda: counters()["received"] - before["received"] >= len(packets), "the packets to arrive")
    return {name: now - before[name] for name, now in counters().items() if now != before[name]}


def test_only_what_was_asked_for_is_unwrapped(server: RealServer) -> None:
    for types in (["ipip"], ["gre"], ["gue"], ["gre", "gue"]):
        server.set(types)
        for name in TUNNELS:
            reason = server.send(frame(wrap(name, INNER))).reason
            assert reason == (f"unwrapped_{name}" if name in types else "up_other")


def test_gue_has_the_ports_that_it_was_given(server: RealServer) -> None:
    server.set(["gue"], ports=[7000, 65535])
    for port, reason in ((7000, "unwrapped_gue"), (65535, "unwrapped_gue"), (6080, "up_other")):
        assert server.send(frame(gue(INNER, port=port))).reason == reason
    server.set(["gue"])
    assert server.send(frame(gue(INNER))).reason == "unwrapped_gue"
    assert server.send(frame(gue(INNER, port=7000))).reason == "up_other"


def test_only_the_vips_that_were_named(server: RealServer) -> None:
    other = tcp_packet("10.1.0.1", 1025, "10.99.0.2", 80, "S")
    server.set(vips=[VIP, VIP6])
    for inner, reason in ((INNER, "unwrapped_gre"), (INNER6, "unwrapped_gre"), (other, "up_inner")):
        assert server.send(frame(gre(inner))).reason == reason
    server.set(vips=["10.99.0.2", VIP6])
    assert server.send(frame(gre(other))).reason == "unwrapped_gre"
    assert server.send(frame(gre(INNER))).reason == "up_inner"


def test_only_the_directors_that_were_named(server: RealServer) -> None:
    server.set(directors=[DIP, DIP6])
    for v6 in (False, True):
        assert server.send(frame(ipip(INNER, v6))).reason == "unwrapped_ipip"
        stranger = "fd00:9::2" if v6 else "10.0.9.2"
        assert server.send(frame(ipip(INNER, v6, src=stranger))).reason == "up_sender"


def test_the_settings_are_read_back(server: RealServer) -> None:
    wanted = server.set(["ipip"], [9000], [VIP6, "10.99.0.7", VIP], [DIP6, DIP])
    with decap.Decap(server._decap) as running:
        assert running.settings() == wanted
    assert wanted == Decapsulation(("ipip", "gue"), (9000,), (VIP, "10.99.0.7", VIP6), (DIP, DIP6))


def test_a_refused_change_changes_nothing(server: RealServer) -> None:
    before = server.set(vips=[VIP])
    with pytest.raises(InvalidValue, match="no interface nope; there are"):
        decap.run(Decapsulation(("gre",)), ["nope"])
    with pytest.raises(InvalidValue, match="5000 addresses and ports are too many"):
        decap.run(Decapsulation(("gre",), vips=tuple(f"10.99.{n >> 8}.{n & 255}" for n in range(5000))), ["e0"])
    with decap.Decap(server._decap) as running:
        assert running.settings() == before
    assert server.send(frame(ipip(INNER))).reason == "unwrapped_ipip"


def test_a_change_is_one_store(server: RealServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then packets see all of the old settings, and from then on all of the new."""
    server.set(["ipip"], vips=[VIP])

    def killed(*_: object) -> None:
        assert server.send(frame(ipip(INNER))).reason == "unwrapped_ipip"
        assert server.send(frame(gre(INNER6))).reason == "up_other"
        raise _Killed

    with monkeypatch.context() as patch, pytest.raises(_Killed):
        patch.setattr(decap.Decap, "put", killed)
        server.set(["gre"], vips=[VIP6])
    with decap.Decap(server._decap) as running:
        assert running.settings() == Decapsulation(("ipip",), (), (VIP,))
    server.set(["gre"], vips=[VIP6])
    assert server.send(frame(ipip(INNER))).reason == "up_other"
    assert server.send(frame(gre(INNER6))).reason == "unwrapped_gre"


@pytest.mark.parametrize("where", ["_attach", "prepare", "rename", "put"])
def test_the_next_command_makes_good_what_a_killed_one_left(
    server: RealServer, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    assert decap.stop()

    def killed(*_: object) -> None:
        raise _Killed

    owner = {"_attach": decap, "rename": os}.get(where, decap.Decap)
    with monkeypatch.context() as patch, pytest.raises(_Killed):
        patch.setattr(owner, where, killed)
        patch.setattr(decap, "_remove", lambda _: None)  # a killed process does not tidy up
        server.set()
    server.set(vips=[VIP])
    assert server.send(frame(ipip(INNER))).reason == "unwrapped_ipip"
    assert _really([ipip(INNER)])["unwrapped_ipip"] == 1
    assert decap.stop()
    assert not decap.pinned()


def test_what_a_killed_command_left_can_be_stopped(server: RealServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert decap.stop()

    def killed(*_: object) -> None:
        raise _Killed

    with monkeypatch.context() as patch, pytest.raises(_Killed):
        patch.setattr(os, "rename", killed)
        patch.setattr(decap, "_remove", lambda _: None)
        server.set()
    assert decap.pinned()
    assert not decap.stop(), "it never ran"
    assert not decap.pinned()


def test_another_build_takes_over(server: RealServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.set(["gre"], vips=[VIP])
    with decap.Decap(server._decap) as running:
        assert running.current()
        monkeypatch.setattr(decap, "fingerprint", lambda: b"another build".ljust(32))
        assert not running.current()
    assert "another version" in _pylvs("status")[1]
    server.set(["ipip"])
    assert "another version" not in _pylvs("status")[1]
    assert _really([ipip(INNER), ipip(INNER6)]) == {"received": 2, "unwrapped_ipip": 2}
    assert sorted(os.listdir(server._decap)) == ["current", "links"]


@pytest.mark.usefixtures("without_tcx")
def test_without_tcx_links_it_is_a_clsact_filter(server: RealServer) -> None:
    server.set()
    decap.stop()
    server.set()
    with decap.Decap(server._decap) as running:
        assert set(running.attached().values()) == {"clsact"}
    assert _really([ipip(INNER), remcsum(INNER6, True)]) == {"received": 2, "unwrapped_ipip": 1, "unwrapped_gue": 1}
    assert decap.stop()
    shown = subprocess.run(["tc", "filter", "show", "dev", "e0", "ingress"], capture_output=True, text=True, check=True)
    assert "decap" not in shown.stdout


@pytest.mark.parametrize("how", ["tcx", "clsact"])
@pytest.mark.parametrize("first", ["director", "realserver"])
def test_a_director_on_the_same_host_does_not_see_the_inner_packets(
    server: RealServer, monkeypatch: pytest.MonkeyPatch, first: str, how: str
) -> None:
    """Whichever came first: what another director has scheduled is not scheduled again."""
    if how == "clsact":
        monkeypatch.setattr(syscall, "link_create", _no_tcx)
    decap.stop()
    if first == "realserver":
        server.set(vips=[VIP])
    loading.load(12, 16, 16).close()
    try:
        for line in (f"-A -t {VIP}:80 -s rr", f"-a -t {VIP}:80 -r 10.3.0.1:80 -g"):
            assert Shell((), io.StringIO(), io.StringIO()).run(line.split()) == 0
        server.set(vips=[VIP])
        with decap.Decap(server._decap) as running:
            assert set(running.attached().values()) == {how}
        assert _really([ipip(INNER)] * 3)["unwrapped_ipip"] == 3
        director = instance.find()
        assert director is not None
        assert not any(director.counters.sums(0)), "it has scheduled one"
        director.close()
    finally:
        loading.unload()
    assert _really([ipip(INNER)]) == {"received": 1, "unwrapped_ipip": 1}, "it goes, and this stays"


def _no_tcx(*_: object) -> int:
    raise OSError(errno.EINVAL, "no such link type")


def test_it_is_on_all_interfaces_or_on_those_that_were_named(server: RealServer) -> None:
    ip("link add x0 type veth peer name x1\n")
    number = {one.name: one.ifindex for one in netlink.interfaces()}
    assert _pylvs("decap")[0] == 0
    with decap.Decap(server._decap) as running:
        assert set(running.attached()) == set(number.values()) - {1}
    assert _pylvs("decap", "--dev", "x1", "--dev", "e0")[0] == 0
    with decap.Decap(server._decap) as running:
        assert set(running.attached()) == {number["x1"], number["e0"]}
    ip("link del x0\n")
    assert _pylvs("decap")[0] == 0
    with decap.Decap(server._decap) as running:
        assert set(running.attached()) == {number["p0"], number["e0"]}


def test_only_interfaces_with_ethernet_headers(server: RealServer) -> None:
    ip("tuntap add dev t9 mode tun\nlink set t9 up\n")
    with pytest.raises(InvalidValue, match="t9 has no Ethernet header"):
        decap.run(Decapsulation(), ["t9"])
    with decap.run(Decapsulation(mss=(1400, 1400))) as running:
        numbers = {one.ifindex for one in netlink.interfaces() if one.name in ("e0", "p0")}
        assert set(running.attached()) == set(running.clamps()) == numbers


def test_status_says_it_all(server: RealServer) -> None:
    assert _pylvs("decap", "--dev", "e0", "--vip", VIP, "--port", "7000", "--director", DIP)[1] == (
        "unwraps gue (port 7000) on e0\n"
    )
    server.send(frame(gue(INNER, port=7000)))
    server.send(frame(gue(INNER6, port=7000)))
    shown = _pylvs("status")[1]
    assert "unwraps gue (port 7000)\nfrom      10.0.9.1\nto        10.99.0.1\non        e0 (" in shown
    assert "  1  unwrapped_gue      GUE\n" in shown and "  1  up_inner " in shown
    told = json.loads(_pylvs("status", "--json")[1])
    assert told["running"] and told["vips"] == [VIP] and told["ports"] == [7000] and told["interfaces"] == ["e0"]
    assert told["counters"]["unwrapped_gue"] == told["counters"]["up_inner"] == 1
    assert _pylvs("stop") == (0, "nothing is unwrapped any more\n")
    assert _pylvs("stop") == (0, "nothing was unwrapped\n")
    assert json.loads(_pylvs("status", "--json")[1]) == {"running": False}
    assert _pylvs("status")[1].startswith("nothing is unwrapped in this network namespace")


def test_every_reason_is_explained() -> None:
    assert set(realserver.MEANING) == set(decap.REASONS) - {"received"}


def test_a_strict_rp_filter_is_told_of(server: RealServer) -> None:
    with open("/proc/sys/net/ipv4/conf/p0/rp_filter", "w") as file:
        file.write("1")
    with open("/proc/sys/net/ipv4/conf/e0/rp_filter", "w") as file:
        file.write("1")
    said = _pylvs("decap")[1]
    assert "rp_filter is strict on p0" in said and "sysctl -w net.ipv4.conf.p0.rp_filter=2" in said
    assert "strict on e0" not in said, "the default route leaves there"


def test_check_says_what_is_missing_and_how_to_mend_it(server: RealServer) -> None:
    code, said = _pylvs("check", "--vip", "10.99.0.9")
    assert code == 1
    commands = [line.strip() for line in said.splitlines() if line.startswith("         ")]
    assert len(commands) == 3, said
    for command in commands:
        subprocess.run(command.split(), check=True, capture_output=True)
    code, said = _pylvs("check")
    assert code == 0 and "missing" not in said, said
    decap.stop()
    assert _pylvs("check")[0] == 0, "as a real server of LVS-DR"
    code, said = _pylvs("check", "--method", "tun")
    assert code == 1 and "pylvs realserver decap" in said


def test_pins_of_namespaces_that_are_gone_go_with_the_next_command(server: RealServer) -> None:
    """As far as links tell: where there are none, a namespace could be alive."""
    with decap.Decap(server._decap) as running:
        tcx = set(running.attached().values()) == {"tcx"}
    if not tcx:
        pytest.skip("Linux has tcx links from 6.6 on")
    child = "from pylvs.datapath import decap; decap.run(decap.Decapsulation()); print(decap._directory())"
    script = f'ip link add x0 type veth peer name x1; exec "$0" -c "{child}"'
    gone = subprocess.run(
        ["unshare", "--net", "sh", "-c", script, sys.executable], capture_output=True, text=True, check=True
    ).stdout.strip()
    root = bpffs.root(name=decap.ROOT)
    assert root and os.path.basename(gone) != os.path.basename(server._decap)

    def pruned() -> bool:
        server.set()
        return not os.path.exists(f"{root}/{os.path.basename(gone)}")

    wait_for(pruned, "the kernel to take the namespace down", 10)
    assert os.path.exists(server._decap)
