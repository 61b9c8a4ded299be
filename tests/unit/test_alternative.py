"""Our programs in the place of the system's, in a root directory of the test's own: never in the real one."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pylvs import alternative
from pylvs.alternative import PROGRAMS, SAVED, AlternativeError, System
from pylvs.cli.alternative import main

PREFIX = "/opt/pylvs"
BASH = "usr/share/bash-completion/completions"
with_dpkg = pytest.mark.skipif(
    not shutil.which("dpkg-deb") or os.geteuid() != 0,
    reason="needs dpkg, and root to install a package below a directory",
)


class Killed(BaseException):
    """What a process that is killed sees of it: nothing is done after it."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A system where /sbin is /usr/sbin, with the original's programs and pages, and pylvs in /opt."""
    root = tmp_path / "root"
    for directory in ("usr/sbin", "usr/share/man/man8", "var/lib", BASH, "opt/pylvs/bin", "opt/pylvs/share/man/man8"):
        (root / directory).mkdir(parents=True)
    (root / "sbin").symlink_to("usr/sbin")
    completions = root / "opt/pylvs/share/bash-completion/completions"
    completions.mkdir(parents=True)
    for name in PROGRAMS:
        _program(root / "opt/pylvs/bin" / name, "ours")
        (root / f"opt/pylvs/share/man/man8/{name}.8").write_text("our page")
        (completions / name).write_text("our completion")
    return root


@pytest.fixture
def originals(root: Path) -> Path:
    for name in PROGRAMS:
        _program(root / "usr/sbin" / name, f"the original {name}")
        (root / f"usr/share/man/man8/{name}.8.gz").write_bytes(b"\x1f\x8b" + name.encode())
    return root


def _program(path: Path, what: str) -> None:
    path.write_text(f"#!/bin/sh\necho {what}\n")
    path.chmod(0o755)


def tree(root: Path) -> dict[str, Any]:
    """All there is, but what dpkg notes of itself."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if name.startswith("var/lib/dpkg/"):
            continue
        about = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        # a directory's time says that something went in and out; a file's must be its own
        found[name] = (about.st_mode, about.st_uid, content, 0 if path.is_dir() else about.st_mtime_ns)
    return found


def system(root: Path, prefix: str = PREFIX, dry: bool = False) -> System:
    return System(str(root), prefix, tell=lambda line: None, dry=dry)


def says(root: Path, name: str = "sbin/ipvsadm") -> str:
    """What a program below the root answers: links in it are of that root."""
    path = root / name
    if path.is_symlink():
        path = root / os.readlink(path).lstrip("/")
    return subprocess.run([path], capture_output=True, text=True, check=True).stdout.strip()


def test_there_and_back(originals: Path) -> None:
    before = tree(originals)
    system(originals).install()
    assert {says(originals, f"sbin/{name}") for name in PROGRAMS} == {"ours"}
    pages = sorted(path.name for path in (originals / "usr/share/man/man8").iterdir() if SAVED not in path.name)
    assert pages == sorted(f"{name}.8" for name in PROGRAMS), "the original's page is found before ours"
    assert os.readlink(originals / BASH / "ipvsadm") == f"{PREFIX}/share/bash-completion/completions/ipvsadm"
    assert all("ours, " in line and "kept beside" in line for line in list(system(originals).status())[:1])
    system(originals).remove()
    assert tree(originals) == before


def test_where_there_was_none(root: Path) -> None:
    before = tree(root)
    system(root).install()
    assert says(root) == "ours"
    system(root).remove()
    assert tree(root) == before
    assert list(system(root).status()) == ["not installed: the system's ipvsadm is its own"]


def test_twice_is_once(originals: Path) -> None:
    before = tree(originals)
    system(originals).install()
    once = tree(originals)
    system(originals).install()
    assert {name: value[2] for name, value in tree(originals).items()} == {
        name: value[2] for name, value in once.items()
    }
    system(originals).remove()
    assert tree(originals) == before
    with pytest.raises(AlternativeError, match="nothing to remove"):
        system(originals).remove()


def test_a_dry_run_does_nothing(originals: Path) -> None:
    said: list[str] = []
    before = tree(originals)
    System(str(originals), PREFIX, said.append, dry=True).install()
    assert tree(originals) == before
    path = originals.resolve() / "sbin/ipvsadm"
    assert said[:2] == [f"would keep {path} as {path}{SAVED}", f"would link {path} to {PREFIX}/bin/ipvsadm"]
    system(originals).install()
    between = tree(originals)
    said.clear()
    System(str(originals), PREFIX, said.append, dry=True).remove()
    assert tree(originals) == between
    assert f"would put {path} back" in said


def _kill_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Let so many changes of the file system happen, and none after them."""
    left = steps

    def counted(change: Any) -> Any:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return change(*arguments, **options)

        return wrapped

    for name in ("link", "replace", "symlink", "unlink", "makedirs", "rmdir"):
        monkeypatch.setattr(alternative.os, name, counted(getattr(os, name)))


