"""`pylvs conns`: choosing, counting, listing and ending connections, and what that leaves behind."""

import json
import os
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from pylvs.cli import conns
from pylvs.datapath import _layout
from pylvs.datapath.connections import GROUPINGS, chosen, count, count_by, entries, flush
from pylvs.datapath.layout import CONN
from pylvs.datapath.table import usage
from pylvs.errors import DatapathError
from pylvs.model import Connection, endpoint, protocol_name
from pylvs.selections import Selection, selection
from support.harness import Harness, frame
from support.packets import UDP
from support.talk import IPV4, IPV6, Family, Talk

ALL = Selection()


def _crowd(lvs: Harness) -> list[Connection]:
    """Connections of every kind: two families, two protocols, two methods, several servers, clients' ports, states."""
    for family in (IPV4, IPV6):
        web = Talk(lvs, family).serve(3)
        dns = Talk(lvs, family, UDP, port=53, rport=53).serve(2)
        direct = Talk(lvs, family, port=443, rport=443).serve(2, "-g")
        for sport in range(2000, 2012):
            web.from_port(sport).asks("S")
            dns.from_port(sport).asks()
            direct.from_port(sport).asks("S")
        for sport in range(2003, 2009):
            web.from_port(sport).asks("A")
            direct.from_port(sport).asks("A")
        web.from_port(2005).asks("F")
        direct.from_port(2006).asks("R")
    found = list(lvs.director.connections())
    assert len(found) == 72
    return found


def _books_are_empty(lvs: Harness) -> None:
    """Nothing is left of any connection: not in the counters, not in the table."""
    loads = lvs.instance.dest_loads
    for number in range(lvs.instance.config.get(0, "dests_high")):
        assert (loads.get(number, "active"), loads.get(number, "total")) == (0, 0), f"real server {number}"
    assert lvs.instance.runtime.get(0, "conns") == 0
    assert set(lvs.instance.groups.words) == {0}, "used and spilled"
    assert not any(lvs.instance.tags.memory[:]), "tags"
    kinds = {record[0] & _layout.LIFE_KIND for record in CONN.iterate(lvs.instance.slots.memory[:])}
    assert kinds == {_layout.SLOT_FREE}


# ---- choosing, counting, listing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({}, lambda c: True),
        ({"service": "10.99.0.1:80"}, lambda c: (c.vaddr, c.vport) == ("10.99.0.1", 80)),
        ({"service": "tcp/10.99.0.1:80"}, lambda c: (c.vaddr, c.vport) == ("10.99.0.1", 80)),
        ({"service": "udp/10.99.0.1:80"}, lambda c: False),
        ({"service": "udp/[fd00:99::1]:53"}, lambda c: (c.vaddr, c.vport) == ("fd00:99::1", 53)),
        ({"service": "10.99.0.1:0"}, lambda c: c.vaddr == "10.99.0.1"),
        ({"server": "10.2.0.2"}, lambda c: c.daddr == "10.2.0.2"),
        ({"server": "10.2.0.2:8080"}, lambda c: (c.daddr, c.dport) == ("10.2.0.2", 8080)),
        ({"server": "[fd00:2::1]:53"}, lambda c: (c.daddr, c.dport) == ("fd00:2::1", 53)),
        ({"server": "10.9.9.9"}, lambda c: False),
        ({"client": "10.1.0.1"}, lambda c: c.caddr == "10.1.0.1"),
        ({"client": "10.1.0.1:2004"}, lambda c: (c.caddr, c.cport) == ("10.1.0.1", 2004)),
        ({"client": "fd00:1::/32"}, lambda c: c.caddr == "fd00:1::1"),
        ({"client": "10.0.0.0/8"}, lambda c: c.caddr == "10.1.0.1"),
        ({"client": "10.0.0.0/16"}, lambda c: False),
        ({"client": "::/0"}, lambda c: ":" in c.caddr),
        ({"states": "SYN_RECV"}, lambda c: c.state == "SYN_RECV"),
        ({"states": "established,CLOSE,udp"}, lambda c: c.state in ("ESTABLISHED", "CLOSE", "UDP")),
        ({"states": "NONE"}, lambda c: False),
        (
            {"service": "10.99.0.1:443", "server": "10.2.0.1", "client": "10.1.0.0/24", "states": "ESTABLISHED"},
            lambda c: (c.vaddr, c.vport, c.daddr, c.state) == ("10.99.0.1", 443, "10.2.0.1", "ESTABLISHED"),
        ),
    ],
)
def test_choosing(lvs: Harness, given: dict[str, str], meant: Callable[[Connection], bool]) -> None:
    """What is chosen by raw numbers is what one would choose by the readable ones."""
    wanted = [c for c in _crowd(lvs) if meant(c)]
    which = selection(**given)
    names = [(c.family, c.protocol, c.caddr, c.cport, c.vport) for c in lvs.director.connections(which)]
    assert sorted(names) == sorted((c.family, c.protocol, c.caddr, c.cport, c.vport) for c in wanted)
    assert lvs.director.count_connections(which) == len(wanted)


