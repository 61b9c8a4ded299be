"""Words to requests: what the recordings do not reach, and the small parsers by themselves."""

import pytest

from pylvs.ipvsadm import daemon
from pylvs.ipvsadm.addresses import endpoint
from pylvs.ipvsadm.grammar import COMMANDS, parse
from pylvs.ipvsadm.messages import Exit, Refused
from pylvs.ipvsadm.names import Names
from pylvs.ipvsadm.numbers import atoi, number, signed32, strtol
from pylvs.ipvsadm.options import ALLOWED, CHECK_ORDER, OPTIONS, BadOption, OptionReader
from pylvs.ipvsadm.save import words
from pylvs.model import MASQ, TCP, TUN_GUE, TUN_REMCSUM, TUNNEL, UDP, Timeouts
from support.hosts import TestResolver

NAMES = Names(TestResolver())


def read(*line: str) -> tuple[list[tuple[str, str | None]], list[str]]:
    reader = OptionReader(line)
    return [(given.name, given.argument) for given in reader], reader.arguments


def test_options_bundle_and_take_arguments_in_every_spelling() -> None:
    assert read("-Ln") == ([("list", None), ("numeric", None)], [])
    for line in (["-s", "rr"], ["-srr"], ["-s=rr"], ["--scheduler", "rr"], ["--scheduler=rr"]):
        assert read(*line) == ([("scheduler", "rr")], [])
    assert read("-s==rr") == ([("scheduler", "=rr")], [])
    assert read("--scheduler==rr") == ([("scheduler", "=rr")], [])
    assert read("-s", "-t") == ([("scheduler", "-t")], [])  # what must have an argument takes anything


def test_an_optional_argument_does_not_begin_with_a_dash() -> None:
    assert read("-p", "-o") == ([("persistent", None), ("ops", None)], [])
    assert read("-p", "60") == ([("persistent", "60")], [])
    assert read("-p", "") == ([("persistent", "")], [])
    assert read("-op") == ([("ops", None), ("persistent", None)], [])


def test_words_that_are_no_options_wait_until_the_end() -> None:
    assert read("a", "-n", "", "-", "--", "-n") == ([("numeric", None)], ["a", "", "-", "-n"])


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (["-n", "-q"], "-q: unknown option"),
        (["-nq"], "-nq: unknown option"),
        (["--bogus=1"], "--bogus=1: unknown option"),
        (["-s"], "-s: missing argument"),
        (["--numeric=1"], "--numeric=1: option does not take an argument"),
        (["-n="], "-n=: option does not take an argument"),
    ],
)
def test_bad_options_say_what_is_wrong(line: list[str], text: str) -> None:
    with pytest.raises(BadOption, match=f"^{text}$"):
        list(OptionReader(line))


def test_every_option_is_known_to_every_table() -> None:
    letters = "".join(spelling for spelling, _ in OPTIONS.values())
    assert len(letters) == len(set(letters))
    assert {name for name in COMMANDS} <= set(OPTIONS)
    assert set(ALLOWED) == set(COMMANDS.values()) - {"help", "version"}
    for allowed in ALLOWED.values():
        assert {rule.lstrip("+1") for rule in allowed.split()} <= set(CHECK_ORDER)


def test_a_full_service() -> None:
    line = "-A -u vip1:domain -s mh -p 60 -M 255.255.255.0 --pe sip -o -b mh-port,mh-fallback"
    request = parse(line.split(), NAMES)
    assert (request.command, request.protocol, request.address, request.port) == ("add-service", UDP, "10.0.0.1", 53)
    assert (request.scheduler, request.scheduler_flags) == ("mh", ("mh-fallback", "mh-port"))
    assert (request.persistent, request.netmask, request.engine) == (60, 0xFFFFFF00, "sip")
    assert request.has("ops")


def test_a_full_tunnel() -> None:
    line = "-e -t 10.0.0.1:80 -r [2001:db8::1]:9 -i -w 7 -x 9 -y 3 --tun-type gue --tun-port 5 --tun-remcsum"
    request = parse(line.split(), NAMES)
    assert (request.protocol, request.server_address, request.server_port) == (TCP, "2001:db8::1", 80)
    assert (request.method, request.weight, request.upper, request.lower) == (TUNNEL, 7, 9, 3)
    assert (request.tun_type, request.tun_port, request.tun_flags) == (TUN_GUE, 5, TUN_REMCSUM)


