"""Schedulers of one's own: the examples of docs/writing-a-scheduler.md as they stand there, and what goes wrong."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylvs.errors import InvalidValue, NoSuchScheduler
from pylvs.model import MASQ, real_server, virtual_service
from pylvs.schedulers import hashing
from support.harness import Harness
from support.packets import tcp_packet

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "writing-a-scheduler.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"```\w+ (\S+)\n(.*?)```", PAGE, re.DOTALL))
VIP = "10.99.0.1"


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that modules are imported from."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and Path(str(sys.modules[name].__file__)).parent == tmp_path:
            del sys.modules[name]


def _picks(lvs: Harness, clients: int, port: int = 1025) -> list[str]:
    """The real servers of 10.1.0.1, 10.1.0.2, ...; a reason's name where there is none."""
    found = []
    for number in range(1, clients + 1):
        result = lvs.from_client(tcp_packet(f"10.1.{number // 250}.{number % 250}", port, VIP, 80, "S"))
        found.append(result.packet.dst if result.forwarded else result.reason)
    return found


def _canary(lvs: Harness, modules: Path) -> None:
    (modules / "canary.py").write_text(EXAMPLES["canary.py"])
    lvs.ipvsadm(
        f"-A -t {VIP}:80 -s canary:Canary",
        f"-a -t {VIP}:80 -r 10.2.0.1:80 -m -w 2",
        f"-a -t {VIP}:80 -r 10.2.0.2:80 -m",
    )


