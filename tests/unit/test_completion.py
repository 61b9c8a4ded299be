"""Completions, asked of the shells themselves: bash's function is called, zsh typed into, fish asked."""

import os
import pty
import select
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from completions import LISTS, programs
from make import files

RULES = """\
-A -t 10.0.0.1:80 -s rr
-a -t 10.0.0.1:80 -r 10.1.0.1:80 -m -w 1
-a -t 10.0.0.1:80 -r 10.1.0.2:80 -m -w 1
-A -t [2001:db8::80]:443 -s rr
-a -t [2001:db8::80]:443 -r [2001:db8::1]:443 -m -w 1
-A -u 10.0.0.1:53 -s rr -o
-A -f 3 -6 -s rr
-a -f 3 -6 -r 2001:db8::5 -g -w 1
"""
BASH = [
    ("ipvsadm -D -t ", ["10.0.0.1:80", "[2001:db8::80]:443"]),
    ("ipvsadm -D -t 10.0.0.1:", ["80"]),  # what stands before the colon is a word of its own to bash
    ("ipvsadm -E --tcp-service=10", ["10.0.0.1:80"]),
    ("ipvsadm -D -u ", ["10.0.0.1:53"]),
    ("ipvsadm -D --sctp-service ", []),
    ("ipvsadm -A -t ", []),
    ("ipvsadm -Z -f ", ["3"]),
    ("ipvsadm -e -t 10.0.0.1:80 -r ", ["10.1.0.1:80", "10.1.0.2:80"]),
    ("ipvsadm -d --tcp-service 10.0.0.1:80 --real-server ", ["10.1.0.1:80", "10.1.0.2:80"]),
    ("ipvsadm -a -t 10.0.0.1:80 -r ", ["[2001:db8::1]:443", "2001:db8::5"]),
    ("ipvsadm -d -f 3 -6 -r ", ["2001:db8::5"]),
    ("ipvsadm -A -t 1.2.3.4:80 -s ", list(LISTS["scheduler"])),
    ("ipvsadm -At 1.2.3.4:80 --scheduler=l", ["lc", "lblc", "lblcr"]),
    ("ipvsadm -A -t 1.2.3.4:80 -b sh-", ["sh-fallback", "sh-port"]),
    ("ipvsadm -A -t 1.2.3.4:80 -b sh-port,sh-f", ["sh-port,sh-fallback"]),
    ("ipvsadm -A -t x -p --sched", ["--scheduler", "--sched-flags"]),
    ("ipvsadm -a -t 1.2.3.4:80 --tun-type ", ["ipip", "gue", "gre"]),
    ("ipvsadm -L --p", ["--persistent-conn"]),
    ("ipvsadm -a --p", []),
    ("ipvsadm --add-", ["--add-service", "--add-server"]),
    ("ipvsadm --start-daemon ", ["master", "backup"]),
    ("ipvsadm-save -", ["-n"]),
    ("ipvsadm-restore x", []),
    ("pylvs mark ", ["add", "del", "list", "flush", "import", "route"]),
    ("pylvs mark add --family=", ["ipv4", "ipv6"]),
    ("pylvs sysctl drop", ["drop_entry", "drop_packet"]),
    ("pylvs conns --service t", ["tcp/10.0.0.1:80", "tcp/[2001:db8::80]:443"]),
    ("pylvs conns flush --rip 10", ["10.1.0.1:80", "10.1.0.2:80"]),
    ("pylvs conns --by ", ["service", "rip", "state", "client"]),
    ("pylvs conns fl", ["flush"]),
    ("pylvs timeouts tcp.ESTAB", ["tcp.ESTABLISHED="]),
    ("pylvs attach l", ["lo"]),
    ("pylvs lab up d", ["dr"]),
]
FISH = [
    (line, found) for line, found in BASH if "--tcp-service=" not in line and "," not in line and ":" not in line[-1:]
]
ZSH = [
    ("ipvsadm -D -t 10", "10.0.0.1:80 "),
    ("ipvsadm -e -t 10.0.0.1:80 -r 10.1.0.1", "10.1.0.1:80 "),
    ("ipvsadm -a -t 1:80 -r 2001", "2001:db8::5 "),
    ("ipvsadm -A -t 1:80 -s wr", "wrr "),
    ("ipvsadm -A -t 1:80 -b sh-port,sh-f", "sh-port,sh-fallback,"),
    ("ipvsadm -a -t 1:80 --tun-type gr", "gre "),
    ("ipvsadm -Ln --per", "--persistent-conn "),
    ("ipvsadm --add-ser", "--add-serv"),
    ("ipvsadm -a --per", "--per"),
    ("ipvsadm-save -", "-n "),
    ("pylvs mark ro", "route "),
    ("pylvs sysctl drop_e", "drop_entry "),
    ("pylvs conns --by cl", "client "),
    ("pylvs conns flush --dr", "--dry-run "),
    ("pylvs conns --service udp", "udp/10.0.0.1:53 "),
    ("pylvs timeouts tcp.ESTAB", "tcp.ESTABLISHED="),
    ("pylvs proc net/ip_vs_app", "net/ip_vs_app "),
    ("pylvs proc mo", "mount "),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts, and an ipvsadm that knows RULES."""
    place = tmp_path_factory.mktemp("completions")
    for name, text in files().items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text, encoding="utf-8")
    (place / "rules").write_text(RULES)
    program = place / "bin/ipvsadm"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n[ "$*" = -Sn ] || exit 2\ncat {place}/rules\n')
    program.chmod(0o755)
    (place / "home").mkdir()
    return place


def environment(place: Path) -> dict[str, str]:
    return {
        "PATH": f"{place}/bin:{os.environ['PATH']}",
        "HOME": f"{place}/home",
        "ZDOTDIR": f"{place}/home",
        "TERM": "dumb",
    }


def shell(place: Path, *words: str) -> str:
    done = subprocess.run(words, env=environment(place), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


def bash(place: Path, lines: list[str]) -> list[list[str]]:
    """What bash would offer for each line."""
    commands = [f"source {place}/bash-completion/completions/{program.name}" for program in programs()]
    commands.append(
        """offer() {
            COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=($1) COMP_CWORD=0 COMPREPLY=()
            local program=${1%% *}
            "_${program//-/_}"
            local IFS=$'\\t'; printf '%s\\n' "${COMPREPLY[*]}"
        }"""
    )
    commands += [f"offer '{line}'" for line in lines]
    answers = shell(place, "bash", "--norc", "-c", "\n".join(commands)).split("\n")[:-1]
    return [answer.split("\t") if answer else [] for answer in answers]


def test_bash(place: Path) -> None:
    assert dict(zip([line for line, _ in BASH], bash(place, [line for line, _ in BASH]), strict=True)) == dict(BASH)


def test_bash_by_its_words_alone(place: Path) -> None:
    """Without COMP_LINE, as some programs call completions."""
    script = f"""source {place}/bash-completion/completions/ipvsadm
        COMP_WORDS=(ipvsadm -A -t x -s wl) COMP_CWORD=5; _ipvsadm; echo "${{COMPREPLY[@]}}" """
    assert shell(place, "bash", "--norc", "-c", script) == "wlc\n"


@pytest.mark.parametrize("ending", ["exit 2", "echo no >&2; exit 255", "echo; echo -A; echo -a -t; exit 0"])
def test_a_director_that_does_not_answer_is_no_matter(place: Path, ending: str, tmp_path: Path) -> None:
    program = tmp_path / "ipvsadm"
    program.write_text(f"#!/bin/sh\n{ending}\n")
    program.chmod(0o755)
    script = f"""PATH={tmp_path}:$PATH; source {place}/bash-completion/completions/ipvsadm
        COMP_LINE="ipvsadm -D -t "; COMP_POINT=14; _ipvsadm; echo "[${{COMPREPLY[@]}}]" """
    assert shell(place, "bash", "--norc", "-c", script) == "[]\n"


def test_what_a_rule_says_is_never_run(place: Path) -> None:
    """A name in a listing is somebody else's text."""
    rules = place / "rules"
    rules.write_text("-A -t $(touch${IFS}x);`id`:80 -s rr\n-A -t *:80 -s rr\n")
    try:
        assert bash(place, ["ipvsadm -D -t "]) == [["$(touch${IFS}x);`id`:80", "*:80"]]
    finally:
        rules.write_text(RULES)


@pytest.mark.parametrize("program", [program.name for program in programs()])
def test_everything_is_offered_by_bash(place: Path, program: str) -> None:
    """Every node of every program: its options, and the words that lead on."""
    (one,) = (found for found in programs() if found.name == program)
    lines, wanted = [], []
    for node in one.nodes:
        begun = f"{program} --{node.name}" if one.by_option and node.name else f"{program} {node.name}".rstrip()
        if node.name in ("start-daemon", "stop-daemon"):
            begun += " master"
        lines.append(f"{begun} -")
        wanted.append([spelling for option in node.options for spelling in option.spellings])
        if node.below:
            lines.append(f"{begun} ")
            wanted.append(sorted([*LISTS.get(node.words, ()), *(word for word, _ in node.below)]))
    found = bash(place, lines)
    assert [sorted(words) if line.endswith(" ") else words for line, words in zip(lines, found, strict=True)] == wanted


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
def test_fish(place: Path) -> None:
    commands = [f"source {place}/fish/vendor_completions.d/{program.name}.fish" for program in programs()]
    for line, _ in FISH:
        commands += [f"complete -C '{line}'", "echo ----"]
    said = shell(place, "fish", "--no-config", "-c", "\n".join(commands)).split("----\n")[:-1]
    found = [sorted(line.split("\t")[0] for line in answer.splitlines()) for answer in said]
    # fish names the option again
    before = [line.rpartition(" ")[2].partition("=") for line, _ in FISH]
    wanted = [sorted(f"{b[0]}={w}" if b[1] else w for w in words) for b, (_, words) in zip(before, FISH, strict=True)]
    lines = [line for line, _ in FISH]
    assert dict(zip(lines, found, strict=True)) == dict(zip(lines, wanted, strict=True))


@pytest.fixture
def zsh(place: Path, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Type a line into a zsh of its own, then Tab; what then stands on its command line."""
    if not shutil.which("zsh"):
        pytest.skip("zsh is not installed")
    out = tmp_path / "out"
    os.mkfifo(out)
    (place / "home/.zshrc").write_text(
        f"""PS1='' PS2=''
        fpath=({place}/zsh/site-functions $fpath)
        autoload -Uz compinit; compinit -D -u
        tell() {{ print -r -- "$BUFFER" > {out}; BUFFER= }}
        zle -N tell; bindkey '^G' tell
        print ready > {out}
        """
    )
    process, terminal = pty.fork()
    if process == 0:
        os.execvpe("zsh", ["zsh", "-i"], environment(place))

    def drain() -> None:
        try:
            while os.read(terminal, 65536):
                pass
        except OSError:
            pass  # it is gone

    threading.Thread(target=drain, daemon=True).start()
    try:
        with os.fdopen(os.open(out, os.O_RDWR)) as told:

            def line() -> str:
                assert select.select([told], [], [], 60)[0], "zsh says nothing"
                return told.readline().removesuffix("\n")

            def complete(typed: str) -> str:
                os.write(terminal, typed.encode() + b"\t\x07")
                return line()

            assert line() == "ready"
            yield complete
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(terminal)


def test_zsh(zsh: Callable[[str], str]) -> None:
    found = {line: zsh(line) for line, _ in ZSH}
    assert found == {line: line.rpartition(" ")[0] + " " + word for line, word in ZSH}
