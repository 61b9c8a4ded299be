"""The words of `pylvs mark` against anything: a refusal with a reason or a rule that lists as it was given, and never a
traceback."""

import io
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import pylvs.cli.mark as cli
from pylvs.errors import InvalidValue, LVSError
from pylvs.model import MarkRoute, MarkRule

quick = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])

NETWORKS = ["10.0.0.0/8", "10.0.0.1", "10.0.0.1/8", "0.0.0.0/0", "::/0", "2001:db8::/32", "::ffff:10.0.0.1", "/", "x"]
PORTS = ["80", "80,443", "1:2", "2:1", ":", ",", "http", "65536", "0:65535", "1,3,5,7,9,11,13,15,17", "-1"]
MARKS = ["0", "1", "0x1", "0xffffffff", "4294967296", "-1", "x", "1/1", "0x10/0xf0", "5/2", "1/0"]
VALUES = [
    *NETWORKS,
    *PORTS,
    *MARKS,
    "tcp",
    "udp",
    "sctp",
    "icmp",
    "eth0",
    "lo",
    "a" * 16,
    "ipv4",
    "ipv6",
    "add",
    "list",
]
OPTIONS = [
    "--dst", "-d", "--src", "-s", "--in", "-i", "--proto", "-p", "--dport", "--sport", "--mark", "--family", "--insert",
    "--json", "--mask", "--dry-run", "--", "-x", "--mar",
]  # fmt: skip
COMMANDS = ["add", "del", "list", "flush", "route", "import"]

values = st.one_of(st.sampled_from(VALUES), st.text(max_size=6).map(lambda text: text.replace("\0", "")))
tame = st.lists(st.tuples(st.sampled_from(OPTIONS[:13]), values), max_size=5).map(
    lambda p: [w for two in p for w in two]
)
wild = st.lists(st.one_of(st.sampled_from(OPTIONS), values), max_size=8)
lines = st.builds(lambda command, rest: [command, *rest], st.sampled_from(COMMANDS), st.one_of(tame, wild))


class FakeDirector:
    """Rules and routes in memory."""

    def __init__(self) -> None:
        self.rules: list[MarkRule] = []
        self.routes: list[MarkRoute] = []

    def __enter__(self) -> "FakeDirector":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def marks(self) -> list[MarkRule]:
        return list(self.rules)

    def set_marks(self, rules: list[MarkRule]) -> None:
        self.rules = list(rules)

    def flush_marks(self) -> None:
        self.rules = []

    def add_mark(self, rule: MarkRule, place: int | None = None) -> None:
        if rule in self.rules or not 1 <= (place or 1) <= len(self.rules) + 1:
            raise InvalidValue("there, or no place")
        self.rules.insert(len(self.rules) if place is None else place - 1, rule)

    def delete_mark(self, rule: MarkRule | int) -> MarkRule:
        if isinstance(rule, int):
            if not 1 <= rule <= len(self.rules):
                raise InvalidValue("no place")
            return self.rules.pop(rule - 1)
        if rule not in self.rules:
            raise InvalidValue("not there")
        self.rules.remove(rule)
        return rule

    def mark_routes(self) -> list[MarkRoute]:
        return list(self.routes)

    @staticmethod
    def forwarded_families() -> list[int]:
        return [2, 10]

    def add_mark_route(self, route: MarkRoute) -> None:
        self.routes.append(route)

    def delete_mark_route(self, route: MarkRoute) -> None:
        if route not in self.routes:
            raise InvalidValue("not there")
        self.routes.remove(route)


def run(director: FakeDirector, words: list[str], stdin: str = "") -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(cli, "Director", lambda: director),
        patch("sys.stdin", io.StringIO(stdin)),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            code = cli.main(words)
        except SystemExit as done:
            code = int(done.code or 0)
        except LVSError:
            code = 1  # as pylvs.cli says
    return code, out.getvalue(), err.getvalue()


@quick
@given(st.lists(lines, max_size=4), st.text(max_size=40))
@example([["del"]], "")
@example([["route"]], "")
@example([["route", "add"], ["route", "del", "list"], ["add", "--insert", "--mark", "1"]], "")
@example([["add", "--insert", "-1", "-d", "10.0.0.1", "--mark", "1"]], "")
def test_any_words_have_an_answer(commands: list[list[str]], stdin: str) -> None:
    director = FakeDirector()
    for words in commands:
        before = director.marks(), director.mark_routes()
        code, _, err = run(director, words, stdin)
        assert code in (0, 1, 2)
        if code == 2:
            assert "error: " in err
        if code:
            assert (director.marks(), director.mark_routes()) == before


@quick
@given(st.lists(tame, max_size=4))
def test_what_is_listed_can_be_added_and_removed(additions: list[list[str]]) -> None:
    """The listing is in the words of the command."""
    director = FakeDirector()
    for words in additions:
        run(director, ["add", *words, "--mark", "1"])
    listed = [line.split()[1:] for line in run(director, ["list"])[1].splitlines()]
    again = FakeDirector()
    for words in listed:
        assert run(again, ["add", *words])[0] == 0
    assert again.rules == director.rules
    for words in listed:
        assert run(again, ["del", *words])[0] == 0
    assert not again.rules
