"""The shell around the director: refusals, restores, and how the process ends."""

import io
import os
import subprocess
import sys
from collections.abc import Iterable
from errno import EBUSY, EINVAL, ENOENT
from pathlib import Path
from typing import Any

import pytest

from pylvs.errors import (
    DatapathError,
    InvalidValue,
    LVSError,
    NotPermitted,
    NotSupported,
    TableFull,
)
from pylvs.ipvsadm.commands import Shell
from pylvs.ipvsadm.messages import refusal
from pylvs.ipvsadm.save import save_command
from pylvs.model import Service
from support.fake_director import FakeDirector
from support.hosts import TestResolver

SOURCE = Path(__file__).parents[2] / "src"


class Refusing(FakeDirector):
    """Refuses every new service in one way."""

    def __init__(self, error: LVSError):
        super().__init__()
        self.error = error
        self.closed = 0

    def add_service(self, svc: object) -> None:
        raise self.error

    def close(self) -> None:
        self.closed += 1


class Bare(FakeDirector):
    """Knows of no sync daemon."""

    daemons = start_daemon = stop_daemon = None  # type: ignore[assignment]


def ipvsadm(director: Any, line: str, stdin: str = "", permitted: bool = True) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    lines = io.StringIO(stdin, newline="\n")
    code = Shell(lines, out, err, lambda: director, TestResolver(), permitted).run(line.split())
    return code, out.getvalue(), err.getvalue()


def test_what_is_not_supported_says_so_itself() -> None:
    director = Refusing(NotSupported("scheduler mh is not supported yet"))
    answer = (255, "", "ipvsadm: scheduler mh is not supported yet\n")
    assert ipvsadm(director, "-A -t 10.0.0.1:80 -s mh") == answer
    assert director.closed == 1


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (InvalidValue("why", EINVAL), "Invalid operation.  Possibly wrong module version, address not unicast, ..."),
        (LVSError("why", ENOENT), "Scheduler or persistence engine not found"),
        (LVSError("why", EBUSY), "Device or resource busy"),
        (NotPermitted("why"), "Permission denied (you must be root)"),
        (TableFull("100 services is all there is room for"), "ipvsadm: 100 services is all there is room for"),
        (DatapathError("the verifier says no"), "ipvsadm: the verifier says no"),
    ],
)
def test_refusals_in_the_originals_words_where_it_has_any(error: LVSError, text: str) -> None:
    assert refusal("add-service", error) == text
    assert ipvsadm(Refusing(error), "-A -t 10.0.0.1:80") == (255, "", text + "\n")


def test_a_restore_goes_on_after_a_refusal_but_not_after_a_mistake() -> None:
    director = FakeDirector()
    code, _, err = ipvsadm(director, "-R", "-D -f 1\n-A -f 2\n-A -f 3 -q\n-A -f 4\n-A -f x\n-A -f 5\n")
    assert (code, err) == (2, "No such service\n-q: unknown option\ninvalid fwmark value `x' specified\n")
    assert ipvsadm(director, "-Sn")[1] == "-A -f 2 -s wlc\n-A -f 4 -s wlc\n"


def test_each_line_of_a_restore_is_done_when_it_is_read() -> None:
    director = FakeDirector()

    def lines() -> Iterable[str]:
        yield "-A -f 1\n"
        assert [entry.service.fwmark for entry in director.services()] == [1]
        yield "-A -f 2\n"

    assert Shell(lines(), io.StringIO(), io.StringIO(), lambda: director).run(["-R"]) == 0


def test_an_absent_service_is_the_greater_fault() -> None:
    director = FakeDirector()
    line = "-a -t 10.0.0.1:80 -r 10.2.0.1 -m -y 5"
    assert ipvsadm(director, line) == (255, "", "Service not defined\n")
    ipvsadm(director, "-A -t 10.0.0.1:80")
    assert ipvsadm(director, line) == (255, "", "Numerical result out of range\n")


def test_without_permission_nothing_else_is_said() -> None:
    def forbidden() -> Any:
        raise NotPermitted("needs root")

    for line in ("-Ln", "-h", "-A bogus", "--version", "-R"):
        out, err = io.StringIO(), io.StringIO()
        assert Shell((), out, err, forbidden, permitted=False).run(line.split()) == 2
        assert out.getvalue() == ""
        assert err.getvalue().startswith("Can't initialize ipvs: Permission denied (you must be root)\n")


def test_capabilities_without_root_are_permission_enough() -> None:
    assert ipvsadm(FakeDirector(), "--version", permitted=False)[0] == 0


def test_a_kernel_that_cannot_says_why() -> None:
    def broken() -> Any:
        raise DatapathError("no BTF")

    out, err = io.StringIO(), io.StringIO()
    assert Shell((), out, err, broken).run(["-Ln"]) == 2
    assert err.getvalue() == "Can't initialize ipvs: no BTF\n"
    assert Shell((), io.StringIO(), io.StringIO(), broken).run(["-h"]) == 0  # needs no datapath


def test_a_director_without_sync_daemons() -> None:
    assert ipvsadm(Bare(), "-L --daemon") == (0, "", "")
    assert ipvsadm(Bare(), "--stop-daemon master") == (255, "", "No daemon is running\n")
    code, _, err = ipvsadm(Bare(), "--start-daemon master --mcast-interface lo")
    assert (code, err) == (255, "ipvsadm: the connection synchronization daemon is not supported yet\n")
    assert ipvsadm(Bare(), "--start-daemon master --syncid 999") == (2, "", "illegal syncid specified\n")


