"""The command line and a name server that never answers: a real one, in a resolv.conf of our own.

The packets of the questions leave by d0 and nobody takes them. The C library would wait 30 s for each, twice over.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.harness import Harness, ip

SOURCE = Path(__file__).parents[2] / "src"
SERVER = "192.0.2.53"
RUN = """
import sys
from pylvs import ipvsadm
from pylvs.ipvsadm import names
names.PATIENCE = 1.5
ipvsadm.main()
"""
LONG = 25  # seconds; less than one question's 30, and far more than what is allowed


@pytest.fixture(scope="module")
def lvs() -> Iterator[Harness]:
    with Harness() as harness:
        ip(f"route add {SERVER}/32 via 10.0.1.2\n")
        harness.ipvsadm("-A -t 10.99.0.1:80 -s rr")
        for number in range(1, 31):
            harness.ipvsadm(f"-a -t 10.99.0.1:80 -r 10.2.0.{number}:8080 -m")
        yield harness


def _questions() -> int:
    """How many datagrams our namespace has sent."""
    with open("/proc/thread-self/net/snmp", encoding="ascii") as file:
        names, values = [line.split() for line in file if line.startswith("Udp:")]
    return int(values[names.index("OutDatagrams")])


def ipvsadm(directory: Path, *words: str, stdin: bytes = b"") -> tuple[subprocess.CompletedProcess[bytes], float]:
    """Runs it where the name server is the one that never answers; what it said, and the seconds it took."""
    (directory / "resolv.conf").write_text(f"nameserver {SERVER}\noptions timeout:30 attempts:2\n")
    (directory / "nsswitch.conf").write_text("hosts: files dns\nservices: files\n")
    mounts = " && ".join(f"mount --bind {directory}/{name} /etc/{name}" for name in ("resolv.conf", "nsswitch.conf"))
    begun, asked = time.monotonic(), _questions()
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{mounts} && exec "$@"', "-", sys.executable, "-c", RUN, *words],
        env={"PYTHONPATH": str(SOURCE), "PATH": os.environ["PATH"]},
        input=stdin, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    took = time.monotonic() - begun
    if "-n" not in words:
        assert _questions() > asked, "nobody was asked: the test shows nothing"
    return done, took


@pytest.mark.parametrize("words", [["-L"], ["-S"]])
def test_a_listing_comes_with_numbers(lvs: Harness, tmp_path: Path, words: list[str]) -> None:
    numeric, _ = ipvsadm(tmp_path, *words, "-n")
    done, took = ipvsadm(tmp_path, *words)
    assert (done.returncode, done.stderr) == (0, b"")
    lines, plain = done.stdout.splitlines(), numeric.stdout.splitlines()
    assert len(lines) == len(plain) > 30
    assert [line.replace(b":http-alt", b":8080").replace(b":http", b":80").split() for line in lines] == [
        line.split() for line in plain
    ]
    assert took < LONG


def test_a_name_on_the_command_line(lvs: Harness, tmp_path: Path) -> None:
    done, took = ipvsadm(tmp_path, "-A", "-t", "web.example:80", "--explain")
    assert done.returncode == 2
    message, sentence = done.stderr.splitlines()
    assert message == b"illegal virtual server address[:port] specified"
    assert sentence.startswith(b"'web.example:80' is no service address")
    assert took < LONG


def test_names_in_a_restore(lvs: Harness, tmp_path: Path) -> None:
    """The first ends it, as the original's; what is in /etc/hosts is found all the same."""
    rules = b"-A -t localhost:81\n-A -t dead.example:80\n-A -t 10.99.0.1:82\n"
    done, took = ipvsadm(tmp_path, "-R", stdin=rules)
    assert (done.returncode, done.stderr) == (2, b"illegal virtual server address[:port] specified\n")
    assert "-A -t 127.0.0.1:81" in lvs.ipvsadm("-Sn") and "10.99.0.1:82" not in lvs.ipvsadm("-Sn")
    assert took < LONG
