"""The command line against anything: it answers with a known exit code, never with a traceback.

Words are drawn from ipvsadm's own vocabulary, its edges and plain noise, so that most command lines get far. Every
table that can be made this way comes back from its own `-S` through `-R`.
"""

import io
from ipaddress import IPv6Address
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pylvs.ipvsadm.commands import Shell
from pylvs.ipvsadm.options import OPTIONS
from pylvs.ipvsadm.save import words as words_of
from pylvs.model import Service
from support.fake_director import SCHEDULERS, FakeDirector
from support.hosts import TestResolver

CODES = {0, 1, 2, 255}

quick = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])

IPV4 = ["10.0.0.1", "10.0.0.2", "10.1", "255.255.255.255", "0", "224.0.0.1", "vip1", "rs2"]
IPV6 = ["[2001:db8::1]", "[::]", "2001:db8::2", "[10.0.0.1]", "[fe80::1]"]
WORDS = ["sh-port,mh-port", "flag-1", "flag-3", "gue", "gre", "ipip", "sip", "lo", "master", "backup"]
MASKS = ["255.255.0.0", "24", "ff02::1", "224.0.0.5"]
COMMANDS = [f"-{letter}" for letter in "AEDCaedLlZSRh"] + ["--set", "--start-daemon", "--stop-daemon", "--version"]

addresses = st.sampled_from(IPV4 + IPV6)
ports = st.sampled_from(["", ":", ":80", ":0", ":http", ":domain", ":65535", ":65536", ":-1", ": 7", ":x"])
endpoints = st.builds(str.__add__, addresses, ports)
numbers = st.one_of(
    st.integers(-2, 70000).map(str),
    st.sampled_from(["2147483647", "2147483648", "4294967295", "4294967296", "9" * 5000, "0x1", " 5", "5 ", "", "+3"]),
)
values = st.one_of(
    endpoints,
    numbers,
    st.sampled_from(SCHEDULERS),
    st.sampled_from(WORDS + MASKS),
    st.text(max_size=6),
)
spellings = st.sampled_from(
    [f"--{name}" for name in OPTIONS] + [f"-{letter}" for letters, _ in OPTIONS.values() for letter in letters]
)
options = st.one_of(
    spellings,
    st.tuples(spellings, values).map("=".join),
    st.tuples(spellings, values).map("".join),
    st.text("ACDELRSZacdeghiflmnoprstuwxyX6=-", max_size=5).map("-".__add__),
    st.sampled_from(["-", "--", ""]),
)
commands = st.sampled_from(COMMANDS)
services = st.tuples(st.sampled_from(["-t", "-u", "--sctp-service", "-f"]), st.one_of(endpoints, numbers))
wild = st.lists(st.one_of(options, values), max_size=8)
tame = st.tuples(commands, services, st.lists(st.one_of(options, values), max_size=6)).map(
    lambda parts: [parts[0], *parts[1], *parts[2]]
)
lines = st.one_of(wild, tame, st.builds(lambda command, rest: [command, *rest], commands, wild))


def run(director: Any, line: list[str], stdin: str = "") -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    code = Shell(io.StringIO(stdin, newline="\n"), out, err, lambda: director, TestResolver()).run(line)
    return code, out.getvalue(), err.getvalue()


def check(code: int, out: str, err: str) -> None:
    assert code in CODES
    assert (code == 0) <= ("ipvsadm: " not in err)
    for text in (out, err):
        assert text == "" or text.endswith("\n")
    if code in (2, 255):
        assert err


@quick
@given(lines, st.sampled_from(["", "-A -t 10.0.0.1:80 -p\n-Ln\n", "-h", "\0\n"]))
@example(["-A", "-t", "10.0.0.1:80", "-s", "sh", "-b", ","], "")  # the original dies of this one
def test_any_command_line_has_an_answer(line: list[str], stdin: str) -> None:
    director = FakeDirector()
    run(director, ["-R"], "-A -t 10.0.0.1:80\n-a -t 10.0.0.1:80 -r 10.2.0.1 -m\n-A -f 1 -6\n")
    line = [word.replace("\0", "") for word in line]  # an argument of a process has none
    check(*run(director, line, stdin))


@quick
@given(st.one_of(st.text(max_size=200), st.lists(lines.map(" ".join), max_size=12).map("\n".join)))
def test_any_restore_has_an_answer(text: str) -> None:
    code, _, _ = run(FakeDirector(), ["-R"], text)
    assert code in CODES


@quick
@given(st.text(max_size=50))
def test_words_of_a_restore_can_be_arguments(line: str) -> None:
    for word in words_of(line):
        assert not set(word) & set(" \t\r\n\0")


# Tables that the grammar can make.

