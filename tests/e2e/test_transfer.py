"""Long connections, and what happens to them when the table of real servers changes. Topologies as in test_tcp.py."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pylvs.datapath import instance
from pylvs.lab import Lab, wait_for
from pylvs.lab.servers import BIG_SIZE

from .conftest import EVERYWHERE, places
from .service import Service

STARTED = 256 << 10
QUIET = 0.3  # the trickle of /slow comes in steps of 20 ms at most


def settled(value: Callable[[], int]) -> Callable[[], bool]:
    """A condition: the value has stopped changing."""
    last, since = value(), time.monotonic()

    def check() -> bool:
        nonlocal last, since
        now = value()
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since >= QUIET

    return check


@EVERYWHERE
def test_every_byte_arrives(any_lab: Lab, method: str, ipv6: bool, tmp_path: Path) -> None:
    """At full speed, so that the frames are of the large kind that segmentation offload makes."""
    service = Service(any_lab, method, ipv6=ipv6).add()
    downloads = [service.download(tmp_path / f"big{number}") for number in range(3)]
    for download in downloads:
        download.finish()


@EVERYWHERE
def test_bulk_in_both_directions(any_lab: Lab, method: str, ipv6: bool) -> None:
    service = Service(any_lab, method, ipv6=ipv6, port=5201).add("rs1")
    server = any_lab.serve_iperf3("rs1")
    try:
        for direction in ([], ["--reverse"]):
            words = ["iperf3", "-c", service.vip, "-n", "64M", "--json", *direction]
            report = json.loads(any_lab.run("client", words, timeout=20).stdout)
            # iperf3 ends when all is sent, with the last window still on the wire; test_every_byte_arrives is exact.
            assert report["end"]["sum_received"]["bytes"] >= 32 << 20
    finally:
        any_lab.stop(server)


@EVERYWHERE
def test_a_removed_real_server_is_silent_and_a_returned_one_goes_on(
    any_lab: Lab, method: str, ipv6: bool, tmp_path: Path
) -> None:
    """Packets of connections to a removed real server are dropped without a word; when it returns, they go on."""
    service = Service(any_lab, method, ipv6=ipv6).add("rs1")
    download = service.download(tmp_path / "big", rate="2m")
    download.wait_until(STARTED)
    service.remove_server("rs1")
    wait_for(settled(download.size), "the transfer to stall", seconds=5)
    assert download.running() and download.size() < BIG_SIZE
    service.add_server("rs1")
    download.finish()


def test_weight_0_keeps_old_connections_and_takes_no_new_ones(
    any_lab: Lab, method: str, ipv6: bool, tmp_path: Path
) -> None:
    service = Service(any_lab, method, ipv6=ipv6).add("rs1")
    download = service.download(tmp_path / "big", rate="4m")
    download.wait_until(STARTED)
    service.add_server("rs2")
    service.set_weight("rs1", 0)
    assert {service.get() for _ in range(4)} == {"rs2"}
    assert download.running(), "the transfer was meant to outlast the change"
    assert service.counts()["rs1"].active == 1
    download.finish()


@places("nat", "nat-router", "dr", "nat conntrack")
def test_programs_are_replaced_in_the_middle_of_a_transfer(any_lab: Lab, method: str, tmp_path: Path) -> None:
    """New programs take over the maps and the links; no packet meets an interface without one."""
    service = Service(any_lab, method).add("rs1")
    downloads = [service.download(tmp_path / "fast"), service.download(tmp_path / "slow", rate="500k")]
    downloads[1].wait_until(STARTED)
    with any_lab.enter("director"):
        running = instance.find()
        assert running is not None
        before = running.runtime.get(0, "conns")
        for _ in range(3):
            with running.locked():
                running.replace_programs()
        assert running.runtime.get(0, "conns") == before
        running.close()
    assert downloads[1].running(), "the transfer was meant to outlast the change"
    for download in downloads:
        download.finish()
    assert service.traffic()["rs1"].conns == len(downloads)


@pytest.mark.parametrize("path", ["service", "everything"])
def test_a_deleted_service_is_closed_to_new_connections(nat: Lab, path: str) -> None:
    service = Service(nat, "-m").add()
    assert service.get() in ("rs1", "rs2", "rs3")
    nat.ipvsadm(["-D", "-t", service.address] if path == "service" else ["-C"])
    refused = service.try_get()
    assert refused.returncode == 7, "curl: could not connect"