def test_the_table_of_the_page(lvs: Harness, modules: Path) -> None:
    _canary(lvs, modules)
    listing = lvs.ipvsadm("-Ln").splitlines()
    assert [line.split() for line in listing[3:]] == [
        line.split() for line in PAGE.replace("192.0.2.1", VIP).replace("10.0.0.", "10.2.0.").splitlines()
        if line.startswith(("TCP ", "  -> 10."))
    ]  # fmt: skip
    values = [hashing.fold(bytes((10, 1, n // 250, n % 250)) + bytes(12)) for n in range(1, 601)]
    wanted = ["10.2.0.2" if hashing.siphash(value) % 200 % 100 == 0 else "10.2.0.1" for value in values]
    assert _picks(lvs, 600) == wanted
    assert 0 < wanted.count("10.2.0.2") < 20


def test_what_is_saved_can_be_restored(lvs: Harness, modules: Path) -> None:
    _canary(lvs, modules)
    saved = lvs.ipvsadm("-Sn")
    assert saved.splitlines()[0] == f"-A -t {VIP}:80 -s canary:Canary"
    lvs.ipvsadm("-C")
    lvs.restore(saved)
    assert lvs.ipvsadm("-Sn") == saved


def test_fallback_and_weight_0(lvs: Harness, modules: Path) -> None:
    """The table is made anew with each change; whoever takes no connections is passed over."""
    _canary(lvs, modules)
    lvs.ipvsadm(f"-e -t {VIP}:80 -r 10.2.0.2:80 -m -w 0")
    assert set(_picks(lvs, 300)) == {"10.2.0.1"}
    lvs.ipvsadm(f"-e -t {VIP}:80 -r 10.2.0.1:80 -m -w 0")
    assert set(_picks(lvs, 3, 1026)) == {"dropped_no_destination"}


_OWN = """
from pylvs.schedulers.table import CLIENT_PORT, DESTINATION, TableScheduler

class Ports(TableScheduler):
    by = CLIENT_PORT
    def table(self, servers, flags):
        return list(range(len(servers)))

class Flagged(TableScheduler):
    by = DESTINATION
    def table(self, servers, flags):
        return [0 if "flag-1" in flags else len(servers) - 1]

class Gaps(TableScheduler):
    def table(self, servers, flags):
        return [None]

class Empty(TableScheduler):
    def table(self, servers, flags):
        return []

class Far(TableScheduler):
    def table(self, servers, flags):
        return [0, 7]

class Broken(TableScheduler):
    name = "the broken one"
    def table(self, servers, flags):
        return [servers[0].no_such_thing]

class Choosy(TableScheduler):
    def table(self, servers, flags):
        if len(servers) > 2:
            raise ValueError("two are enough")
        return [0]

class Odd(TableScheduler):
    by = "client"

class Other:
    pass
"""


def _serve(lvs: Harness, modules: Path, name: str, servers: int = 2) -> None:
    (modules / "own.py").write_text(_OWN)
    service = virtual_service(VIP, 80, scheduler=f"own:{name}")
    lvs.director.add_service(service)
    for number in range(1, servers + 1):
        lvs.director.add_destination(service, real_server(f"10.2.0.{number}", 80, method=MASQ))


def test_by_port(lvs: Harness, modules: Path) -> None:
    _serve(lvs, modules, "Ports")
    for port in range(1025, 1045):
        value = hashing.fold(bytes((10, 1, 0, 1)) + bytes(12)) + port
        assert _picks(lvs, 1, port) == [("10.2.0.2", "10.2.0.1")[hashing.siphash(value) % 2]]


def test_flags(lvs: Harness, modules: Path) -> None:
    _serve(lvs, modules, "Flagged")
    assert _picks(lvs, 1) == ["10.2.0.1"]
    lvs.ipvsadm(f"-E -t {VIP}:80 -s own:Flagged -b flag-1")
    assert _picks(lvs, 1, 1026) == ["10.2.0.2"]
    assert f"TCP  {VIP}:80 own:Flagged (flag-1)" in lvs.ipvsadm("-Ln")


@pytest.mark.parametrize("name", ["Gaps", "Empty"])
def test_nobody(lvs: Harness, modules: Path, name: str) -> None:
    _serve(lvs, modules, name)
    assert _picks(lvs, 1) == ["dropped_no_destination"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own:Odd", "scheduler own:Odd cannot be used: ValueError: by = 'client' is neither CLIENT nor"),
        ("own:Other", "cannot be used: TypeError: it is no pylvs.schedulers.TableScheduler"),
        ("own:Nobody", "cannot be used: AttributeError"),
        ("nowhere:Odd", "cannot be used: ModuleNotFoundError: No module named 'nowhere'"),
        ("own:", "is not 'module:Class' of at most 255 bytes"),
        (":Odd", "is not 'module:Class'"),
        ("own:Odd Even", "is not 'module:Class'"),
        ("own:" + "x" * 252, "of at most 255 bytes"),
    ],
)
def test_what_cannot_be_used(lvs: Harness, modules: Path, name: str, message: str) -> None:
    (modules / "own.py").write_text(_OWN)
    with pytest.raises(NoSuchScheduler, match=re.escape(message)):
        lvs.director.add_service(virtual_service(VIP, 80, scheduler=name))
    assert not list(lvs.director.services())


@pytest.mark.parametrize(
    ("name", "servers", "message"),
    [
        ("Far", 1, "scheduler own:Far: entry 1 is 7; it may be 0 to 0 or None"),
        ("Broken", 1, "scheduler the broken one failed: AttributeError"),
        ("Choosy", 3, "scheduler own:Choosy failed: ValueError: two are enough"),
    ],
)
def test_what_fails_changes_nothing(lvs: Harness, modules: Path, name: str, servers: int, message: str) -> None:
    _serve(lvs, modules, name, servers - 1)
    before = lvs.ipvsadm("-Ln"), _picks(lvs, 2)
    with pytest.raises(InvalidValue, match=re.escape(message)):
        new = real_server("10.2.0.9", 80, method=MASQ)
        lvs.director.add_destination(virtual_service(VIP, 80), new)
    assert lvs.instance.config.get(0, "changing") == 0
    assert (lvs.ipvsadm("-Sn"), _picks(lvs, 2, 1026)) == (lvs.ipvsadm("-Sn"), before[1])
    assert len(list(lvs.service(f"{VIP}:80").destinations)) == servers - 1


def test_without_the_module(lvs: Harness, modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packets and listings go on, changes are refused, and the service can be deleted."""
    _canary(lvs, modules)
    listing = lvs.ipvsadm("-Sn")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(modules)])
    del sys.modules["canary"]
    assert _picks(lvs, 1) == ["10.2.0.1"]
    assert lvs.ipvsadm("-Sn") == listing
    with pytest.raises(NoSuchScheduler, match="No module named 'canary'"):
        lvs.director.delete_destination(virtual_service(VIP, 80), real_server("10.2.0.1", 80))
    assert lvs.ipvsadm("-Sn") == listing
    lvs.ipvsadm(f"-D -t {VIP}:80")
    assert lvs.ipvsadm("-Sn") == ""


# ---- in C ------------------------------------------------------------------------------------------------------------

_PLAY = """
from support.harness import Harness
from support.packets import tcp_packet
with Harness() as lvs:
    lvs.ipvsadm("-A -t 10.99.0.1:80 -s pack", *(f"-a -t 10.99.0.1:80 -r 10.2.0.{n}:80 -m -w {n}" for n in (1, 2, 3)))
    for port in range(1025, 1032):
        result = lvs.from_client(tcp_packet("10.1.0.1", port, "10.99.0.1", 80, "S"))
        print(result.packet.dst if result.forwarded else result.reason)
    print(lvs.ipvsadm("-Sn").splitlines()[0])
"""


def _patched(tree: Path) -> None:
    """The page's last step: lines in three files become others."""
    (steps,) = re.findall(r"```diff\n(.*?)```", PAGE, re.DOTALL)
    path, old, new = tree, "", ""

    def change() -> None:
        if old:
            text = path.read_text()
            assert text.count(old) == 1, f"{old!r} in {path.name}"
            path.write_text(text.replace(old, new))

    for line in steps.splitlines(keepends=True):
        if line.startswith("--- ") or (line.startswith("-") and new):
            change()
            old = new = ""
        if line.startswith("--- "):
            path = tree / line[4:].strip()
        elif line.startswith("-"):
            old += line[1:]
        else:
            new += line[1:]
    change()


def test_the_header_of_the_page(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("loading the packet path needs root")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("obj", "__pycache__"))
    shutil.copytree(ROOT / "share", tmp_path / "share", ignore=shutil.ignore_patterns("made", "__pycache__"))
    shutil.copy(ROOT / "hatch_build.py", tmp_path)
    for name, text in EXAMPLES.items():
        if name.startswith("src/"):
            assert not (tmp_path / name).exists()
            (tmp_path / name).write_text(text)
    _patched(tmp_path)
    subprocess.run([sys.executable, "hatch_build.py"], cwd=tmp_path, check=True)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'src'}:{ROOT / 'tests'}"}
    played = subprocess.run(
        [sys.executable, "-c", _PLAY], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    *picks, saved = played.stdout.split("\n")[:-1]
    # 10.2.0.3 is the newest: it has three, then 10.2.0.2 two, then 10.2.0.1 one, and then all are full
    assert picks == ["10.2.0.3"] * 3 + ["10.2.0.2"] * 2 + ["10.2.0.1", "dropped_no_destination"]
    assert saved == "-A -t 10.99.0.1:80 -s pack"