@pytest.mark.parametrize("command", ["install", "remove"])
def test_killed_at_every_step(originals: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is an ipvsadm at every moment; afterwards both ways are open."""
    before, path = tree(originals), originals / "sbin/ipvsadm"
    for steps in range(200):
        if command == "remove":
            system(originals).install()
        with monkeypatch.context() as patched:
            _kill_after(patched, steps)
            try:
                getattr(system(originals), command)()
                survived = True
            except Killed:
                survived = False
        assert path.is_symlink() or says(originals) == "the original ipvsadm", f"no ipvsadm after {steps} steps"
        if steps % 2:  # finish it, and then undo it
            system(originals).install()
            assert says(originals) == "ours"
        if (originals / alternative.JOURNAL).exists():
            system(originals).remove()
        shutil.rmtree(originals / "var/lib/pylvs", ignore_errors=True)  # an empty directory, or a half-written journal
        assert tree(originals) == before, f"after {steps} steps"
        if survived:
            assert steps > 20
            return
    raise AssertionError("it never came to its end")


def test_another_version_takes_over(originals: Path) -> None:
    before = tree(originals)
    system(originals).install()
    shutil.copytree(originals / "opt/pylvs", originals / "opt/newer", symlinks=True)
    system(originals, "/opt/newer").install()
    assert os.readlink(originals / "sbin/ipvsadm") == "/opt/newer/bin/ipvsadm"
    system(originals, "/opt/newer").remove()
    shutil.rmtree(originals / "opt/newer")
    assert tree(originals) == before


def test_programs_that_have_vanished(originals: Path) -> None:
    before = tree(originals)
    system(originals).install()
    (originals / "opt/pylvs").rename(originals / "opt/elsewhere")
    assert "points to /opt/pylvs/bin/ipvsadm, which is gone" in next(iter(system(originals).status()))
    with pytest.raises(AlternativeError, match="is no program: install pylvs there"):
        system(originals).install()
    system(originals).remove()
    (originals / "opt/elsewhere").rename(originals / "opt/pylvs")
    assert tree(originals) == before


def test_a_link_of_somebody_else(originals: Path) -> None:
    (originals / "usr/sbin/ipvsadm").unlink()
    (originals / "usr/sbin/ipvsadm").symlink_to("/etc/alternatives/ipvsadm")
    before = tree(originals)
    with pytest.raises(AlternativeError, match=r"is a link to /etc/alternatives/ipvsadm, which is not ours"):
        system(originals).install()
    assert tree(originals) == before


def test_an_upgrade_that_does_not_ask(originals: Path) -> None:
    """Without dpkg, the distribution's new version takes the name: it is told, and it is what comes back."""
    system(originals).install()
    (originals / "usr/sbin/ipvsadm").unlink()
    _program(originals / "usr/sbin/ipvsadm", "newer original")
    assert "not ours any more" in next(iter(system(originals).status()))
    system(originals).install()
    assert says(originals) == "ours"
    system(originals).remove()
    assert says(originals) == "newer original"


def test_a_root_that_leads_out(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (root / "sbin").unlink()
    (root / "sbin").symlink_to(tmp_path / "outside")
    with pytest.raises(AlternativeError, match="leads out of"):
        system(root).install()
    assert not list((tmp_path / "outside").iterdir())


def test_our_programs_are_the_systems_already(root: Path) -> None:
    for name in PROGRAMS:
        _program(root / "usr/sbin" / name, "ours")
    (root / "bin").symlink_to("usr/sbin")
    (root / "usr/bin").symlink_to("sbin")
    with pytest.raises(AlternativeError, match="is the system's ipvsadm already"):
        system(root, "/usr").install()


def test_the_command(originals: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(originals)
    words = ["--root", str(originals), "--prefix", PREFIX]
    assert main(words) == 0
    assert "link " in capsys.readouterr().out
    assert main([*words, "--status"]) == 0
    assert capsys.readouterr().out.startswith("/sbin/ipvsadm: ours, /opt/pylvs/bin/ipvsadm")
    assert main([*words, "--remove"]) == 0
    assert tree(originals) == before
    with pytest.raises(SystemExit, match="2"):
        main(["--prefix", "opt/pylvs"])
    assert "begins with a slash" in capsys.readouterr().err
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(AlternativeError, match="run it as root"):
        main([])
    with pytest.raises(AlternativeError, match="is no directory"):
        main(["--root", str(originals / "nowhere")])


# ---- with a real dpkg -----------------------------------------------------------------------------------------------


def _package(root: Path, version: str) -> None:
    """The distribution's package, of that version, installed or upgraded below the root."""
    content = root.parent / f"package-{version}"
    for directory in ("sbin", "usr/share/man/man8"):
        (content / directory).mkdir(parents=True)
    for name in PROGRAMS:
        _program(content / "sbin" / name, f"{name} {version}")
        (content / f"usr/share/man/man8/{name}.8.gz").write_bytes(b"\x1f\x8b" + version.encode())
    _install(root, content, "ipvsadm", version)


def _install(root: Path, content: Path, name: str, version: str) -> None:
    (content / "DEBIAN").mkdir()
    (content / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: nobody <nobody@example.test>\n"
        "Description: for a test\n"
    )
    _dpkg("dpkg-deb", "--build", "-Znone", str(content), f"{content}.deb")
    _dpkg("dpkg", "--root", str(root), "--install", f"{content}.deb")


def _dpkg(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def debian(root: Path) -> Iterator[Path]:
    """A system that dpkg keeps, with the package in it."""
    for directory in ("info", "updates", "triggers"):
        (root / "var/lib/dpkg" / directory).mkdir(parents=True)
    (root / "var/lib/dpkg/status").touch()
    base = root.parent / "base"  # whose directories outlive the package
    (base / "usr/sbin").mkdir(parents=True)
    (base / "usr/share/man/man8").mkdir(parents=True)
    (base / "sbin").symlink_to("usr/sbin")
    _install(root, base, "base", "1.0")
    _package(root, "1.0")
    yield root


@with_dpkg
def test_dpkg_there_and_back(debian: Path) -> None:
    before = tree(debian)
    system(debian).install()
    assert says(debian) == "ours"
    system(debian).remove()
    assert tree(debian) == before
    assert not _diversions(debian)


def _diversions(root: Path) -> str:
    done = subprocess.run(["dpkg-divert", "--root", root, "--list"], capture_output=True, text=True, check=True)
    return done.stdout


@with_dpkg
def test_dpkg_upgrades_the_original_meanwhile(debian: Path) -> None:
    system(debian).install()
    _package(debian, "2.0")
    assert says(debian) == "ours"
    assert says(debian, f"sbin/ipvsadm{SAVED}") == "ipvsadm 2.0"
    assert not (debian / "usr/share/man/man8/ipvsadm.8.gz").exists()
    system(debian).remove()
    after = tree(debian)
    _package(debian, "2.1")
    assert says(debian) == "ipvsadm 2.1"
    assert after.keys() == tree(debian).keys()


@with_dpkg
def test_dpkg_removes_and_installs_the_original_meanwhile(debian: Path) -> None:
    system(debian).install()
    _dpkg("dpkg", "--root", str(debian), "--remove", "ipvsadm")
    assert says(debian) == "ours"
    _package(debian, "3.0")
    assert says(debian) == "ours"
    _dpkg("dpkg", "--root", str(debian), "--remove", "ipvsadm")
    system(debian).remove()
    assert not (debian / "sbin/ipvsadm").exists() and not list((debian / "usr/sbin").iterdir())
    assert not _diversions(debian)


@with_dpkg
def test_dpkg_somebody_elses_diversion(debian: Path) -> None:
    _dpkg(
        "dpkg-divert",
        "--root",
        str(debian),
        "--local",
        "--no-rename",
        "--divert",
        "/sbin/mine",
        "--add",
        "/sbin/ipvsadm",
    )
    before = tree(debian)
    with pytest.raises(AlternativeError, match="is diverted to /sbin/mine already"):
        system(debian).install()
    assert tree(debian) == before
