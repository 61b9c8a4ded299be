"""A SYN flood at full speed, from clients that do not exist, while others work.

    flood --+
            +-- client ---- director ---- rs1 rs2 rs3          (the lab "nat", drawn in test_tcp.py)

The table is small: a few thousand of the flood's connections fill it many times over. What is established keeps its
place, and who comes new finds one, because half-open connections give way to newcomers, the oldest first.
"""

import json
import socket
import threading
from pathlib import Path

import pytest

from pylvs import Director
from pylvs.datapath.layout import REASONS
from pylvs.lab import Lab
from support.books import books
from support.packets import ether, mac, tcp_packet

from .service import Service

BITS = 12
"""4096 slots: 2048 connections of LVS-NAT."""
NOBODY = "198.18"
"""Where the flood claims to come from: a network for benchmarks. The client's side lets the answers die."""
FRAMES, MOST = 20_000, 400_000
RECIPE = {"drop_entry": 1, "secure_tcp": 1}
"""What docs/reference.md recommends."""
CLIENTS = 10


class Flood:
    """SYNs from FRAMES clients that do not exist, again and again, until it is stopped or has sent MOST."""

    def __init__(self, lab: Lab, vip: str, port: int):
        links = json.loads(lab.run("client", "ip -j link show eth0").stdout)
        gate = json.loads(lab.run("director", "ip -j link show eth0").stdout)
        here, there = mac(links[0]["address"]), mac(gate[0]["address"])
        self._frames = [
            ether(tcp_packet(f"{NOBODY}.{n >> 6 & 255}.{n & 63}", 1024 + n, vip, port, "S"), there, here)
            for n in range(FRAMES)
        ]
        self._socket = lab.socket("client", socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.bind(("eth0", 0))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent = 0

    def _run(self) -> None:
        while not self._stop.is_set() and self.sent < MOST:
            for start in range(0, FRAMES, 500):
                for frame in self._frames[start : start + 500]:
                    try:
                        self._socket.send(frame)
                        self.sent += 1
                    except OSError:  # the queue is full
                        pass
                if self._stop.is_set():
                    return

    def __enter__(self) -> "Flood":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()


@pytest.fixture
def small(nat: Lab) -> Lab:
    """With a small table, and a way back to where the flood claims to come from."""
    nat.pylvs(["load", "--conn-tab-bits", str(BITS)])
    nat.run("director", f"ip route replace {NOBODY}.0.0/16 via 192.168.1.2")
    return nat


def _reason(director: Director, name: str) -> int:
    assert director.instance is not None
    return director.instance.reasons.sums(REASONS.index(name))[0]


@pytest.mark.parametrize("defended", [True, False], ids=["defended", "by default"])
def test_a_flood(small: Lab, tmp_path: Path, defended: bool) -> None:
    service = Service(small, "-m").add()
    if defended:
        small.pylvs(["sysctl", *(f"{name}={value}" for name, value in RECIPE.items())])
    assert service.get() in ("rs1", "rs2", "rs3")
    with small.enter("director"), Director() as director:
        running = director.instance
        assert running is not None
        slots = director.table_size
        download = service.download(tmp_path / "big", rate="1m")
        download.wait_until(1)
        with Flood(small, service.vip, service.port) as flood:
            small.wait_for(lambda: running.runtime.get(0, "gave_way") > 2 * slots, "the table to be full", seconds=20)
            if defended:
                small.wait_for(lambda: director.sysctl("drop_entry") == "2", "drop_entry to switch on")
                small.wait_for(lambda: running.runtime.get(0, "secure"), "secure_tcp to switch on")
            assert download.running()
            assert {service.get() for _ in range(CLIENTS)} <= {"rs1", "rs2", "rs3"}
            assert flood.sent < MOST, "these came while it went on"
        download.finish()
        assert _reason(director, "dropped_table_full") <= flood.sent // 1000
        if defended:
            assert running.runtime.get(0, "entries_dropped") > 0
        director.set_sysctls(dict.fromkeys(RECIPE, 0))
        small.wait_for(lambda: _balanced(director), "the last packets to arrive")
        running.config.put(0, "clock_offset", running.config.get(0, "clock_offset") + 1000 * 10**9)
        running.run("catch_up")
        assert books(running) == (0, 0)


def _balanced(director: Director) -> bool:
    assert director.instance is not None
    try:
        books(director.instance)
    except AssertionError:
        return False
    return True