def test_counting_by(lvs: Harness) -> None:
    crowd = _crowd(lvs)
    names: dict[str, Callable[[Connection], str]] = {
        "service": lambda c: f"{protocol_name(c.protocol).lower()}/{endpoint(c.vaddr, c.vport)}",
        "rip": lambda c: endpoint(c.daddr, c.dport),
        "state": lambda c: c.state,
        "client": lambda c: c.caddr,
    }
    for by in GROUPINGS:
        counts = lvs.director.count_connections_by(by)
        assert counts == Counter(map(names[by], crowd))
        assert list(counts.values()) == sorted(counts.values(), reverse=True)
    chosen_only = lvs.director.count_connections_by("state", selection(service="udp/10.99.0.1:53"))
    assert chosen_only == {"UDP": 12}


def test_what_is_past_is_not_counted(lvs: Harness, family: Family) -> None:
    talk = Talk(lvs, family).serve().opens()
    talk.from_port(2000).asks("S")
    lvs.shift(61)
    assert count(lvs.instance) == 1
    assert count_by(lvs.instance, "state") == {"ESTABLISHED": 1}
    lvs.shift(900)
    assert count(lvs.instance) == 0 and list(chosen(lvs.instance)) == []


def test_a_slot_that_changes_while_it_is_read_is_not_shown(lvs: Harness) -> None:
    """Its life word was another one before: what was read may be of two connections."""
    talk = Talk(lvs, IPV4).serve()
    for sport in (2000, 2001):
        talk.from_port(sport).asks("S")
    number = next(entry.number for entry in entries(lvs.instance) if entry.cport == 2000)
    slots, word = lvs.instance.slots, number * CONN.size // 4
    memory = slots.memory

    class Moving:
        """Another connection takes the slot as it is read."""

        def __getitem__(self, piece: slice) -> bytes:
            records = memory[piece]
            slots.words[word] += 1 << _layout.LIFE_TURN_SHIFT
            return records

    slots.memory = Moving()  # type: ignore[assignment]
    try:
        shown = [entry.cport for entry in entries(lvs.instance)]
    finally:
        slots.memory = memory
        slots.words[word] -= 1 << _layout.LIFE_TURN_SHIFT
    assert shown == [2001]


# ---- ending ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["-m", "-g"])
def test_ended_connections_leave_nothing_behind(lvs: Harness, family: Family, protocol: int, method: str) -> None:
    talk = Talk(lvs, family, protocol, rport=8080 if method == "-m" else 80).serve(3, method)
    for sport in range(2000, 2300):
        # a packet mark needs a slot more under IPv6
        lvs.from_client(talk.from_port(sport).question("S"), mark=sport % 2)
    assert sum(map(sum, lvs.loads().values())) == 300
    assert lvs.director.flush_connections(ALL) == 300
    _books_are_empty(lvs)
    assert lvs.director.flush_connections(ALL) == 0
    assert talk.from_port(2000).asks("S").forwarded, "and the next one finds room"
    assert lvs.director.totals().conns == 301


