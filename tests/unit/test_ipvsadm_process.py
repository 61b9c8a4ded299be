"""The process itself when something around it fails: one line about it, an exit code of its own, never a traceback;
and name servers that never answer hold nothing up."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parents[2] / "src"
DIRECTOR = """
from pylvs.model import Connection, Destination, Service, Timeouts, real_server, virtual_service
class Director:
    table_size = 1
    def services(self):
        servers = [Destination(real_server(f"10.2.{n >> 8}.{n & 255}", 80)) for n in range(300)]
        return iter([Service(virtual_service("10.0.0.1", 80), servers)])
    def connections(self):
        for port in range(1, 3000):
            yield Connection(2, 6, f"10.1.{port >> 8}.{port & 255}", port, "10.0.0.1", 80, "10.2.0.1", 80, "NONE", 0)
    def add_service(self, service): print(service)
    def add_destination(self, service, server): print(server)
    def flush(self): pass
    def close(self): pass
"""
STALLED = """
import threading
from pylvs.ipvsadm import names
class Resolver:
    def never(self, *_): threading.Event().wait()
    address_of = host_at = port_of = service_at = never
names.Resolver = Resolver
import pylvs.ipvsadm.commands as commands
commands.Resolver = Resolver
names.BUDGET, names.PATIENCE, names.LEAST = 0.3, 0.3, 0.01
"""
PROGRAM = """
import os, sys, types
os.geteuid = lambda: 0
director = types.ModuleType("pylvs.director")
exec(%r, director.__dict__)
sys.modules["pylvs.director"] = director
%s
from pylvs import ipvsadm
ipvsadm.%s()
"""


def command(*words: str, director: str = DIRECTOR, before: str = "", entry: str = "main") -> list[str]:
    return [sys.executable, "-c", PROGRAM % (director, before, entry), *words]


def environment(**more: str) -> dict[str, str]:
    return {"PYTHONPATH": str(SOURCE), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **more}


def process(*words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    ours = {name: options.pop(name) for name in ("director", "before", "entry") if name in options}
    env = environment(**options.pop("env", {}))
    return subprocess.run(
        command(*words, **ours), env=env, capture_output=True, timeout=60, check=False, **options
    )  # fmt: skip


def one_line(done: subprocess.CompletedProcess[bytes], code: int, begins: bytes) -> None:
    assert done.returncode == code
    assert done.stderr.startswith(begins), done.stderr
    assert done.stderr.count(b"\n") == 1
    assert b"Traceback" not in done.stderr


# ---- what may break -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ["main", "main_save", "main_restore"])
@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (
            "raise RecursionError('maximum recursion depth exceeded')",
            b"ipvsadm: internal error: RecursionError: maximum",
        ),
        ("raise MemoryError", b"ipvsadm: out of memory\n"),
        ("raise KeyError('x')", b"ipvsadm: internal error: KeyError: 'x'; please report it with the command line"),
        ("raise PermissionError(13, 'Permission denied', '/sys/fs/bpf')", b"ipvsadm: [Errno 13] Permission denied"),
        ("raise UnicodeDecodeError('utf-8', b'x', 0, 1, 'no')", b"ipvsadm: internal error: UnicodeDecodeError"),
    ],
)
def test_errors_of_our_own(entry: str, broken: str, words: bytes) -> None:
    director = f"class Director:\n    def __init__(self): {broken}"
    words_of = {"main": ["-L"], "main_save": ["-n"], "main_restore": []}[entry]
    one_line(process(*words_of, director=director, entry=entry, input=b"-A -f 1\n"), 70, words)


def test_in_the_middle_of_a_listing() -> None:
    """What was listed stands before the line about it, and the exit code tells that it is not all."""
    loop = "for port in range(1, 3000):"
    director = DIRECTOR.replace(loop, f"{loop}\n            port % 2500 or {{}}[port]")
    for words in (["-Lnc"], ["-L", "-c", "--json"]):
        done = process(*words, director=director)
        one_line(done, 70, b"ipvsadm: internal error: KeyError: 2500")
        assert done.stdout.count(b"\n") > 2000


@pytest.mark.parametrize("missing", ["pylvs.director", "pylvs.model", "pylvs.ipvsadm.commands", "pylvs.ipvsadm.help"])
@pytest.mark.parametrize("entry", ["main", "main_save", "main_restore"])
def test_a_module_that_cannot_be_imported(missing: str, entry: str) -> None:
    before = f"sys.modules[{missing!r}] = None"
    words = ["-n"] if entry == "main_save" else ["-R"]
    director = "" if missing == "pylvs.model" else DIRECTOR
    done = process(*words, director=director, before=before, entry=entry)
    one_line(done, 70, b"ipvsadm: internal error: ModuleNotFoundError")


@pytest.mark.parametrize("words", [["-Lnc"], ["-R"], ["-A"]])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_full_disk(words: list[str], stream: str) -> None:
    with open("/dev/full", "wb") as full:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {stream: full}
        done = subprocess.run(
            command(*words), env=environment(), timeout=60, check=False, input=b"-A -f 1\n-A -q\n", **pipes
        )  # fmt: skip
    assert b"Traceback" not in (done.stderr or b"")
    # of what cannot be printed somebody must know; a complaint that nobody hears changes nothing
    code = {"-Lnc": 0, "-R": 255, "-A": 2}[words[0]]
    assert done.returncode == (70 if stream == "stdout" and words != ["-A"] else code)


def test_nobody_reads_what_is_complained() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command("-A"), env=environment(), timeout=60, check=False, stderr=writing)
    os.close(writing)
    assert done.returncode == 141


@pytest.mark.parametrize("variables", [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii:strict"},
    {"PYTHONIOENCODING": "utf-16"},
])  # fmt: skip
def test_whatever_encoding(variables: dict[str, str]) -> None:
    rules = b"-A -f 1\n-A -p \xff\xc3\xe4\n"
    done = process("-R", input=rules, env=variables)
    assert done.returncode in (0, 2, 70, 255)
    assert b"Traceback" not in done.stderr
    if "16" not in str(variables):
        assert (done.returncode, done.stderr) == (2, b"invalid timeout value `\xff\xc3\xe4' specified\n")


REHEARSING = (
    DIRECTOR.replace("def flush(self): pass", "def flush(self): print('flush')")
    + """
    def timeouts(self): return Timeouts(1, 2, 3)
    def rehearsal(self):
        from pylvs.plan import Checks, Plan
        check = lambda *_: False
        return Plan([], self.timeouts(), Checks(check, check, check, 9, 9))
    def transaction(self):
        from contextlib import nullcontext
        return nullcontext(self.rehearsal())
