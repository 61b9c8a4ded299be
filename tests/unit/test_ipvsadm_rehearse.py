"""--dry-run and -R --atomic, with a director without a kernel: the same answers as in earnest, and what they leave."""

import io
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.test_cli import COMMANDS, lines, table, tables
from pylvs.errors import NotPermitted, TableFull
from pylvs.ipvsadm.commands import Shell
from pylvs.ipvsadm.explain import given as given_options
from pylvs.model import Stats, real_server, virtual_service
from pylvs.plan import Checks, Plan
from support.fake_director import FakeDirector
from support.hosts import TestResolver

WEB = "-A -t 10.0.0.1:80 -s wlc\n-a -t 10.0.0.1:80 -r 10.2.0.1:80 -m -w 1\n"
MAIL = "-A -t 10.0.0.1:25 -s rr\n-a -t 10.0.0.1:25 -r 10.2.0.9:25 -g -w 7\n"


class Watched(FakeDirector):
    """Fails the test if anything is changed."""

    def _changed(self, *_: object) -> None:
        raise AssertionError("a rehearsal changes nothing")

    add_service = edit_service = delete_service = flush = zero = set_timeouts = _changed  # type: ignore[assignment]
    add_destination = edit_destination = delete_destination = _changed  # type: ignore[assignment]
    transaction = _changed  # type: ignore[assignment]


def ipvsadm(director: Any, line: str | list[str], stdin: str = "", replacing: bool = False) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    shell = Shell(io.StringIO(stdin, newline="\n"), out, err, lambda: director, TestResolver())
    code = shell.run(line.split() if isinstance(line, str) else line, replacing)
    return code, out.getvalue(), err.getvalue()


def with_table(rules: str, kind: type[FakeDirector] = FakeDirector) -> FakeDirector:
    director = FakeDirector()
    assert ipvsadm(director, "-R", rules) == (0, "", "")
    found = kind()
    found._services = director._services
    return found


def saved(director: FakeDirector) -> str:
    return ipvsadm(director, "-Sn")[1]


# ---- --dry-run ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "change"),
    [
        ("-A -u 10.0.0.1:53 -s rr -o", "-A -u 10.0.0.1:53 -s rr -o\n"),
        ("-E -t 10.0.0.1:80 -s wrr -p 9", "-E -t 10.0.0.1:80 -s wrr -p 9\n"),
        ("-E -t 10.0.0.1:80", ""),
        ("-D -t 10.0.0.1:80", "-D -t 10.0.0.1:80\n"),
        ("-C", "-D -t 10.0.0.1:80\n"),
        ("-a -t 10.0.0.1:80 -r rs1 -x 9 -y 3", "-a -t 10.0.0.1:80 -r 192.168.10.1:80 -g -w 1 -x 9 -y 3\n"),
        ("-e -t 10.0.0.1:80 -r 10.2.0.1 -m -w 9", "-e -t 10.0.0.1:80 -r 10.2.0.1:80 -m -w 9\n"),
        ("-e -t 10.0.0.1:80 -r 10.2.0.1 -m", ""),
        ("-d -t 10.0.0.1:80 -r 10.2.0.1", "-d -t 10.0.0.1:80 -r 10.2.0.1:80\n"),
        ("-Z", "-Z\n"),
        ("-Z -t 10.0.0.1:80", "-Z -t 10.0.0.1:80\n"),
        ("--set 0 0 7", "--set 900 120 7\n"),
        ("--set 0 0 0", ""),
    ],
)
def test_one_command(line: str, change: str) -> None:
    assert ipvsadm(with_table(WEB, Watched), f"{line} --dry-run") == (0, change, "")
    assert ipvsadm(with_table(WEB, Watched), f"--dry-run {line}") == (0, change, "")


def test_a_restore_shows_what_it_comes_to() -> None:
    director = with_table(WEB + MAIL, Watched)
    rules = (
        "-A -f 3\n-D -f 3\n-e -t 10.0.0.1:25 -r 10.2.0.9 -w 8\n-A -t 10.0.0.1:80\n-D -t 10.0.0.1:80\n--set 1 0 0\n-Z\n"
    )
    changes = "-D -t 10.0.0.1:80\n-e -t 10.0.0.1:25 -r 10.2.0.9:25 -g -w 8\n--set 1 120 300\n-Z\n"
    assert ipvsadm(director, "-R --dry-run", rules) == (
        0, changes, "Service already exists\nline 4: -A -t 10.0.0.1:80\n"
    )  # fmt: skip
    assert ipvsadm(director, "-R --dry-run --atomic", rules) == (
        255, "", "Service already exists\nline 4: -A -t 10.0.0.1:80\nnothing was changed\n"
    )  # fmt: skip