def test_only_the_chosen_end(lvs: Harness) -> None:
    before = {(c.family, c.protocol, c.cport, c.vport): c for c in _crowd(lvs)}
    which = selection(server="10.2.0.1", states="ESTABLISHED,UDP")
    doomed = {(c.family, c.protocol, c.cport, c.vport) for c in lvs.director.connections(which)}
    assert 0 < len(doomed) < len(before)
    assert lvs.director.flush_connections(which) == len(doomed)
    after = {(c.family, c.protocol, c.cport, c.vport) for c in lvs.director.connections()}
    assert after == before.keys() - doomed
    assert lvs.instance.runtime.get(0, "conns") == len(after)
    left = list(lvs.director.connections())
    total = Counter(endpoint(c.daddr, c.dport) for c in left)
    active = Counter(endpoint(c.daddr, c.dport) for c in left if c.state in ("ESTABLISHED", "SYN_RECV"))
    assert lvs.loads() == {
        name: (active[name], total[name] - active[name])
        for name in (str(dest.server) for service in lvs.director.services() for dest in service.destinations)
    }


def test_both_sides_of_a_nat_connection_are_gone(lvs: Harness, family: Family) -> None:
    talk = Talk(lvs, family).serve().opens()
    assert lvs.director.flush_connections(ALL) == 1
    assert talk.asks("A").reason == "up_no_connection"
    assert talk.answers("A").handed_up


def test_an_older_connection_gets_its_replies_again(lvs: Harness, family: Family) -> None:
    """Two services, one real server: the replies of both look alike, and are the newer's while it lives."""
    older, newer = Talk(lvs, family).serve(), Talk(lvs, family, port=443).serve()
    older.asks("S")
    newer.asks("S")
    assert newer.answers("SA").packet.source == (family.vip, 443)
    vip = f"[{family.vip}]:443" if family is IPV6 else f"{family.vip}:443"
    assert lvs.director.flush_connections(selection(service=vip)) == 1
    assert older.answers("SA").packet.source == (family.vip, 80)


def test_who_has_the_slot_now_is_left_alone(lvs: Harness) -> None:
    talk = Talk(lvs, IPV4).serve()
    lvs.pour(frame(talk.from_port(sport).question("S")) for sport in range(2000, 2100))
    old = list(chosen(lvs.instance))
    lvs.advance(61)
    lvs.shift(1)  # slots rest a little
    lvs.pour(frame(talk.from_port(sport).question("S")) for sport in range(2000, 2100))
    assert {number for number, _ in old} == {number for number, _ in chosen(lvs.instance)}, "the same slots"
    assert flush(lvs.instance, old) == 0
    assert count(lvs.instance) == 100 == lvs.instance.runtime.get(0, "conns")


