"""Every example of the manual pages and of `pylvs --help`, typed into a shell before a director of its own.

What would end the director, or leave this test, is only parsed: labs, the demo, real servers and
install-alternative have tests of their own.
"""

import importlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from pages import SOURCES
from pylvs.cli.parsing import every_parser
from support.harness import Harness

# what the examples name, and what stands for it here
HERE = {"eth0": "d0", "eth1": "d1"}
FILES = {
    "/etc/ipvsadm.rules": "-A -t 10.0.0.1:80 -s rr\n",
    "/etc/sysctl.d/60-lvs.conf": "net.ipv4.vs.drop_entry = 1\n",
}
DOCS = Path(__file__).parents[2] / "docs"
# what has to be there before
BEFORE = {
    "pylvs mark del --in": "pylvs mark add --in d0 --proto udp --dport 5000:5999 --mark 2",
    "pylvs mark del 2": "pylvs mark add --mark 1 --in d0\npylvs mark add --mark 2 --in d1",
    "pylvs mark route del": "pylvs mark route 1",
}
MARKED = "*mangle\n-A PREROUTING -d 10.0.0.1/32 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x1/0xffffffff\nCOMMIT\n"
NOT_HERE = (
    "lab", "demo", "install-alternative", "proc mount", "unload", "prune", "load", "realserver",
)  # fmt: skip