def test_only_nat_keeps_the_real_servers_port() -> None:
    assert parse(["-a", "-t", "10.0.0.1:80", "-r", "10.2.0.1:8080", "-m"], NAMES).server_port == 8080
    assert parse(["-a", "-t", "10.0.0.1:80", "-r", "10.2.0.1:8080"], NAMES).server_port == 80
    assert parse(["-a", "-f", "1", "-r", "10.2.0.1:8080"], NAMES).server_port == 8080
    assert parse(["-a", "-t", "10.0.0.1:80", "-r", "10.2.0.1", "-m"], NAMES).method == MASQ


def test_timeouts_and_daemons() -> None:
    assert parse(["--set", "1", "2", "3"], NAMES).timeouts == Timeouts(1, 2, 3)
    line = (
        "--start-daemon master --mcast-interface eth0 --syncid 9 --sync-maxlen 99 --mcast-group FF02::5 --mcast-ttl 3"
    )
    assert parse(line.split(), NAMES).daemon == daemon.SyncDaemon("master", "eth0", 9, 99, "ff02::5", 0, 3)


def test_the_first_fault_from_the_left_is_named() -> None:
    with pytest.raises(Exit, match="illegal weight"):
        parse(["-a", "-w", "x", "-t", "nonsense"], NAMES)
    with pytest.raises(Exit, match="illegal virtual server"):
        parse(["-a", "-t", "nonsense", "-w", "x"], NAMES)
    with pytest.raises(Refused, match="-q: unknown option"):
        parse(["-a", "-q", "-t", "nonsense"], NAMES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1:80", (2, "10.0.0.1", 80)),
        ("10.0.0.1", (2, "10.0.0.1", None)),
        ("10.1:80", (2, "10.0.0.1", 80)),
        ("0x0a000001:http", (2, "10.0.0.1", 80)),
        ("010.0.0.1:80", (2, "8.0.0.1", 80)),
        ("vip2:https", (2, "10.0.0.2", 443)),
        ("[2001:DB8::1]:80", (10, "2001:db8::1", 80)),
        ("2001:db8::1", (10, "2001:db8::1", None)),
        ("[10.0.0.1]:80", (2, "10.0.0.1", None)),
        ("167772161", None),
        ("", None),
        ("[2001:db8::1]", None),
        ("[2001:db8::1]:", None),
        ("vip6.example.test:80", None),
        ("10.0.0.1:65536", None),
        ("10.0.0.1:domainx", None),
        ("fe80::1%lo", None),
        ("\udcff:80", None),
    ],
)
def test_endpoints(text: str, expected: tuple[int, str, int | None] | None) -> None:
    assert endpoint(text, TCP, NAMES) == expected


def test_numbers_are_read_as_c_reads_them() -> None:
    assert strtol(" \t+12abc") == (12, "abc", True)
    assert strtol("0x10") == (0, "x10", True)
    assert strtol("- 5") == (0, "- 5", False)
    assert number("٣", 0, 9) is None  # a digit, but not to C
    assert number("9" * 10_000, 0, 9) is None
    assert number("0" * 10_000 + "7", 0, 9) == 7
    assert atoi("128.0.0.0") == 128
    assert atoi("4294967297") == 1
    assert atoi("99999999999999999999") == -1
    assert atoi("x") == 0
    assert signed32(0xFFFFFFFF) == -1
    assert signed32(0x80000000) == -(1 << 31)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-A -f 1\n", ["-A", "-f", "1"]),
        ("  ipvsadm\t-A ipvsadm -f 1\r\n", ["-A", "-f", "1"]),
        ("-A -f 1\0 2", ["-A", "-f", "1", "2"]),
        ("\0", [""]),
        ("-A '-f 1' # no quotes, no comments", ["-A", "'-f", "1'", "#", "no", "quotes,", "no", "comments"]),
        ("-A\v-f\f1\u2028\u00a0", ["-A\v-f\f1\u2028\u00a0"]),
        (" \t\r\n", []),
    ],
)
def test_lines_of_a_restore(line: str, expected: list[str]) -> None:
    assert words(line) == expected