def test_nonsense_ends_nothing(lvs: Harness) -> None:
    """Numbers beyond the table, lives that no connection has, the other side's slot."""
    talk = Talk(lvs, IPV4).serve()
    talk.asks("S")
    (number, life), lives = next(chosen(lvs.instance)), lvs.instance.slots.words[:: CONN.size // 4].tolist()
    back = next((n, lf) for n, lf in enumerate(lives) if lf & _layout.LIFE_KIND == _layout.SLOT_BACK)
    other = (life & ~_layout.LIFE_KIND) | _layout.SLOT_DEAD
    assert flush(lvs.instance, [(0, 0), (1 << 31, life), (0xFFFFFFFF, life), (number, 0), (number, other), back]) == 0
    assert count(lvs.instance) == 1
    assert flush(lvs.instance, [(number, life), (number, life)]) == 1
    _books_are_empty(lvs)


def test_ending_while_packets_flow(lvs: Harness, family: Family) -> None:
    """Whoever comes and goes meanwhile: in the end the books are right."""
    talks = [Talk(lvs, family).serve(2), Talk(lvs, family, port=443, rport=443).serve(2, "-g")]
    packets = [
        frame(talk.from_port(sport).question(flags)) for sport in range(2000, 2200) for talk in talks for flags in "SAF"
    ]
    rounds, enough = 0, threading.Event()

    def traffic() -> None:
        nonlocal rounds
        while not enough.is_set():
            lvs.pour(packets)
            rounds += 1

    sender = threading.Thread(target=traffic)  # in our network namespace: it is the creator's
    sender.start()
    ended = 0
    try:
        while sender.is_alive() and (rounds < 6 or ended < 500):
            ended += lvs.director.flush_connections(ALL)
    finally:
        enough.set()
        sender.join()
    left = count(lvs.instance)
    assert left == lvs.instance.runtime.get(0, "conns") == sum(map(sum, lvs.loads().values()))
    assert lvs.director.flush_connections(ALL) == left
    _books_are_empty(lvs)


def test_programs_of_an_older_version(lvs: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lvs.instance.path
    monkeypatch.setattr(type(lvs.instance), "path", property(lambda _: f"{path}/nowhere"))
    with pytest.raises(DatapathError, match=r"older version.*pylvs load"):
        flush(lvs.instance, [])


# ---- the command ----------------------------------------------------------------------------------------------------


def _run(capsys: pytest.CaptureFixture[str], words: str) -> list[str]:
    capsys.readouterr()
    assert conns.main(words.split()) == 0
    output = capsys.readouterr()
    assert not output.err
    return output.out.splitlines()


def test_the_listing(lvs: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    for family in (IPV4, IPV6):
        Talk(lvs, family).serve().opens()
        Talk(lvs, family, UDP, port=53, rport=53).serve(1, "-g").asks()
    title, *lines = _run(capsys, "")
    assert title.split() == ["pro", "expire", "state", "source", "virtual", "destination", "forward", "packets"]
    assert sorted(line.split()[:1] + line.split()[2:] for line in lines) == [
        ["TCP", "ESTABLISHED", "10.1.0.1:1025", "10.99.0.1:80", "10.2.0.1:8080", "Masq", "2"],
        ["TCP", "ESTABLISHED", "[fd00:1::1]:1025", "[fd00:99::1]:80", "[fd00:2::1]:8080", "Masq", "2"],
        ["UDP", "UDP", "10.1.0.1:1025", "10.99.0.1:53", "10.2.0.1:53", "Route", "1"],
        ["UDP", "UDP", "[fd00:1::1]:1025", "[fd00:99::1]:53", "[fd00:2::1]:53", "Route", "1"],
    ]
    assert {line.split()[1] for line in lines} <= {"15:00", "14:59", "05:00", "04:59"}
    theirs = lvs.ipvsadm("-Lcn").splitlines()[2:]
    assert sorted(line.split()[2:6] for line in theirs) == sorted(line.split()[2:6] for line in lines)


def test_lines_for_programs(lvs: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    talk = Talk(lvs, IPV6).serve()
    lvs.from_client(talk.question("S"), mark=7)
    (line,) = _run(capsys, "--json")
    said: dict[str, Any] = json.loads(line)
    assert 59_000 < said.pop("expires") <= 60_000
    assert said == {
        "protocol": "tcp", "state": "SYN_RECV", "client": "fd00:1::1", "client_port": 1025, "virtual": "fd00:99::1",
        "virtual_port": 80, "rip": "fd00:2::1", "rip_port": 8080, "forward": "Masq", "active": True, "packets": 1,
        "timeout": 60_000, "fwmark": 7, "template": False, "call_id": "",
    }  # fmt: skip
    assert [json.loads(line) for line in _run(capsys, "--by rip --json")] == [
        {"rip": "[fd00:2::1]:8080", "connections": 1}
    ]
    assert json.loads(*_run(capsys, "--count --json")) == {"connections": 1}


def test_counts(lvs: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    _crowd(lvs)
    assert _run(capsys, "--count") == ["72"]
    assert _run(capsys, "--count --service udp/10.99.0.1:53") == ["12"]
    assert _run(capsys, "--count --state TIME_WAIT") == ["0"]
    assert [line.split() for line in _run(capsys, "--by rip --service 10.99.0.1:80")] == [
        ["4", "10.2.0.1:8080"], ["4", "10.2.0.2:8080"], ["4", "10.2.0.3:8080"],
    ]  # fmt: skip
    assert _run(capsys, "--count --by client --client ::/0")[0].split() == ["36", "fd00:1::1"]


def test_flush(lvs: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    _crowd(lvs)
    dry = [line.split() for line in _run(capsys, "flush --dry-run --client 10.1.0.0/16 --state UDP,SYN_RECV")]
    assert dry == [["24", "would", "be", "ended"], ["12", "udp/10.99.0.1:53"], ["6", "tcp/10.99.0.1:443"],
                   ["6", "tcp/10.99.0.1:80"]]  # fmt: skip
    assert _run(capsys, "flush --dry-run --all")[0].split()[0] == "72"
    assert count(lvs.instance) == 72, "it was a dry run"
    assert _run(capsys, "flush --client 10.1.0.0/16 --state UDP,SYN_RECV") == ["24 ended"]
    assert _run(capsys, "flush --all") == ["48 ended"]
    _books_are_empty(lvs)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("flush", "which ones? give --service, --rip, --client or --state; or --all"),
        ("flush --dry-run", "which ones?"),
        ("flush --all --rip 10.2.0.1", "--all means all, and cannot stand with"),
        ("flush --a", "there is no option '--a'"),
        ("--rip 10.2.0.1 flush", "'flush' is one word too many"),
        ("flush --count --all", "there is no option '--count'"),
        ("--all", "there is no option '--all'"),
        ("flush --service 10.0.0.1", "service '10.0.0.1' has no port; write 10.0.0.1:80"),
        ("--client 10.0.0.1/8", "write 10.0.0.0/8 for the network"),
        ("--state OPEN", "there is no state 'OPEN'; there are NONE, ESTABLISHED"),
        ("--by port", "invalid choice: 'port'"),
    ],
)
def test_wrong_command_lines(lvs: Harness, capsys: pytest.CaptureFixture[str], words: str, message: str) -> None:
    Talk(lvs, IPV4).serve().asks("S")
    with pytest.raises(SystemExit) as exit:
        conns.main(words.split())
    assert exit.value.code == 2
    output = capsys.readouterr()
    assert message in output.err and not output.out
    assert count(lvs.instance) == 1


def test_without_a_director(lvs: Harness, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYLVS_BPFFS", os.path.dirname(__file__))
    monkeypatch.setattr("pylvs.datapath.instance.find", lambda: None)
    for words, said in (("--count", ["0"]), ("", 1), ("--json", []), ("flush --all", ["0 ended"])):
        assert conns.main(words.split()) == 0
        output = capsys.readouterr()
        assert output.err == "pylvs: no director is loaded in this network namespace\n"
        lines = output.out.splitlines()
        assert len(lines) == said if isinstance(said, int) else lines == said


def test_a_table_of_more_than_one_piece(lvs: Harness) -> None:
    """What is looked through at once is 4096 slots."""
    lvs.reload(14)
    try:
        for family in (IPV4, IPV6):
            talk = Talk(lvs, family).serve(3, "-g")
            lvs.pour(frame(talk.from_port(sport).question("S")) for sport in range(2000, 4500))
        assert count(lvs.instance) == 5000 == usage(lvs.instance).used
        assert {(entry.family, entry.cport) for entry in entries(lvs.instance)} == {
            (family, sport) for family in (2, 10) for sport in range(2000, 4500)
        }
        assert lvs.director.flush_connections(selection(client="::/0")) == 2500
        assert lvs.director.flush_connections(ALL) == 2500
        _books_are_empty(lvs)
    finally:
        lvs.reload()
