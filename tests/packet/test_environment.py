"""Machines that lack something: each gets a clear message and the original's exit code, and nothing is changed.

Every command line runs in a network and a mount namespace of its own, which end with it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pylvs.datapath import object as loader
from pylvs.errors import DatapathError

BIN = Path(sys.executable).parent
ADD = "ipvsadm -A -t 10.0.0.1:80"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")


def sh(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in namespaces that nobody else is in, our commands first in its path."""
    path = f"{BIN}:{os.environ['PATH']}"
    return subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", script],
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@needs_root
def test_bpffs_is_mounted_where_it_is_missing(tmp_path: Path) -> None:
    done = sh(f"{ADD} && ipvsadm -Ln && findmnt -n -o FSTYPE {tmp_path} && pylvs unload", PYLVS_BPFFS=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "TCP  10.0.0.1:80 wlc" in done.stdout
    assert "\nbpf\n" in done.stdout


@needs_root
def test_a_command_in_ip_netns_exec_finds_the_pins() -> None:
    """Such a command has a /sys without bpffs; what it pins must be there for the next."""
    hidden = "umount -l /sys/fs/bpf 2>/dev/null;"
    done = sh(f"unshare --mount sh -c '{hidden} {ADD}' && unshare --mount sh -c '{hidden} ipvsadm -Ln'; pylvs unload")
    assert "TCP  10.0.0.1:80 wlc" in done.stdout, done.stderr
    assert done.stdout.endswith("unloaded\n")


@needs_root
def test_nothing_is_mounted_over_a_directory_in_use(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("")
    done = sh(f"{ADD}; echo $?; findmnt {tmp_path}", PYLVS_BPFFS=str(tmp_path))
    assert done.stdout == "255\n"
    assert done.stderr == f"ipvsadm: {tmp_path} is no bpffs and is not empty: nothing is mounted over it\n"


@needs_root
def test_no_place_for_bpffs(tmp_path: Path) -> None:
    done = sh(f"{ADD}; echo $?; ipvsadm -Ln | head -1", PYLVS_BPFFS=f"{tmp_path}/none")
    assert done.stdout.startswith("255\nIP Virtual Server version")
    assert f"{tmp_path}/none is not there" in done.stderr


@needs_root
@pytest.mark.parametrize("command", [ADD, "pylvs load"])
def test_root_without_the_capabilities(command: str) -> None:
    done = sh(f"setpriv --bounding-set=-bpf,-sys_admin {command}; echo $?; ls /sys/class/net >/dev/null; pylvs status")
    assert done.stdout.splitlines()[0] == ("255" if command == ADD else "1")
    assert "CAP_BPF and CAP_NET_ADMIN" in done.stderr
    assert "no director is loaded" in done.stdout


@needs_root
def test_somebody_else_than_root(tmp_path: Path) -> None:
    # imported before the change of user: the checkout may be root's alone
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys, pylvs.director, pylvs.ipvsadm.commands, pylvs.ipvsadm.render, pylvs.ipvsadm as ipvsadm\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "sys.argv = ['ipvsadm', '-Ln']\n"
        "ipvsadm.main()\n"
    )
    done = sh(f"{sys.executable} {program}; echo $?")
    assert done.stdout == "2\n"
    assert done.stderr.startswith("Can't initialize ipvs: Permission denied (you must be root)\n")


@needs_root
@pytest.mark.parametrize("command", ["attach", "detach"])
def test_interface_that_is_not_there(command: str) -> None:
    done = sh(f"pylvs load >/dev/null; pylvs {command} eth7; echo $?; pylvs status | grep attached; pylvs unload")
    assert done.stderr == "pylvs: there is no interface eth7; there are lo\n"
    assert done.stdout == "1\nattached      lo (tcx)\nunloaded\n" or "lo (clsact)" in done.stdout


@needs_root
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--conn-tab-bits 11", "2^11 is out of range; it may be 2^12 to 2^26"),
        ("--conn-tab-bits 27", "2^27 is out of range"),
        ("--max-services 0", "room for 0 services is out of range"),
        ("--max-dests 5000000", "room for 5000000 real servers is out of range"),
    ],
)
def test_sizes_out_of_range(options: str, message: str) -> None:
    done = sh(f"pylvs load {options}; echo $?; pylvs status")
    assert message in done.stderr
    assert done.stdout.startswith("2\nno director is loaded")


@needs_root
def test_sizes_of_ones_own_choice() -> None:
    done = sh("pylvs load --conn-tab-bits 12 --max-services 1 --max-dests 1; "
              f"{ADD}; ipvsadm -A -t 10.0.0.1:81; echo $?; ipvsadm -Ln; pylvs unload")  # fmt: skip
    assert "connection table of 4096 slots" in done.stdout
    assert "\n255\nIP Virtual Server version 1.2.1 (size=4096)\n" in done.stdout
    assert done.stderr == "ipvsadm: there is room for 1 services; load with more: " \
                          "pylvs unload; pylvs load --max-services N\n"  # fmt: skip


@needs_root
def test_another_size_for_a_running_table() -> None:
    load = "pylvs load --conn-tab-bits"
    done = sh(f"{load} 12; {load} 13; {load} 13; {load} 27; echo $?; ipvsadm -Ln | head -1; pylvs unload")
    assert "has 8192 slots; it had 4096\nthe connection table has 8192 slots already\n" in done.stdout
    assert "\n2\nIP Virtual Server version 1.2.1 (size=8192)\n" in done.stdout
    assert "2^27 is out of range; it may be 2^12 to 2^26" in done.stderr


def _object(directory: Path, content: bytes) -> None:
    (directory / "tc.bpf.o").write_bytes(content)
    with pytest.raises(DatapathError) as caught:
        loader.Object("tc", {}, {}, {}, str(directory))
    raise caught.value


def test_programs_that_were_not_built(tmp_path: Path) -> None:
    with pytest.raises(DatapathError, match="pylvs was not built; run make setup"):
        loader.Object("tc", {}, {}, {}, str(tmp_path))


def test_programs_that_are_damaged(tmp_path: Path) -> None:
    with pytest.raises(DatapathError, match="cannot be read"):
        _object(tmp_path, b"\x7fELF nonsense")


def test_no_libbpf(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise OSError("libbpf.so.1: cannot open shared object file")

    monkeypatch.setattr(loader, "_loaded", None)
    monkeypatch.setattr(loader.ctypes, "CDLL", missing)
    with pytest.raises(DatapathError, match="apt-get install libbpf1"):
        loader.Object("tc", {}, {}, {})


@needs_root
def test_a_kernel_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A map without room, which none makes: the refusal names the kernel, what it said, and what would be right."""
    with pytest.raises(DatapathError, match=r"refused the eBPF programs: .*; pylvs needs Linux 6\.1 or newer"):
        loader.Object("tc", {"service_index": 0}, {}, {})


@needs_root
def test_a_refused_loading_leaves_nothing(tmp_path: Path) -> None:
    """Root without any capability: the pins' directory is made before the kernel refuses."""
    mounted = f"mount -t bpf bpf {tmp_path}"
    refused = "setpriv --bounding-set=-all --inh-caps=-all pylvs load"
    done = sh(f"{mounted}; {refused}; echo $?; find {tmp_path} -name 'pylvs*'", PYLVS_BPFFS=str(tmp_path))
    assert done.stdout == "1\n"
    assert "pylvs needs root" in done.stderr
