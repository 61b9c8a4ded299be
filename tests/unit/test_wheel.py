"""The wheel: for every Python and machine, with the compiled programs inside, and working where it is unpacked."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from make import files

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("src", "share", "pyproject.toml", "hatch_build.py", "README.md")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy without anything compiled, as from a clone."""
    copy = tmp_path_factory.mktemp("clone")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(
                source, copy / name, ignore=shutil.ignore_patterns("obj", "made", "_layout.py", "__pycache__")
            )
        else:
            shutil.copy(source, copy / name)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel"]
    subprocess.run(build, cwd=copy, check=True, capture_output=True)
    (built,) = (copy / "dist").glob("*.whl")
    return built


def test_is_for_every_python(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")


def test_carries_the_programs(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in ("obj/tc.bpf.o", "obj/sweep.bpf.o", "obj/decap.bpf.o", "_layout.py", "bpf/tc.bpf.c", "bpf/layout.h"):
        assert f"pylvs/datapath/{wanted}" in names
    scripts = zipfile.ZipFile(wheel).read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    assert "ipvsadm = " in scripts and "pylvs = " in scripts


def test_carries_pages_and_completions(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    found = {name.partition(".data/data/share/")[2]: name for name in archive.namelist() if ".data/data/share/" in name}
    assert found.keys() == files().keys()
    for name, text in files().items():
        assert archive.read(found[name]).decode() == text


def test_works_unpacked_and_needs_nothing_else(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    program = "import sys; sys.argv = ['pylvs', '--version']; from pylvs.cli import main; raise SystemExit(main())"
    # -I and -S: neither this checkout nor any installed package can lend it anything
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {program}"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("pylvs ")
    same = (tmp_path / "pylvs/datapath/_layout.py").read_text() == (ROOT / "src/pylvs/datapath/_layout.py").read_text()
    assert same, "the wheel's layout differs from the one in the tree"
