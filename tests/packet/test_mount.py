"""`pylvs proc mount`: the kernel's files for IPVS as files of ours."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylvs import proc, sysctl
from pylvs.lab.waiting import wait_for
from support.harness import Harness
from support.talk import IPV4, Talk

PYLVS = [sys.executable, "-c", "from pylvs.cli import main; raise SystemExit(main())"]
SRC = Path(__file__).parents[2] / "src"


def _environment() -> dict[str, str]:
    # this process may know mfusepy from elsewhere
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(SRC), *filter(None, sys.path)])}


def _why_not() -> str:
    try:
        import mfusepy
    except ImportError:
        return "mfusepy is not installed (pip install 'pylvs[fuse]')"
    except OSError as error:
        return f"libfuse is missing: {error}"
    assert mfusepy
    return "" if os.path.exists("/dev/fuse") else "there is no /dev/fuse"


needs_fuse = pytest.mark.skipif(bool(_why_not()), reason=_why_not())


@pytest.fixture
def mounted(lvs: Harness, tmp_path: Path) -> Iterator[tuple[Path, "subprocess.Popen[str]"]]:
    place = tmp_path / "proc"
    place.mkdir()
    words = [*PYLVS, "proc", "mount", "--hz", "100", str(place)]
    child = subprocess.Popen(words, env=_environment(), stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: child.poll() is not None or os.path.ismount(place), "the files to appear", seconds=10)
        if child.poll() is not None:
            pytest.skip(f"FUSE does not work here: {child.stderr.read()}")  # type: ignore[union-attr]
        yield place, child
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait(timeout=10)
        assert child.stderr is not None
        child.stderr.close()


@needs_fuse
def test_files(lvs: Harness, mounted: tuple[Path, "subprocess.Popen[str]"]) -> None:
    place, _ = mounted
    assert sorted(f"net/{name}" for name in os.listdir(place / "net")) == sorted(proc.FILES)
    assert set(os.listdir(place / "sys/net/ipv4/vs")) == set(sysctl.NAMES)
    talk = Talk(lvs, IPV4).serve()
    for sport in range(2000, 2600):
        talk.from_port(sport).asks("S")
    lvs.director.set_sysctl("run_estimation", 0)  # or rates would move between two looks
    for name in proc.FILES:
        ours = [line.decode() for line in proc.lines(lvs.director, name, 100)]
        theirs = (place / name).read_text().splitlines()
        assert len(theirs) == len(ours)
        if "conn" not in name:
            assert theirs == ours, name
    with open(place / "net/ip_vs_conn", "rb") as file:
        whole = file.read()
        file.seek(80)
        assert len(whole) > 30_000
        assert len(file.read()) == len(whole) - 80
    assert (place / "net/ip_vs").stat().st_mode & 0o777 == 0o444


@needs_fuse
def test_sysctls_are_read_and_written(lvs: Harness, mounted: tuple[Path, "subprocess.Popen[str]"]) -> None:
    place, _ = mounted
    file = place / "sys/net/ipv4/vs/drop_entry"
    assert file.read_text() == "0\n"
    file.write_text("3\n")
    assert file.read_text() == "3\n"
    assert lvs.director.sysctl("drop_entry") == "3"
    with pytest.raises(OSError, match="Invalid argument"):
        file.write_text("4\n")
    assert lvs.director.sysctl("drop_entry") == "3"
    with pytest.raises(FileNotFoundError):
        (place / "sys/net/ipv4/vs/nope").read_text()


@needs_fuse
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_unmounts(mounted: tuple[Path, "subprocess.Popen[str]"], number: int) -> None:
    place, child = mounted
    child.send_signal(number)
    assert child.wait(timeout=10) == 0
    assert not os.path.ismount(place)
    assert os.listdir(place) == []


def test_what_is_missing_is_said(lvs: Harness, tmp_path: Path) -> None:
    """Without mfusepy, whether it is installed or not."""
    hidden = "import sys; sys.modules['mfusepy'] = None; from pylvs.cli import main; raise SystemExit(main())"
    words = [sys.executable, "-c", hidden, "proc", "mount", str(tmp_path)]
    done = subprocess.run(words, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "pylvs: pylvs proc mount needs mfusepy: pip install 'pylvs[fuse]'\n"


@needs_fuse
def test_no_directory_is_said(lvs: Harness, tmp_path: Path) -> None:
    words = [*PYLVS, "proc", "mount", str(tmp_path / "nowhere")]
    done = subprocess.run(words, env=_environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"pylvs: {tmp_path / 'nowhere'} is no directory\n")
