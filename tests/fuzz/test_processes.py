"""The command line as a process, with any bytes at all, and with a real director behind it.

The director is one in a network namespace of its own: what these lines do, they do there. What it answers is compared
with what the plain lists of `FakeDirector` answer, but for what it says it cannot do.
"""

import io
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.test_cli import CODES, lines, run
from pylvs import Director
from pylvs.ipvsadm.commands import Shell
from support.fake_director import FakeDirector
from support.harness import Harness
from support.hosts import TestResolver

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loading the packet path needs root")
few = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
PROGRAM = [sys.executable, "-c", "from pylvs.ipvsadm import main; main()"]
RULES = """\
-A -t 10.0.0.1:80 -s wrr
-a -t 10.0.0.1:80 -r 10.2.0.1 -m -w 2147483647
-A -u 10.0.0.2:53 -s sh -b sh-port -o
-A -t [2001:db8::80]:80 -p 60 -M 64
-a -t [2001:db8::80]:80 -r [2001:db8::a1]:80 -x 5
-A -f 1 -6 -p
"""

noise = st.binary(max_size=12).map(lambda word: word.replace(b"\0", b""))
arguments = st.lists(
    st.one_of(noise, st.sampled_from([b"-A", b"-t", b"-Ln", b"-a", b"-r", b"10.0.0.1:80"])), max_size=6
)
command_lines = st.one_of(
    lines.map(lambda line: [word.replace("\0", "").encode("utf-8", "surrogatepass") for word in line]), arguments
)


@pytest.fixture(scope="module")
def director() -> Iterator[None]:
    with Harness():  # which goes into the namespace, too
        yield


def play(words: list[bytes], stdin: bytes) -> None:
    done = subprocess.run([*PROGRAM, *words], input=stdin, capture_output=True, timeout=60, check=False)
    assert done.returncode in CODES, done
    assert b"Traceback" not in done.stderr and b"internal error" not in done.stderr
    assert (done.returncode in (0, 1)) or done.stderr


@few
@given(command_lines)
def test_any_bytes_are_a_command_line(director: None, words: list[bytes]) -> None:
    play(words, b"-A -f 9\n")


@settings(few, max_examples=6)
@given(st.one_of(st.binary(max_size=400), st.lists(command_lines.map(b" ".join), max_size=8).map(b"\n".join)))
def test_any_bytes_are_a_restore(director: None, text: bytes) -> None:
    play([b"-R"], text)


@settings(few, max_examples=40)
@given(st.lists(lines, min_size=1, max_size=5))
def test_the_director_answers_as_the_lists_do(director: None, played: list[list[str]]) -> None:
    lists = FakeDirector()
    run(lists, ["-R"], RULES)
    with Director() as real:
        real.flush()
    ours(["-R"], RULES)
    for line in played:
        words = [word.replace("\0", "") for word in line]
        answer = ours(words)
        if "ipvsadm: " in answer[2]:
            return  # a limit or a gap: from here on they differ
        assert comparable(answer) == comparable(run(lists, words)), words


def ours(line: list[str], stdin: str = "") -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    code = Shell(io.StringIO(stdin, newline="\n"), out, err, Director, TestResolver()).run(line)
    return code, out.getvalue(), err.getvalue()


def comparable(answer: tuple[int, str, str]) -> tuple[int, list[str], str]:
    """Without the size of the table, and the lines in any order: of --nosort nobody knows one."""
    code, out, err = answer
    return code, sorted(line.partition("(size=")[0] for line in out.splitlines()), err