Type = Callable[[str], str]
PROGRAMS = {
    "ipvsadm": ("pylvs.ipvsadm", "main"),
    "ipvsadm-save": ("pylvs.ipvsadm", "main_save"),
    "ipvsadm-restore": ("pylvs.ipvsadm", "main_restore"),
    "pylvs": ("pylvs.cli", "main"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs, for a shell, and the files that examples name."""
    place = tmp_path_factory.mktemp("examples")
    for name, (module, entry) in PROGRAMS.items():
        program = place / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {entry}\nsys.exit({entry}())\n")
    (place / "bin/iptables-save").write_text(f"#!/bin/sh\ncat <<END\n{MARKED}END\n")
    for program in (place / "bin").iterdir():
        program.chmod(0o755)
    return place


@pytest.fixture
def type_in(lvs: Harness, place: Path, monkeypatch: pytest.MonkeyPatch) -> Type:
    """Types lines, each of which has to succeed; what they print. What needs no shell is called here, for speed."""
    for path, content in FILES.items():
        (place / Path(path).name).write_text(content)
    environment = {
        **os.environ,
        "PATH": f"{place}/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2] / "src"),
    }

    def shell(line: str) -> str:
        command = ["bash", "-c", f"set -e -o pipefail\n{line}"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def call(words: list[str], stdin: str) -> str:
        module, entry = PROGRAMS[words[0]]
        monkeypatch.setattr("sys.argv", words)
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin, newline="\n"))
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
        with redirect_stdout(out), redirect_stderr(out):
            try:
                code = getattr(importlib.import_module(module), entry)()
            except SystemExit as end:
                code = end.code
        said = out.buffer.getvalue().decode()  # type: ignore[attr-defined]
        assert not code, f"{shlex.join(words)}\n{said}"
        return said

    def type_in(lines: str) -> str:
        for path in FILES:
            lines = lines.replace(path, str(place / Path(path).name))
        for name, here in HERE.items():
            lines = re.sub(rf"\b{name}\b", here, lines)
        said, rest = "", iter(lines.splitlines())
        for line in rest:
            line, here_document, end = line.partition(" << ")
            stdin = "".join(f"{below}\n" for below in iter(lambda: next(rest), end)) if here_document else ""
            words = shlex.split(line)
            if words and words[0] in PROGRAMS and not re.search(r"[|&;<>$]", line):
                said += call(words, stdin)
            else:
                said += shell(line)
        return said

    return type_in


def sections(name: str) -> Iterator[tuple[str, str]]:
    """The examples of a page: those of each subsection together, as one types them."""
    title, lines, literal = "", [], False
    for line in (SOURCES / name).read_text(encoding="utf-8").splitlines():
        if line.startswith((".Ss", ".Sh")):
            if lines:
                yield title, "\n".join(lines)
            title, lines = line[4:], []
        elif line.startswith(".Bd -literal"):
            literal = True
            lines.append("ipvsadm -C")  # "the same in one command" begins anew
        elif line.startswith(".Ed"):
            literal = False
        elif literal:
            lines.append(line.removeprefix("# "))


PAGES = [
    pytest.param(lines, id=f"{page}: {title}")
    for page in ("ipvsadm.8", "ipvsadm-save.8", "ipvsadm-restore.8", "pylvs.8")
    for title, lines in sections(page)
]
HELPED = [
    pytest.param(name, command, id=f"pylvs {name}: {command}")
    for name, parser in every_parser().items()
    for command, _ in parser.examples
]


def test_there_are_the_four_of_the_originals_manual_and_more() -> None:
    assert len(PAGES) >= 10


@pytest.mark.parametrize("lines", PAGES)
def test_an_example_of_the_manual(type_in: Type, lines: str) -> None:
    type_in(lines.replace("pylvs load --conn-tab-bits 13", ":"))  # which tests/packet/test_resize.py does
    said = type_in("ipvsadm -Sn").splitlines()
    # all that was added is there, but what was deleted
    wanted = len(re.findall(r"(?:^|ipvsadm )-[Aa] ", lines.rpartition("ipvsadm -C\n")[2], re.MULTILINE))
    if "ipvsadm -a" in lines.rpartition("ipvsadm -C\n")[2] or "-R <<" in lines:
        assert len(said) == wanted - lines.count("ipvsadm -d "), said


def test_what_an_init_script_does(type_in: Type) -> None:
    """Debian's and Fedora's, call for call: see docs/replacing-ipvsadm.md."""
    type_in("""echo "# ipvsadm.rules" > /etc/ipvsadm.rules
ipvsadm -A -t 10.0.0.1:80 -s rr
ipvsadm -a -t 10.0.0.1:80 -r 10.2.0.1 -m
ipvsadm -S -n >> /etc/ipvsadm.rules
ipvsadm -C
grep -v "^#" /etc/ipvsadm.rules | ipvsadm -R
ipvsadm -L -n
ipvsadm -L --rate -n""")
    saved = type_in("ipvsadm -Sn")
    assert len(saved.splitlines()) == 2
    type_in("""bash -c "exec ipvsadm-save -n > /etc/ipvsadm.rules"
ipvsadm -C
bash -c "exec ipvsadm-restore < /etc/ipvsadm.rules\"""")
    assert type_in("ipvsadm -Sn") == saved


def test_the_quickstart(type_in: Type) -> None:
    """All that is typed on a director."""
    text = (DOCS / "quickstart.md").read_text(encoding="utf-8")
    lines = re.findall(r"^# ((?:ipvsadm|pylvs (?!lab|unload)).*)$", text, re.MULTILINE)
    assert len(lines) > 12
    # the section on LVS-DR begins anew
    place = next(at for at, line in enumerate(lines) if line.startswith("ipvsadm -a") and line.endswith("-g"))
    type_in("\n".join([*lines[: place - 1], "ipvsadm -C", *lines[place - 1 :]]))
    assert len(type_in("ipvsadm -Sn").splitlines()) == 3


@pytest.mark.parametrize("page", ["quickstart.md", "replacing-ipvsadm.md", "reference.md"])
def test_every_pylvs_command_in_the_docs_can_be_typed(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    parsers = every_parser()
    for line in re.findall(r"^(?:\S*# |.*\| )pylvs ([^|#<>\n]*)", text, re.MULTILINE):
        words = shlex.split(line)
        path = " ".join(words[:2]) if " ".join(words[:2]) in parsers else words[0]
        if "--help" not in words:
            parsers[path].parse_args(words[len(path.split()) :])


@pytest.mark.parametrize(("name", "command"), HELPED)
def test_an_example_of_the_help(type_in: Type, name: str, command: str) -> None:
    words = shlex.split(command.rpartition("| pylvs" if "| pylvs" in command else "; pylvs")[2] or command)
    words = words[words.index("pylvs") + 1 :] if "pylvs" in words else words
    words = words[: next((at for at, word in enumerate(words) if word in ("|", "&")), len(words))]
    parsers = every_parser()
    path = " ".join(words[:2]) if " ".join(words[:2]) in parsers else words[0]
    if "--help" not in words:
        parsers[path].parse_args(words[len(path.split()) :])
    if name in NOT_HERE or name.split()[0] in NOT_HERE or words[0] in NOT_HERE or "--watch" in command:
        return
    before = next((before for begun, before in BEFORE.items() if command.startswith(begun)), "")
    if name == "mark route":
        before = f"echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding\n{before}"
    try:
        type_in(f"{before}\n{command.replace('| head', '| cat')}")
    finally:
        if name == "mark route":
            type_in("for mark in 1 0x10/0xf0; do pylvs mark route del $mark 2>/dev/null || true; done")
        if name == "detach":
            type_in("pylvs attach d1")