"""
)


@pytest.mark.parametrize("options", [[], ["--explain"], ["--atomic"], ["--dry-run"]])
def test_long_lines_and_long_words(options: list[str]) -> None:
    """In a restore; the original's message has the whole word, what we add does not."""
    size = 1 << 20 if options == ["--explain"] else 1 << 14
    words, word = b"-A -f 1 " * (size // 8), b"9" * size
    for rules, message in (
        (words, b"invalid option `-A'\n"),
        (b"-A -f " + word, b"invalid fwmark value `" + word + b"' specified\n"),
        (b"-A -f 1" + b" " * size + word, b"unexpected argument " + word + b"\n"),
    ):
        done = process("-R", *options, input=rules, director=REHEARSING)
        assert done.returncode == 2
        assert done.stderr.startswith(message)
        assert len(done.stderr) < len(message) + 1000


def test_options_of_the_restore_command() -> None:
    """Those of ours; it takes no notice of others. Nothing is emptied before the rest has been checked."""
    rules = b"-A -f 1\n-A -f 1\n"
    answers = {
        "whatever": (255, b"flush\nfirewall mark 1\nfirewall mark 1\n", b""),
        "--dry-run": (255, b"-A -f 1 -s wlc\n", b"Service already exists\nline 2: -A -f 1\n"),
        "--atomic": (255, b"", b"Service already exists\nline 2: -A -f 1\nnothing was changed\n"),
        "--json": (2, b"", b"You need to supply the 'dry-run' option for 'json' with the 'restore' command\n"),
    }
    for word, (code, out, err) in answers.items():
        done = process(word, "x", director=REHEARSING, entry="main_restore", input=rules)
        assert (done.stdout, done.stderr) == (out, err)
        assert done.returncode == (0 if word == "whatever" else code)
    done = process("--explain", director=REHEARSING, entry="main_restore", input=b"-A -f x\n")
    assert done.stdout == b"flush\n" and b"\nline 1: -A -f x\n'x' is not a whole number" in done.stderr
    done = process("--dry-run", "--json", director=REHEARSING, entry="main_restore", input=b"-A -f 1\n")
    assert done.stdout.startswith(b'{"version":1,"kind":"changes"')


def test_help_says_what_is_ours_and_h_does_not() -> None:
    brief, long = process("-h").stdout, process("--help").stdout
    assert long.startswith(brief)
    for option in (b"--json", b"--atomic", b"--dry-run", b"--explain"):
        assert option in long.removeprefix(brief)
        assert option not in brief


def test_a_long_restore() -> None:
    rules = b"-A -f 1\n" + b"-a -f 1 -r 10.2.0.1 -m\n" * 10_000
    done = process("-R", input=rules)
    assert (done.returncode, done.stderr, done.stdout.count(b"\n")) == (0, b"", 10_001)


def test_little_memory() -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (200 << 20, 200 << 20))

    done = process("-R", input=b"-A " + b"9" * (64 << 20), preexec_fn=limit)
    assert done.returncode in (2, 70)
    assert b"Traceback" not in done.stderr