def test_a_restore_that_ends_in_the_middle_shows_what_came_before() -> None:
    assert ipvsadm(Watched(), "-R --dry-run", "-A -f 3\n-A -f x\n-A -f 4\n") == (
        2, "-A -f 3 -s wlc\n", "invalid fwmark value `x' specified\nline 2: -A -f x\n"
    )  # fmt: skip


def test_a_rehearsed_replacement_is_the_difference() -> None:
    director = with_table(WEB + MAIL, Watched)
    answer = ipvsadm(director, "-R --dry-run", WEB.replace("-w 1", "-w 2"), replacing=True)
    assert answer == (0, "-D -t 10.0.0.1:25\n-e -t 10.0.0.1:80 -r 10.2.0.1:80 -m -w 2\n", "")
    assert ipvsadm(director, "-R --dry-run", MAIL + WEB, replacing=True) == (0, "", "")


def test_listings_within_a_rehearsal_show_the_plan() -> None:
    assert ipvsadm(Watched(), "-R --dry-run", "-A -f 3\n-Sn\n") == (0, "-A -f 3 -s wlc\n-A -f 3 -s wlc\n", "")


changing = st.builds(
    lambda command, rest: [command, *rest], st.sampled_from([c for c in COMMANDS if c not in ("-R", "-h")]), lines
)


def _without_places(err: str) -> str:
    return "".join(f"{line}\n" for line in err.split("\n")[:-1] if not line.startswith("line "))


@settings(max_examples=150, deadline=None)
@given(tables(), st.lists(st.one_of(lines, changing).map(" ".join), max_size=8).map("\n".join), tables())
def test_a_rehearsal_answers_as_in_earnest(before: str, rules: str, more: str) -> None:
    director, real = FakeDirector(), FakeDirector()
    ipvsadm(director, "-R", before)
    ipvsadm(real, "-R", before)
    was = table(director)
    rules = "\n".join(line for line in (rules + "\n" + more).split("\n") if "daemon" not in line)
    code, _, err = ipvsadm(director, "-R --dry-run", rules)
    assert table(director) == was
    answer = ipvsadm(real, "-R", rules)
    assert (code, _without_places(err)) == (answer[0], _without_places(answer[2]))


@settings(max_examples=100, deadline=None)
@given(tables(), tables())
def test_the_changes_lead_from_one_table_to_the_other(before: str, after: str) -> None:
    director, wanted = FakeDirector(), FakeDirector()
    ipvsadm(director, "-R", before)
    ipvsadm(wanted, "-R", after)
    _, changes, _ = ipvsadm(director, "-R --dry-run", after, replacing=True)
    for line in changes.splitlines():
        assert ipvsadm(director, line) == (0, "", ""), line
    # addresses that are half the number space apart have no order of their own
    assert sorted(saved(director).splitlines()) == sorted(saved(wanted).splitlines())


