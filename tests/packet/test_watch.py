"""pylvs attach --all and --watch: interfaces that come later get the packet path, but for those it was taken off."""

import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pylvs.cli.attach import main
from pylvs.datapath import netlink
from pylvs.datapath.layout import OWN_ADDRESS
from pylvs.errors import DatapathError
from pylvs.lab.lab import environment
from pylvs.lab.waiting import wait_for
from support.harness import Harness, ip


@pytest.fixture
def lvs(own_network: Harness) -> Iterator[Harness]:
    own_network.enter()
    own_network.reload()
    try:
        yield own_network
    finally:
        own_network.enter()
        for interface in netlink.interfaces():
            if interface.name.startswith("w"):
                ip(f"link del {interface.name}")
        own_network.leave()


class Watcher:
    """pylvs attach --watch at work."""

    def __init__(self) -> None:
        words = [sys.executable, "-c", "import sys; from pylvs.cli import main; sys.exit(main())", "attach", "--watch"]
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(), bufsize=1
        )

    def says(self, line: str) -> None:
        """Wait for its next line."""
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 20)[0], f"it never says: {line}"
        assert self.process.stdout.readline() == f"{line}\n"

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@contextmanager
def watching() -> Iterator[Watcher]:
    watcher = Watcher()
    try:
        watcher.says("watching interfaces")
        yield watcher
    finally:
        watcher.process.kill()
        watcher.process.communicate()


def _interface(name: str) -> None:
    ip(f"link add {name} type bridge\nlink set {name} up\n")


def _attached(lvs: Harness) -> set[str]:
    on = lvs.instance.attached()
    return {interface.name for interface in netlink.interfaces() if interface.ifindex in on}


def _known(lvs: Harness, interface: str, address: str) -> bool:
    raw = socket.inet_pton(socket.AF_INET6, address)
    key = OWN_ADDRESS.pack(ifindex=socket.if_nametoindex(interface), address=raw)
    return lvs.instance.own_addresses.get(key) is not None


def test_all(lvs: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("w0", "w1"):
        _interface(name)
    assert main(["--all"]) == 0
    assert sorted(line.split()[2] for line in capsys.readouterr().out.splitlines()) == ["w0", "w1"]
    assert {"w0", "w1"} <= _attached(lvs)
    lvs.instance.detach(next(i for i in netlink.interfaces() if i.name == "w1"))
    assert main(["--all"]) == 0
    assert capsys.readouterr().out == "nothing to attach to; left alone: w1 (detached)\n"
    assert "w1" not in _attached(lvs)
    assert main(["w1"]) == 0
    assert main(["--all"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing to attach to"


@pytest.mark.parametrize("words", [[], ["eth0", "--all"], ["--all", "--watch"], ["eth0", "eth1"], ["--wat"]])
def test_wrong_words(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert "pylvs attach: error: " in capsys.readouterr().err


def test_without_a_director(lvs: Harness) -> None:
    lvs.unload()
    with pytest.raises(DatapathError, match="pylvs load"):
        main(["--all"])


def test_watching(lvs: Harness) -> None:
    """It is there for what comes, learns addresses, leaves alone what was detached, and ends when it is told to."""
    _interface("w0")
    with watching() as watcher:
        watcher.says("attached to w0 (tcx)" if "tcx" in lvs.instance.attached().values() else "attached to w0 (clsact)")
        lvs.instance.detach(next(i for i in netlink.interfaces() if i.name == "w0"))
        _interface("w1")
        wait_for(lambda: "w1" in _attached(lvs), "w1 to be attached", 20)
        ip("addr add fd00:7::7/64 dev w1 nodad")
        wait_for(lambda: _known(lvs, "w1", "fd00:7::7"), "the address to be known", 20)
        ip("addr del fd00:7::7/64 dev w1")
        wait_for(lambda: not _known(lvs, "w1", "fd00:7::7"), "the address to be forgotten", 20)
        assert "w0" not in _attached(lvs)
        assert watcher.end(signal.SIGTERM) == 0


def test_watching_outlives_directors(lvs: Harness) -> None:
    with watching() as watcher:
        lvs.unload()
        _interface("w0")
        lvs.load()
        assert "w0" in _attached(lvs)
        _interface("w1")
        wait_for(lambda: "w1" in _attached(lvs), "w1 to be attached", 20)
        assert watcher.end(signal.SIGINT) == 0
        assert watcher.process.stdout is not None
        assert "pylvs:" not in watcher.process.stdout.read()


def test_more_news_than_there_is_room_for(lvs: Harness) -> None:
    news = netlink.listen()
    try:
        news.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        ip("".join(f"link add w{n} type bridge\n" for n in range(12)))
        netlink.drain(news)
        with pytest.raises(BlockingIOError):
            news.recv(10)
    finally:
        news.close()
