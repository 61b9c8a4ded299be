"""--explain: each of ipvsadm's messages has a sentence, which says what was wrong on this very command line."""

import ast
import io
import re
from errno import EBUSY
from os import strerror
from pathlib import Path

import pytest

import pylvs.ipvsadm
from golden.test_cli import CASES, steps_of
from pylvs.errors import DatapathError, NotPermitted, TableFull
from pylvs.ipvsadm import messages
from pylvs.ipvsadm.commands import Shell
from pylvs.ipvsadm.explain import explanation
from support.fake_director import FakeDirector
from support.hosts import TestResolver

SOURCE = Path(pylvs.ipvsadm.__file__).parent
SAYING = {"misuse", "Exit", "Refused", "_bad"}
"""The functions whose first text is a message."""


def ipvsadm(director: FakeDirector, line: str, stdin: str = "") -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    code = Shell(io.StringIO(stdin, newline="\n"), out, err, lambda: director, TestResolver()).run(line.split(" "))
    return code, out.getvalue(), err.getvalue()


def explained(line: str) -> tuple[str, str]:
    """(the message, the sentence) of a refusal; without --explain there is no sentence."""
    director = FakeDirector()
    for rule in ("-A -t 10.0.0.1:80", "-a -t 10.0.0.1:80 -r 10.2.0.1 -m"):
        assert ipvsadm(director, rule) == (0, "", "")
    code, out, err = ipvsadm(director, line)
    assert code and not out
    more = ipvsadm(director, f"{line} --explain")
    assert more[:2] == (code, out) and more[2].startswith(err)
    return err.rstrip("\n"), more[2].removeprefix(err).rstrip("\n")


LINES = {
    "-A -t 10.0.0.1:80": "TCP 10.0.0.1:80 is defined already. Change it with -E",
    "-A -t 10.0.0.2:x": "'10.0.0.2:x' is no service address. Write 192.0.2.1:80",
    "-A -t 10.0.0.2": "'10.0.0.2' has no port",
    "-A -t 10.0.0.2:80 -s quick": "There is no scheduler quick. Schedulers are rr",
    "-A -t 10.0.0.2:80 -o": "-o schedules each datagram alone",
    "-A -t 10.0.0.2:80 -p 0": "'0' is not a whole number of seconds",
    "-A -t 10.0.0.2:80 -b quick": "There is no flag 'quick'",
    "-A -t 10.0.0.2:80 -b sh-port": "'sh-port' is a flag of another scheduler",
    "-A -t 10.0.0.2:80 -p -M x": "'x' is no IPv4 mask",
    "-A -t [2001:db8::1]:80 -p -M 129": "'129' is not a prefix length",
    "-A -t 10.0.0.2:80 -w 1": "'add-service' takes a service (-t, -u, --sctp-service or -f), -s (--scheduler)",
    "-A": "Without a service (-t, -u, --sctp-service or -f) it is not said which one is meant",
    "-A -f 0": "'0' is not a whole number from 1 to 4294967295",
    "-A -6 -f 1": "-6 says that a firewall mark is of IPv6",
    "-A -t 10.0.0.2:80 -s rr -s rr": "What 'scheduler' says can be said only once",
    "-A -D": "'-D' would be a second command",
    "-A 10.0.0.1:80": "'10.0.0.1:80' belongs to no option",
    "-a -t 10.0.0.1:80 -r 10.2.0.1": "10.2.0.1:80 is there already. Change it with -e",
    "-a -t 10.0.0.2:80 -r 10.2.0.1": "TCP 10.0.0.2:80 is not defined. ipvsadm -L -n shows",
    "-a -t 10.0.0.1:80 -r 224.0.0.1": "224.0.0.1 is not unicast. An address must be a single host's",
    "-a -t 10.0.0.1:80 -r 10.2.0.2 -m -y 5": "The lower threshold 5 is above the upper threshold 0. Weights",
    "-a -t 10.0.0.1:80 -r 10.2.0.2 -w -1": "'-1' is not a whole number from 0 to 2147483647",
    "-a -t 10.0.0.1:80 -r 10.2.0.2 -x x": "'x' is not a whole number",
    "-a -t 10.0.0.1:80 -r 10.2.0.2 -y x": "'x' is not a whole number",
    "-a -t 10.0.0.1:80 -r []": "'[]' is no real server's address",
    "-a -t 10.0.0.1:80 -r 2001:db8::1": "The service and the real server '2001:db8::1' are of IPv4 and IPv6",
    "-a -t 10.0.0.1:80 -r 10.2.0.2 --tun-csum": "Options that begin with --tun-",
    "-a -t 10.0.0.1:80 -r 10.2.0.2 -i --tun-type x": "There is no tunnel of type 'x'",
    "-a -t 10.0.0.1:80 -r 10.2.0.2 -i --tun-port x": "'x' is not a port",
    "-a -t 10.0.0.1:80 -r 10.2.0.2 -i --tun-type gue": "Without --tun-port it is not said",
    "-a -t 10.0.0.1:80 -r 10.2.0.2 -i --tun-csum": "A tunnel of type ipip takes no options, but not --tun-csum",
    "-d -t 10.0.0.1:80 -r 10.2.0.3": "10.2.0.3:80 is not there. ipvsadm -L -n shows",
    "-L -t 10.0.0.2:80": "TCP 10.0.0.2:80 is not defined. ipvsadm -L -n shows",
    "-L -c --timeout": "'timeout' and 'connection' ask for two different things",
    "-L -c --stats": "-c shows connections",
    "-L --timeout --stats": "-c shows connections",
    "-L --jsn": "There is no option --jsn. Did you mean --json?",
    "-L --stat": "There is no option --stat. Did you mean --stats?",
    "-q": "The command line must begin with a command",
    "-L -q": "There is no option -q. Letters may stand together",
    "-L --stats=x": "--stats=x stands for itself",
    "-S --json": "'save' takes -n (--numeric), --explain, but not --json. What -S prints is for -R",
    "-A -f 7 --json": "'add-service' prints nothing that could be JSON",
    "--set 1 2": "Three numbers of seconds must follow",
    "--set 1 2 x": "'x' is not a whole number of seconds",
    "--start-daemon x": "There are two daemons",
    "--stop-daemon x": "There are two daemons",
    "--stop-daemon master": "Does not run. There is nothing to stop",
    "--start-daemon master --syncid x": "'x' is not a whole number from 0 to 255",
    "--start-daemon master --sync-maxlen x": "'x' is not a whole number from 1 to 65507",
    "--start-daemon master --mcast-port x": "'x' is not a port",
    "--start-daemon master --mcast-ttl x": "'x' is not a whole number from 1 to 255",
    "--start-daemon master --mcast-group 10.0.0.1": "'10.0.0.1' is no IPv4 multicast address",
    "--start-daemon master --mcast-group ::1": "'::1' is no IPv6 multicast address",
}