marks = st.integers(1, 0x7FFFFFFF)  # the original cannot restore a greater one either
ipv4 = st.one_of(
    st.integers(0x01000000, 0x7EFFFFFF).map(lambda n: ".".join(str(b) for b in n.to_bytes(4, "big"))),
    st.integers(0x80000000, 0xDFFFFFFF).map(lambda n: ".".join(str(b) for b in n.to_bytes(4, "big"))),
    st.sampled_from(["10.0.0.1", "10.0.0.2", "192.168.10.1", "192.168.10.2", "127.0.0.1"]),
)
ipv6 = st.one_of(
    st.integers(1, 0xFFFF).map(lambda n: f"2001:db8::{n:x}"),
    st.integers(0x2000 << 112, (0xFE80 << 112) - 1).map(lambda n: str(IPv6Address(n))),
    st.sampled_from(["2001:db8::80", "2001:db8::a1", "::1"]),
)
weights = st.one_of(st.integers(0, 9), st.integers(0, 2**31 - 1), st.sampled_from([65535, 2**31 - 1]))
seconds = st.one_of(st.integers(1, 2678400), st.sampled_from([1, 360, 2147483, 2147484, 2678400]))


@st.composite
def service_lines(draw: st.DrawFn) -> tuple[str, str, str]:
    """(its option, its family, its parameters)."""
    family = draw(st.sampled_from(["4", "6"]))
    kind = draw(st.sampled_from(["-t", "-u", "--sctp-service", "-f"]))
    if kind == "-f":
        name = f"-f {draw(marks)}" + (" -6" if family == "6" else "")
    else:
        address = draw(ipv4) if family == "4" else f"[{draw(ipv6)}]"
        name = f"{kind} {address}:{draw(st.integers(1, 65535))}"
    scheduler = draw(st.sampled_from(SCHEDULERS))
    text = f" -s {scheduler}"
    if draw(st.booleans()):
        text += f" -p {draw(seconds)}"
        if draw(st.booleans()):
            mask = st.one_of(ipv4, st.sampled_from(["255.255.255.255", "255.255.0.0", "0.0.0.0", "0.0.0.1"]))
            text += f" -M {draw(mask) if family == '4' else draw(st.integers(1, 128))}"
    text += draw(st.sampled_from(["", " --pe sip"]))
    text += draw(st.sampled_from(["", " -o"])) if kind in ("-u", "-f") else ""
    # A scheduler with names for its flags saves no others.
    named = {"sh": ["sh-port", "sh-fallback", "sh-port,sh-fallback"], "mh": ["mh-port", "mh-fallback", "flag-1,flag-2"]}
    flags = named.get(scheduler, ["flag-1", "flag-2", "flag-3", "flag-1,flag-3", "flag-3,flag-2,flag-1"])
    return name, family, text + draw(st.sampled_from(["", *(f" -b {flag}" for flag in flags)]))


@st.composite
def server_parameters(draw: st.DrawFn, family: str) -> str:
    method = draw(st.sampled_from("gmi"))
    if method == "i":
        family = draw(st.sampled_from("46"))
    address = draw(ipv4) if family == "4" else f"[{draw(ipv6)}]"
    text = f"-r {address}:{draw(st.integers(0, 65535))} -{method} -w {draw(weights)}"
    text += draw(st.sampled_from(["", "", f" -x {draw(weights)}", " -x 100 -y 60", " -x 2147483647 -y 2147483647"]))
    if method == "i":
        checksum = draw(st.sampled_from(["", " --tun-csum", " --tun-nocsum"]))
        gue = f" --tun-type gue --tun-port {draw(st.integers(1, 65535))}"
        remote = draw(st.sampled_from([checksum, " --tun-remcsum"]))
        text += draw(st.sampled_from(["", " --tun-type ipip", f" --tun-type gre{checksum}", gue + remote]))
    return text


@st.composite
def tables(draw: st.DrawFn) -> str:
    rules = []
    for name, family, parameters in draw(st.lists(service_lines(), max_size=4, unique_by=lambda line: line[0])):
        rules.append(f"-A {name}{parameters}")
        rules.extend(f"-a {name} {text}" for text in draw(st.lists(server_parameters(family), max_size=4)))
    return "".join(rule + "\n" for rule in rules)


def table(director: FakeDirector) -> dict[Any, tuple[Any, set[Any]]]:
    """What of a table is saved: thresholds are not."""

    def shown(entry: Service) -> tuple[Any, set[Any]]:
        return entry.service, {dest.server._replace(upper=0, lower=0) for dest in entry.destinations}

    return {entry.service.key: shown(entry) for entry in director.services()}


@quick
@given(tables())
def test_what_is_saved_is_restored(rules: str) -> None:
    director = FakeDirector()
    code, _, err = run(director, ["-R"], rules)
    assert code == 0 or err == "Destination already exists\n" * err.count("\n")
    assert len(list(director.services())) == rules.count("-A ")
    saved = run(director, ["-S", "-n"])[1]
    again = FakeDirector()
    assert run(again, ["-R"], saved) == (0, "", "")
    assert table(again) == table(director)
    assert len(run(again, ["-S", "-n"])[1]) == len(saved)
