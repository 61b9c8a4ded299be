"""How long a connection lives in each state: as commands and callers set it, and as packets see it."""

import json

import pytest

from pylvs import Timeouts
from pylvs.cli import main, timeouts
from pylvs.datapath.connections import entries
from pylvs.errors import InvalidValue
from pylvs.protocols.timeouts import DEFAULTS_MS, MOST, PLACES, parse
from pylvs.tuning import TIMEOUT_MAX
from support.harness import Harness
from support.packets import SCTP, UDP
from support.talk import IPV4, Talk

DEFAULTS = {place: milliseconds // 1000 for place, milliseconds in zip(PLACES, DEFAULTS_MS, strict=True)}


def run(capsys: pytest.CaptureFixture[str], words: str = "", code: int = 0) -> str:
    capsys.readouterr()
    try:
        ended = timeouts.main(words.split())
    except SystemExit as end:
        ended = int(end.code or 0)
    assert ended == code
    said = capsys.readouterr()
    return said.err if code else said.out


def timeouts_of(lvs: Harness) -> dict[int, int]:
    """Milliseconds, of one connection of each protocol."""
    return {entry.protocol: entry.timeout for entry in entries(lvs.instance)}


def test_defaults(lvs: Harness) -> None:
    assert lvs.director.state_timeouts() == DEFAULTS
    assert len(DEFAULTS) == 11 + 1 + 14
    assert lvs.director.timeouts() == Timeouts(900, 120, 300)


def test_one_state(lvs: Harness) -> None:
    lvs.director.set_state_timeout("SCTP", "init1", 40)
    assert lvs.director.state_timeouts() == {**DEFAULTS, ("sctp", "INIT1"): 40}


def test_packets_follow(lvs: Harness) -> None:
    """At their next packet: a connection keeps the timeout that it has until then."""
    tcp, udp, sctp = (Talk(lvs, IPV4, protocol).serve() for protocol in (6, UDP, SCTP))
    for talk, opening in ((tcp, "S"), (udp, ""), (sctp, "INIT")):
        talk.asks(opening)
    assert timeouts_of(lvs) == {6: 60_000, UDP: 300_000, SCTP: 4_000}
    changes = {("tcp", "SYN_RECV"): 61, ("udp", "UDP"): 31, ("sctp", "INIT1"): 41}
    lvs.director.set_state_timeouts(changes)
    assert timeouts_of(lvs) == {6: 60_000, UDP: 300_000, SCTP: 4_000}
    tcp.asks("S")
    udp.asks()
    sctp.asks("DATA")
    assert timeouts_of(lvs) == {6: 61_000, UDP: 31_000, SCTP: 41_000}
    lvs.advance(40)
    assert timeouts_of(lvs).keys() == {6, SCTP}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({("tcp", "ESTABLISHED"): 600, ("tcp", "SYN"): 3}, "tcp has no state 'SYN'; it has NONE, ESTABLISHED"),
        ({("tcp", "ESTABLISHED"): 600, ("icmp", "NONE"): 3}, "protocol 'icmp' has no timeouts; use tcp, udp or sctp"),
        ({("tcp", "ESTABLISHED"): 600, ("udp", "UDP"): 0}, "0 s of udp.UDP is out of range; it may be 1 to 2250000"),
        ({("tcp", "ESTABLISHED"): 600, ("udp", "UDP"): MOST + 1}, "2250001 s of udp.UDP is out of range"),
        ({("tcp", "ESTABLISHED"): 600, ("udp", "UDP"): -1}, "-1 s of udp.UDP is out of range"),
    ],
)
def test_what_is_refused_changes_nothing(lvs: Harness, changes: dict[tuple[str, str], int], why: str) -> None:
    with pytest.raises(InvalidValue, match=why.replace(".", r"\.")):
        lvs.director.set_state_timeouts(changes)
    assert lvs.director.state_timeouts() == DEFAULTS


def test_ipvsadm_sets_three_of_them(lvs: Harness) -> None:
    lvs.ipvsadm("--set 600 0 60")
    changed = {("tcp", "ESTABLISHED"): 600, ("udp", "UDP"): 60}
    assert lvs.director.state_timeouts() == {**DEFAULTS, **changed}
    lvs.director.set_state_timeout("tcp", "FIN_WAIT", 30)
    assert lvs.ipvsadm("-L --timeout").split()[-3:] == ["600", "30", "60"]


@pytest.mark.parametrize("seconds", [2_678_400, TIMEOUT_MAX])
def test_the_longest_that_ipvsadm_takes(lvs: Harness, seconds: int) -> None:
    """More than the clock can tell: it is kept and shown, and a connection lives for 26 days."""
    lvs.director.set_timeouts(Timeouts(seconds, seconds, seconds))
    assert lvs.director.timeouts() == Timeouts(seconds, seconds, seconds)
    talk = Talk(lvs, IPV4, UDP).serve()
    talk.asks()
    lvs.advance(MOST - 10)
    assert talk.entry is not None
    lvs.advance(20)
    assert talk.entry is None


def test_the_command(lvs: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys).splitlines()
    assert lines[0].split() == ["state", "seconds", "default"]
    assert [line.split() for line in lines[1:]] == [[".".join(place), str(s)] for place, s in DEFAULTS.items()]
    assert run(capsys, "tcp.ESTABLISHED=600 udp=60 sctp.c-sent=7") == ""
    assert [line.split() for line in run(capsys).splitlines()[1:] if len(line.split()) > 2] == [
        ["tcp.ESTABLISHED", "600", "900"], ["udp.UDP", "60", "300"], ["sctp.C-SENT", "7", "61"],
    ]  # fmt: skip
    shown = json.loads(run(capsys, "--json tcp.ESTABLISHED=default"))
    assert shown["tcp"]["ESTABLISHED"] == 900 and shown["udp"] == {"UDP": 60} and len(shown["sctp"]) == 14


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("tcp.ESTABLISHED", "'tcp.ESTABLISHED' sets no timeout; write tcp.ESTABLISHED=600"),
        ("tcp=600", "'tcp=600' sets no timeout; write tcp.ESTABLISHED=600"),
        ("tcp.ESTABLISHED=10m", "'10m' is no number of seconds"),
        ("tcp.ESTABLISHED=", "'' is no number of seconds"),
        ("tcp.ESTABLISHED=-5", "'-5' is no number of seconds"),
        ("udp=60 udp.udp=70", "udp.UDP is set twice"),
        ("udp=60 tcp.LISTENING=7", "tcp has no state 'LISTENING'; it has NONE"),
        ("udp=60 gre.X=7", "protocol 'gre' has no timeouts"),
        ("udp=60 tcp.CLOSE=0", "the timeout 0 s of tcp.CLOSE is out of range; it may be 1 to 2250000"),
        ("udp=60 tcp.CLOSE=" + "9" * 5000, "is out of range"),
    ],
)
def test_a_wrong_command(lvs: Harness, capsys: pytest.CaptureFixture[str], words: str, why: str) -> None:
    assert why in run(capsys, words, 2)
    assert lvs.director.state_timeouts() == DEFAULTS


def test_it_is_a_command_of_pylvs(
    lvs: Harness, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["pylvs", "timeouts", "udp=9"])
    assert main() == 0
    assert lvs.director.state_timeouts()["udp", "UDP"] == 9
    assert parse(["UDP=default"]) == {("udp", "UDP"): 300}