@pytest.mark.parametrize("line", LINES)
def test_what_was_wrong(line: str) -> None:
    assert explained(line)[1].startswith(LINES[line])


def test_what_the_original_said_in_any_recording() -> None:
    told = {
        (message, step["cmd"])
        for case in CASES
        for step in steps_of(case)
        for message in step["stderr"].splitlines()
        if message not in ("", "Are you sure that IP Virtual Server is built in the kernel or as module?")
        and not message.startswith("ipvsadm-save:") and not message.startswith("   With the -n")
    }  # fmt: skip
    assert len({message for message, _ in told}) > 50
    silent = {message for message, line in told if not explanation(message, line.split()[1:])}
    assert silent <= {"-A", "-f"}, "the first half of a word with a newline in it"


def test_every_message_of_the_source_is_tried_here() -> None:
    """So that a new message comes with a new sentence."""
    said = [explained(line)[0] for line in LINES] + ["-x: missing argument"]
    said += ["this would end the restore here, and has no place in an atomic one"]
    patterns = set()
    for name in ("grammar.py", "options.py", "rehearse.py"):
        for node in ast.walk(ast.parse((SOURCE / name).read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in SAYING:
                patterns.update(pattern for argument in node.args[:1] if (pattern := _pattern(argument)))
    assert len(patterns) > 25
    for pattern in patterns:
        assert any(re.fullmatch(pattern, message) for message in said), pattern
    for message in said:
        assert explanation(message, ["-x"]), message


def _pattern(text: ast.expr) -> str:
    """The pattern of what a text in the source may become."""
    if isinstance(text, ast.JoinedStr):
        return "".join(
            re.escape(part.value) if isinstance(part, ast.Constant) else ".*" for part in text.values
        )  # fmt: skip
    if isinstance(text, ast.Constant) and isinstance(text.value, str):
        literal = re.escape(text.value.rstrip("\n"))
        return f"(.*: )?{literal}"
    return ""


def test_every_refusal_of_a_director() -> None:
    texts = {*messages._BY_COMMAND.values(), *messages._ALWAYS.values()}
    assert len(texts) > 10
    for text in texts:
        assert explanation(text, [])


def test_what_says_it_itself_is_not_said_twice() -> None:
    full = TableFull("there is room for 4 services; load with more")
    message = messages.refusal("add-service", full)
    assert explanation(message, [], str(full)) == ""
    assert explanation(strerror(EBUSY), [], "") == ""


def test_when_nothing_works() -> None:
    for error, sentence in ((NotPermitted("why"), "Run it as root"), (DatapathError("no BTF"), "Nothing can be done")):
        message = messages.cannot_initialize(error)
        assert explanation(message, ["-L"]).startswith(sentence)


def test_long_and_hostile_words_are_shown_shortened() -> None:
    sentence = explanation("illegal weight specified", ["-a", "-w", "9" * 1_000_000])
    assert len(sentence) < 300
    assert explanation("unexpected argument \033[2J\n", []).startswith("'?[2J' belongs")
    assert explanation("unexpected argument {0} {x}", []).startswith("'{0} {x}' belongs")


def test_not_as_the_argument_of_an_option() -> None:
    """The original takes it for the scheduler's name, and so do we."""
    assert ipvsadm(FakeDirector(), "-A -t 10.0.0.1:80 -s --explain") == (
        255, "", "Scheduler or persistence engine not found\n"
    )  # fmt: skip


def test_a_restore_names_the_line() -> None:
    rules = "-A -f 1\n\n  \t-A -f 1 \r\n-A -f 2 -q\n-A -f x\n"
    plain = ipvsadm(FakeDirector(), "-R", rules)
    assert plain == (2, "", "Service already exists\n-q: unknown option\ninvalid fwmark value `x' specified\n")
    code, out, err = ipvsadm(FakeDirector(), "-R --explain", rules)
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert lines[:2] == ["Service already exists", "line 3: -A -f 1"]
    assert lines[2].startswith("Firewall mark 1 is defined already")
    assert [line for line in lines if line.startswith("line ")] == [
        "line 3: -A -f 1", "line 4: -A -f 2 -q", "line 5: -A -f x"
    ]  # fmt: skip