def test_save_takes_only_n() -> None:
    assert save_command([]) == ["-S"]
    assert save_command(["-n", "-n", "x"]) == ["-S", "-n"]
    assert save_command(["-nn"]) is None


# The process itself, around a director that a few lines of Python put in its place.

PROGRAM = """
import os, sys, types
os.geteuid = lambda: 0
director = types.ModuleType("pylvs.director")
exec(%r, director.__dict__)
sys.modules["pylvs.director"] = director
from pylvs import ipvsadm
ipvsadm.%s()
"""
TABLE = """
from pylvs.model import Connection
class Director:
    table_size = 1
    def services(self): return iter(())
    def connections(self):
        for port in range(1 << 16):
            yield Connection(2, 6, "10.1.0.1", port, "10.0.0.1", 80, "10.2.0.1", 80, "NONE", 0)
    def add_service(self, service): print(service)
    def flush(self): pass
    def close(self): pass
"""


def process(
    *words: str, director: str = TABLE, entry: str = "main", **options: Any
) -> subprocess.CompletedProcess[bytes]:
    options.setdefault("stdout", subprocess.PIPE)
    options.setdefault("stderr", subprocess.PIPE)
    environment = {"PYTHONPATH": str(SOURCE), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    command = [sys.executable, "-c", PROGRAM % (director, entry), *words]
    return subprocess.run(command, env=environment, timeout=30, check=False, **options)


def test_a_process_lists() -> None:
    done = process("-Lnc")
    assert done.returncode == 0
    assert done.stdout.count(b"\n") == (1 << 16) + 2
    assert done.stderr == b""


def test_a_reader_that_leaves_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = process("-Lnc", stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "wb") as full:
        done = process("-Lnc", stdout=full)
    assert (done.returncode, done.stderr) == (70, b"ipvsadm: [Errno 28] No space left on device\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed: str) -> None:
    environment = {"PYTHONPATH": str(SOURCE), "PATH": os.environ["PATH"]}
    script = PROGRAM % (TABLE, "main")
    command = ["sh", "-c", f'exec "$0" -c "$@" {closed}', sys.executable, script]
    for words, code in ((["-R"], 0), (["-Ln"], 0), (["-x"], 255)):
        done = subprocess.run(
            [*command, *words], env=environment, timeout=30, check=False, capture_output=True, stdin=subprocess.DEVNULL
        )
        assert done.returncode == code
        assert b"Traceback" not in done.stderr


def test_our_own_mistakes_are_one_line_without_a_traceback() -> None:
    done = process("-Ln", director="class Director:\n    def __init__(self): raise ZeroDivisionError('a\\nb')")
    assert done.returncode == 70
    assert done.stderr == (b"ipvsadm: internal error: ZeroDivisionError: a b; please report it with the command line\n")


def test_an_interrupt_is_quiet() -> None:
    done = process("-Ln", director="class Director:\n    def __init__(self): raise KeyboardInterrupt")
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_bytes_that_are_no_text_come_back_as_they_went_in() -> None:
    done = process(*[os.fsdecode(b"-A"), os.fsdecode(b"-p"), os.fsdecode(b"\xff\xc3")])
    assert (done.returncode, done.stderr) == (2, b"invalid timeout value `\xff\xc3' specified\n")
    done = process("-R", input=b"-A -p \xff\xc3\r-x\n")
    assert (done.returncode, done.stderr) == (2, b"invalid timeout value `\xff\xc3' specified\n")


def test_restore_command_empties_the_table_first() -> None:
    director = TABLE.replace("def flush(self): pass", "def flush(self): print('flush')")
    done = process("whatever", director=director, entry="main_restore", input=b"-C\n")
    assert (done.returncode, done.stdout) == (0, b"flush\nflush\n")
    assert process("-x", entry="main_save").returncode == 1


def test_restore_command_leaves_comments_out_and_reads_before_it_empties_the_table() -> None:
    """As the original's script; `ipvsadm -R` knows no comments."""
    director = TABLE.replace("def flush(self): pass", "def flush(self): print('flush', __import__('os').read(0, 9))")
    done = process(director=director, entry="main_restore", input=b"# -L\n-C\n#\xff\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"flush b''\n" * 2, b"")
    done = process(director=director, entry="main_restore", input=b" # x\n")
    assert (done.returncode, done.stdout) == (255, b"flush b''\n")
    assert process("-R", director=director, input=b"# x\n").returncode == 255


def test_a_listing_imports_little() -> None:
    director = TABLE.replace("def close(self): pass", "def close(self):\n        import sys; print(*sys.modules)")
    done = process("-Ln", director=director)
    loaded = set(done.stdout.decode().splitlines()[-1].split())
    heavy = [
        "argparse",
        "dataclasses",
        "socket",
        "logging",
        "subprocess",
        "json",
        "asyncio",
        "inspect",
        "threading",
        "ctypes",
        "pylvs.cli",
    ]
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    assert not (loaded & set(heavy)) - set(bare.stdout.split())


def test_the_table_stays_between_commands() -> None:
    director = FakeDirector()
    ipvsadm(director, "-A -t 10.0.0.1:80 -s rr")
    assert [entry.service.scheduler for entry in director.services() if isinstance(entry, Service)] == ["rr"]