# ---- --atomic -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("-A -t 10.0.0.1:25", 255, "Service already exists"),
        ("-d -t 10.0.0.1:25 -r 10.2.0.8", 255, "No such destination"),
        ("-a -t 10.0.0.1:25 -r 224.0.0.1", 255, "Invalid operation.  Possibly wrong module version, "
                                                "address not unicast, ..."),
        ("-A -t 10.0.0.2:25 -q", 255, "-q: unknown option"),
        ("-A -t 10.0.0.2:x", 2, "illegal virtual server address[:port] specified"),
        ("-L -t 10.0.0.2:25", 1, "No such service"),
        ("-R", 255, "Try `ipvsadm -h' or 'ipvsadm --help' for more information."),
        ("--version", 2, "this would end the restore here, and has no place in an atomic one"),
        ("--start-daemon master", 255, "ipvsadm: the connection synchronization daemon is not supported yet"),
        ("-A -f 5 --dry-run", 255, "--dry-run: unknown option"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("behind", ["", "-A -f 9\n", "-A -t nonsense\n"])
def test_a_refusal_of_any_line_leaves_all_as_it_was(line: str, code: int, message: str, behind: str) -> None:
    director = with_table(WEB)
    was = table(director)
    answer = ipvsadm(director, "-R --atomic", f"-C\n\n{MAIL}{line}\n{behind}")
    assert answer == (code, "", f"{message}\nline 5: {line}\nnothing was changed\n")
    assert table(director) == was
    # every line of it would have been refused, or not, with the same code in an ordinary restore
    if not behind and line != "--version":
        assert ipvsadm(with_table(WEB), "-R", f"-C\n\n{MAIL}{line}\n")[0] == code or "daemon" in line


def test_all_lines() -> None:
    director = with_table(WEB)
    assert ipvsadm(director, "-R --atomic", f"{MAIL}-D -t 10.0.0.1:80\n--set 7 0 0\n") == (0, "", "")
    assert saved(director) == MAIL
    assert director.timeouts().tcp == 7


def test_replacing() -> None:
    director = with_table(WEB)
    assert ipvsadm(director, "-R --atomic", MAIL, replacing=True) == (0, "", "")
    assert saved(director) == MAIL
    assert ipvsadm(director, "-R --atomic", "-A -f x\n", replacing=True)[0] == 2
    assert saved(director) == MAIL
    assert ipvsadm(director, "-R --atomic", "", replacing=True)[0] == 0
    assert saved(director) == ""


def test_input_is_read_before_the_lock_is_taken() -> None:
    events = []

    class Locking(FakeDirector):
        def transaction(self) -> Any:
            events.append("locked")
            return super().transaction()

    def stream() -> Iterator[str]:
        for line in ("-A -f 1\n", "-A -f 2\n"):
            events.append(line)
            yield line

    director = Locking()
    assert Shell(stream(), io.StringIO(), io.StringIO(), lambda: director).run(["-R", "--atomic"]) == 0
    assert events == ["-A -f 1\n", "-A -f 2\n", "locked"]


def test_what_the_director_refuses_in_the_end() -> None:
    class Full(FakeDirector):
        def transaction(self) -> Any:
            raise TableFull("there is room for 4 services")

    assert ipvsadm(Full(), "-R --atomic", "-A -f 1\n") == (255, "", "ipvsadm: there is room for 4 services\n")


def test_who_may_not_may_not_rehearse() -> None:
    def forbidden() -> Any:
        raise NotPermitted("needs root")

    for line in ("-R --dry-run", "-R --atomic", "-C --dry-run"):
        err = io.StringIO()
        assert Shell((), io.StringIO(), err, forbidden).run(line.split()) == 2
        assert err.getvalue().startswith("Can't initialize ipvs: Permission denied")


# ---- both -----------------------------------------------------------------------------------------------------------


def _with_ours(parts: tuple[list[str], list[tuple[int, str]]]) -> list[str]:
    line, ours = list(parts[0]), parts[1]
    for place, word in ours:
        line.insert(place, word)
    return line


ours = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["--json", "--atomic", "--dry-run", "--explain"])), max_size=3
)


@settings(max_examples=200, deadline=None)
@given(st.tuples(st.one_of(changing, lines), ours).map(_with_ours), tables(), st.booleans())
def test_any_command_line_with_our_options_has_an_answer(line: list[str], rules: str, replacing: bool) -> None:
    director = with_table(WEB)
    was = table(director)
    line = [word.replace("\0", "") for word in line]
    code, _, err = ipvsadm(director, line, rules, replacing)
    assert code in (0, 1, 2, 255)
    assert bool(err) >= (code != 0)
    options = {name for name, _ in given_options(line)}
    if "dry-run" in options or ("atomic" in options and code):
        assert table(director) == was


# ---- the plan -------------------------------------------------------------------------------------------------------


def test_a_plan_knows_what_is_there_and_what_was() -> None:
    director = with_table(WEB)
    key = virtual_service("10.0.0.1", 80)
    entry = director.service(key)
    director._services[key.key] = entry._replace(stats=Stats(conns=9))
    plan = director.rehearsal()
    new = real_server("10.2.0.2", 80)
    plan.add_destination(key, new)
    found = plan.service(key)
    assert [dest.server.address for dest in found.destinations] == ["10.2.0.2", "10.2.0.1"], "newest first"
    assert found.stats.conns == 9
    assert plan.locals(key) == [(new, False), (entry.destinations[0].server, None)]
    plan.delete_service(key)
    plan.add_service(key)
    assert plan.service(key).destinations == []
    assert len(director.service(key).destinations) == 1


def test_a_plan_is_full_when_the_director_would_be() -> None:
    checks = Checks(lambda svc: None, lambda svc, rs: None, lambda rs: False, 2, 1)
    plan = Plan([], FakeDirector().timeouts(), checks)
    one, two, three = (virtual_service(fwmark=mark) for mark in (1, 2, 3))
    plan.add_service(one)
    plan.add_service(two)
    with pytest.raises(TableFull, match=r"there is room for 2 services; .*--max-services"):
        plan.add_service(three)
    plan.add_destination(one, real_server("10.2.0.1"))
    with pytest.raises(TableFull, match=r"there is room for 1 real servers; .*--max-dests"):
        plan.add_destination(two, real_server("10.2.0.1"))
    plan.delete_service(one)
    plan.add_destination(two, real_server("10.2.0.1"))
    plan.delete_destination(two, real_server("10.2.0.1"))
    plan.add_service(three)
    plan.add_destination(three, real_server("10.2.0.1"))
    plan.flush()
    assert list(plan.services()) == []