def test_an_interrupt_while_it_waits_for_input() -> None:
    director = DIRECTOR.replace("    table_size = 1", "    def __init__(self): print('open', flush=True)")
    child = subprocess.Popen(
        command("-R", director=director), env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None and child.stdin is not None
    assert child.stdout.readline() == b"open\n"
    child.send_signal(signal.SIGINT)
    assert child.wait(60) == 130
    assert child.communicate()[1] == b""


# ---- name servers that never answer ---------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["-L"], ["-S"], ["-Lc"], ["-L", "--stats"]])
def test_a_listing_does_not_wait_for_names(words: list[str]) -> None:
    plain = process(*words, "-n")
    begun = time.monotonic()
    done = process(*words, before=STALLED)
    assert time.monotonic() - begun < 15  # 0.6 s where nothing else is done; without a bound it is 1000 s
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == plain.stdout
    assert done.stdout.count(b"\n") > 300


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("-A -t web.example:80", 2, b"illegal virtual server address[:port] specified\n"),
        ("-A -t 10.0.0.1:www", 2, b"illegal virtual server address[:port] specified\n"),
        ("-a -t 10.0.0.1:80 -r web.example", 2, b"illegal real server address[:port] specified\n"),
        ("-A -t 10.0.0.1:80", 0, b""),
    ],
)
def test_a_command_does_not_wait_for_ever(line: str, code: int, message: bytes) -> None:
    begun = time.monotonic()
    done = process(*line.split(), before=STALLED)
    assert (done.returncode, done.stderr) == (code, message)
    assert time.monotonic() - begun < 15


def test_many_names_do_not_have_to_be_waited_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    from pylvs.ipvsadm import names

    monkeypatch.setattr(names, "LEAST", 0.005)
    asked = []

    class Never(names.Resolver):
        def address_of(self, host: str) -> str | None:
            asked.append(host)
            if host.startswith("dead"):
                threading.Event().wait()
            return "10.0.0.1"

    resolver = names.PatientResolver(Never(), patience=0.05)
    assert resolver.address_of("alive") == "10.0.0.1"
    begun = time.monotonic()
    assert [resolver.address_of(f"dead{n}") for n in range(300)] == [None] * 300
    assert time.monotonic() - begun < 60
    assert len(asked) == 2 + names.LAST
    assert resolver.address_of("alive") is None, "enough is enough"


def test_who_answers_may_take_his_time() -> None:
    from pylvs.ipvsadm import names

    class Slow(names.Resolver):
        def address_of(self, host: str) -> str | None:
            if host == "dead":
                threading.Event().wait()
            return "10.0.0.1"

        def port_of(self, service: str, protocol: str) -> int | None:
            raise RuntimeError("of somebody's module")

    resolver = names.PatientResolver(Slow(), patience=0.05)
    assert [resolver.address_of("a") for _ in range(1000)] == ["10.0.0.1"] * 1000
    assert resolver.address_of("dead") is None
    assert resolver.address_of("a") == "10.0.0.1", "one that is dead does not spoil the others"
    assert resolver.port_of("http", "tcp") is None
