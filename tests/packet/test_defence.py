"""Defences against floods (facts 9.4): when each of them is on, and what it drops."""

import mmap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pylvs import sysctl
from pylvs.datapath import memory
from pylvs.datapath.layout import CONN, CONN_IPV4, CONN_REST
from pylvs.datapath.memory import free_pages_at
from pylvs.model import TCP, UDP
from pylvs.selections import Selection
from support.books import books, places
from support.harness import Harness, frame
from support.packets import address, ip, tcp
from support.talk import IPV4, Family, Talk

THRESHOLD = 1024
PLENTY = 1 << 20
NEVER = 1 << 62


def _memory(lvs: Harness, pages: int) -> None:
    """Let so much memory be free."""
    lvs.configure(free_pages=1 + pages)


def _is_on(lvs: Harness, name: str) -> bool:
    member = {"drop_packet": "drop_rate", "secure_tcp": "secure"}.get(name, name)
    return bool(lvs.instance.runtime.get(0, member))


# ---- modes ----


@pytest.mark.parametrize("low", [False, True], ids=["plenty", "low"])
@pytest.mark.parametrize(
    ("mode", "then", "on"),
    [
        (0, (0, 0), (False, False)),
        (1, (1, 2), (False, True)),
        (2, (1, 2), (False, True)),
        (3, (3, 3), (True, True)),
    ],
)
@pytest.mark.parametrize("name", sysctl.DEFENCES)
def test_modes(lvs: Harness, name: str, mode: int, then: tuple[int, int], on: tuple[bool, bool], low: bool) -> None:
    """Decided at once when it is written, and then every second."""
    _memory(lvs, 100 if low else PLENTY)
    lvs.director.set_sysctl(name, mode)
    assert lvs.director.sysctl(name) == str(then[low])
    assert _is_on(lvs, name) is on[low]
    _memory(lvs, PLENTY if low else 100)
    lvs.advance(1)
    assert lvs.director.sysctl(name) == str(then[not low])
    assert _is_on(lvs, name) is on[not low]
    others = set(sysctl.DEFENCES) - {name}
    assert not any(_is_on(lvs, other) for other in others)


def test_automatic_modes_look_at_amemthresh(lvs: Harness) -> None:
    _memory(lvs, THRESHOLD)
    lvs.director.set_sysctl("secure_tcp", 1)
    assert lvs.director.sysctl("secure_tcp") == "1"
    lvs.director.set_sysctl("amemthresh", THRESHOLD + 1)
    lvs.advance(1)
    assert lvs.director.sysctl("secure_tcp") == "2"
    lvs.director.set_sysctl("amemthresh", -5)
    _memory(lvs, 0)
    lvs.advance(1)
    assert lvs.director.sysctl("secure_tcp") == "1", "below nothing there is nothing"


def test_a_table_that_is_nearly_full_counts_as_short_of_memory(lvs: Harness) -> None:
    _memory(lvs, PLENTY)
    talk = Talk(lvs, IPV4, UDP, port=53, rport=53).serve(1, "-g")
    lvs.director.set_sysctl("secure_tcp", 1)
    size, sport = lvs.director.table_size, 1024

    def fill(share: float) -> None:
        nonlocal sport
        while lvs.director.count_connections() < size * share:
            lvs.pour(frame(talk.from_port(port).question()) for port in range(sport, sport + 64))
            sport += 64

    fill(0.9)
    lvs.advance(1)
    assert lvs.director.sysctl("secure_tcp") == "1"
    fill(15.2 / 16)
    lvs.advance(1)
    assert lvs.director.sysctl("secure_tcp") == "2"
    assert lvs.instance.runtime.get(0, "available") < THRESHOLD
    lvs.director.flush_connections(Selection())
    lvs.advance(1)
    assert lvs.director.sysctl("secure_tcp") == "1"


def test_free_memory_is_the_kernels_count_of_it(lvs: Harness) -> None:
    """Where it can be seen: Debian's kernels let it."""
    lvs.configure(free_pages=0)
    lvs.director.set_sysctl("secure_tcp", 1)
    seen = lvs.instance.runtime.get(0, "memory")
    if not free_pages_at():
        assert seen == -1
        pytest.skip("this kernel does not name its count of free pages")
    with open("/proc/meminfo", encoding="ascii") as file:
        free = next(int(line.split()[1]) for line in file if line.startswith("MemFree:"))
    assert 0.8 * free < seen * mmap.PAGESIZE // 1024 < 1.2 * free


@pytest.mark.parametrize("before", [0, 1, 100_000, (1 << 20) - 30, (1 << 20) - 5, 3 << 20])
def test_where_the_kernel_counts_free_memory(tmp_path: Path, before: int) -> None:
    """Its list of symbols is read piece by piece."""
    names = tmp_path / "kallsyms"
    line, other = b"ffffffff82a09540 D vm_zone_stat\n", b"ffffffff82a09000 D xvm_zone_stat\n"
    names.write_bytes((other * (before // len(other) + 1))[: before // len(other) * len(other)] + line + other)
    assert memory._address(str(names)) == 0xFFFFFFFF82A09540
    names.write_bytes(other * 100)
    assert memory._address(str(names)) == 0
    assert memory._address(str(tmp_path / "nothing")) == 0


# ---- drop_packet ----


def _dropped(talk: Talk, count: int) -> list[int]:
    """Which of so many newcomers are dropped."""
    results = [talk.from_port(2000 + number).asks("S") for number in range(count)]
    assert {result.reason for result in results} <= {"forwarded_nat_request", "dropped_by_defence"}
    return [number for number, result in enumerate(results) if result.dropped]


@pytest.mark.parametrize(
    ("rate", "dropped"),
    [(10, [0, 10, 20]), (3, list(range(0, 30, 3))), (1, list(range(30))), (0, []), (-2, list(range(30)))],
)
def test_every_so_manieth_newcomer_is_dropped(lvs: Harness, rate: int, dropped: list[int]) -> None:
    talk = Talk(lvs, IPV4).serve()
    lvs.director.set_sysctl("am_droprate", rate)
    lvs.director.set_sysctl("drop_packet", 3)
    assert _dropped(talk, 30) == dropped
    assert books(lvs.instance)[0] == 30 - len(dropped)


@pytest.mark.parametrize(
    ("free", "rate", "dropped"),
    [(1024, 0, []), (1023, 1024, []), (768, 4, [3, 7, 11]), (512, 2, [1, 3, 5, 7, 9, 11]), (511, 1, list(range(12))),
     (0, 1, list(range(12)))],
)  # fmt: skip
def test_the_rate_follows_the_memory_that_is_left(lvs: Harness, free: int, rate: int, dropped: list[int]) -> None:
    talk = Talk(lvs, IPV4).serve()
    _memory(lvs, free)
    lvs.director.set_sysctl("drop_packet", 1)
    assert lvs.instance.runtime.get(0, "drop_rate") == rate
    # the heartbeat has a second of its own: it would begin the countdown anew in the middle of this
    lvs.instance.runtime.put(0, "defended", NEVER)
    lvs.director.set_sysctl("drop_packet", 0)
    lvs.director.set_sysctl("drop_packet", 1)
    assert _dropped(talk, 12) == dropped


def test_each_second_the_countdown_begins_again_in_automatic_mode_alone(lvs: Harness) -> None:
    talk = Talk(lvs, IPV4).serve()
    _memory(lvs, 768)
    lvs.director.set_sysctl("drop_packet", 1)
    for first in (0, 3, 6):
        assert not any(talk.from_port(3000 + first + number).asks("S").dropped for number in range(3))
        lvs.advance(1)
    lvs.director.set_sysctl("am_droprate", 4)
    lvs.director.set_sysctl("drop_packet", 3)
    fates = []
    for number in range(12):
        fates.append(talk.from_port(4000 + number).asks("S").dropped)
        lvs.advance(1)
    assert [number for number, fate in enumerate(fates) if fate] == [3, 7, 11]


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
def test_connections_that_exist_are_never_dropped(lvs: Harness, family: Family, protocol: int) -> None:
    talk = Talk(lvs, family, protocol).serve().opens()
    lvs.director.set_sysctls({"am_droprate": 1, "drop_packet": 3})
    assert talk.from_port(9).asks("S").reason == "dropped_by_defence"
    for _ in range(20):
        assert talk.asks("A").reason == "forwarded_nat_request"
        assert talk.answers("A").reason == "forwarded_nat_reply"


def test_what_opens_no_connection_is_not_counted(lvs: Harness) -> None:
    """No service, or TCP without SYN: it goes where it always went."""
    talk = Talk(lvs, IPV4).serve()
    lvs.director.set_sysctls({"am_droprate": 2, "drop_packet": 3})
    assert talk.asks("S").dropped
    for _ in range(5):
        assert talk.from_port(7).asks("A").reason == "up_no_connection"
    assert not talk.asks("S").dropped


def test_another_rate_counts_from_the_end_of_the_round(lvs: Harness) -> None:
    """Setting a rate begins no new round in mode 3, not even the rate at which all are dropped."""
    talk = Talk(lvs, IPV4).serve()
    lvs.director.set_sysctls({"am_droprate": 3, "drop_packet": 3})
    assert talk.asks("S").reason == "dropped_by_defence"
    lvs.director.set_sysctl("am_droprate", 1)
    lvs.advance(1)
    said = [talk.from_port(5000 + number).asks("S").dropped for number in range(5)]
    assert said == [False, False, True, True, True]


# ---- drop_entry ----


def _seconds(lvs: Harness, count: int, until: Callable[[], bool] = lambda: False) -> None:
    for _ in range(count):
        if until():
            return
        lvs.advance(1)


def test_half_open_connections_are_dropped_and_no_others(lvs: Harness, family: Family) -> None:
    talk = Talk(lvs, family).serve()
    half = [talk.from_port(5000 + number) for number in range(60)]
    for one in half:
        one.asks("S")
    open_ = [talk.from_port(6000 + number).opens() for number in range(60)]
    for one in open_[30:]:
        one.asks("F")
    lvs.director.set_sysctl("drop_entry", 3)
    _seconds(lvs, 40)
    dropped = lvs.instance.runtime.get(0, "entries_dropped")
    left = lvs.entries()
    assert 0 < dropped == 120 - len(left)
    assert all(one.entry for one in open_)
    assert books(lvs.instance)[0] == len(left)


def test_each_second_a_32nd_of_the_table_is_looked_at(lvs: Harness) -> None:
    """64 groups: two in a second. Of 640 half-open ones about 20 in each go at first, and never much more."""
    talk = Talk(lvs, IPV4).serve(1, "-g")
    lvs.pour(frame(talk.from_port(1024 + number).question("S")) for number in range(640))
    lvs.director.set_sysctl("drop_entry", 3)
    before, most = lvs.director.count_connections(), 0
    for _ in range(30):
        lvs.advance(1)
        now = lvs.director.count_connections()
        most, before = max(most, before - now), now
    # a group has 10 of them on average; the timer may begin one more second by itself
    assert 5 <= most <= 4 * 30
    assert 640 * 0.1 < 640 - before < 640 * 0.9


def test_it_drops_nothing_while_it_is_off(lvs: Harness) -> None:
    talk = Talk(lvs, IPV4).serve()
    for number in range(60):
        talk.from_port(5000 + number).asks("S")
    _memory(lvs, PLENTY)
    lvs.director.set_sysctl("drop_entry", 1)
    _seconds(lvs, 30)
    assert lvs.director.count_connections() == 60
    _memory(lvs, 0)
    lvs.advance(1)
    _seconds(lvs, 5)
    assert lvs.director.sysctl("drop_entry") == "2"
    assert lvs.director.count_connections() < 60


def test_who_has_been_idle_for_a_minute_is_tested(lvs: Harness) -> None:
    """UDP: of those with i packets every i-th that is looked at goes, with none of 9 and more."""
    talk = Talk(lvs, IPV4, UDP, port=53, rport=53).serve(1, "-g")
    for packets in range(1, 11):
        for number in range(30):
            for _ in range(packets):
                assert talk.from_port(1000 * packets + number).asks().forwarded
    lvs.director.set_sysctl("drop_entry", 3)
    _seconds(lvs, 30)
    assert lvs.director.count_connections() == 300, "nobody has been idle for a minute"
    lvs.shift(35)
    _seconds(lvs, 150)
    left = {packets: 0 for packets in range(1, 11)}
    for conn in lvs.connections().values():
        left[conn.packets] += 1
    seen = lvs.instance.runtime.get(0, "todrop")
    for packets in range(1, 9):
        assert 30 - left[packets] == -(-seen[packets] // packets) > 0, f"of those with {packets} packets"
    assert (left[9], left[10]) == (30, 30)
    assert seen[0] == 0


def test_established_ones_are_tested_too(lvs: Harness) -> None:
    talk = Talk(lvs, IPV4).serve()
    few = [talk.from_port(5000 + number).opens() for number in range(30)]
    many = [talk.from_port(6000 + number).opens() for number in range(30)]
    for one in many:
        for _ in range(7):
            one.asks("A")
    lvs.director.set_sysctl("drop_entry", 3)
    lvs.shift(61)
    _seconds(lvs, 150)
    assert sum(one.entry is None for one in few) == -(-lvs.instance.runtime.get(0, "todrop")[2] // 2) > 0
    assert all(one.entry for one in many)


def test_what_controls_others_is_never_dropped(lvs: Harness) -> None:
    talk = Talk(lvs, IPV4).serve(1, "-g")
    lvs.pour(frame(talk.from_port(5000 + number).question("S")) for number in range(40))
    where = places(lvs.instance)
    controls = CONN.place("at")[0] + CONN_IPV4.place("rest")[0] + CONN_REST.place("controls")[0]
    for number in range(20):
        slot = where[address(IPV4.client), 5000 + number]
        lvs.instance.slots.words[(slot * CONN.size + controls) // 4] = 1
    lvs.director.set_sysctl("drop_entry", 3)
    _seconds(lvs, 40)
    left = {sport for _, sport in lvs.entries()}
    assert left.issuperset(range(5000, 5020))
    assert len(left) < 40


# ---- drop_entry and persistence templates ----


def _persistent(talk: Talk, options: str = "-p 1000") -> Talk:
    talk.lvs.ipvsadm(f"-A {talk.key} -s rr {options}")
    talk.add(talk.rs)
    return talk


def _clients(talk: Talk, count: int = 40) -> list[Talk]:
    """The same service, asked by so many clients."""
    base = talk.family.client[:-1]
    return [replace(talk, family=talk.family._replace(client=f"{base}{number}")) for number in range(1, count + 1)]


def _templates(lvs: Harness) -> dict[str, str]:
    """State by client."""
    return {conn.caddr: conn.state for conn in lvs.director.connections() if conn.template}


def test_a_half_open_connection_takes_its_template_along_unless_that_is_assured(lvs: Harness, family: Family) -> None:
    never, once = _clients(_persistent(Talk(lvs, family)))[:20], _clients(Talk(lvs, family))[20:]
    for talk in never:
        talk.asks("S")
    for talk in once:
        talk.opens()
        talk.from_port(2000).asks("S")
    assert set(_templates(lvs).values()) == {"NONE", "ASSURED"} and len(_templates(lvs)) == 40
    lvs.director.set_sysctl("drop_entry", 3)
    _seconds(lvs, 40)
    left, shown = lvs.entries(), _templates(lvs)
    alive = {client for client, sport in left if sport == 1025}
    gone = {talk.family.client for talk in never} - alive
    assert gone and not gone & shown.keys(), "who has no connection any more has no template"
    assert {talk.family.client for talk in once} <= alive & shown.keys()
    assert sum(sport == 2000 for _, sport in left) < 20
    assert lvs.instance.runtime.get(0, "entries_dropped") > 0
    books(lvs.instance)


def test_a_template_that_controls_nothing_stays_if_it_is_assured(lvs: Harness) -> None:
    talks = _clients(_persistent(Talk(lvs, IPV4, UDP, port=53)))
    for talk in talks:
        talk.asks()
    for talk in talks[:20]:
        talk.answers()
    lvs.advance(301)
    assert len(_templates(lvs)) == 40 == lvs.director.count_connections(), "the connections are gone, these are not"
    lvs.director.set_sysctl("drop_entry", 3)
    _seconds(lvs, 40)
    left = _templates(lvs)
    assert sum(state == "ASSURED" for state in left.values()) == 20
    assert 20 <= len(left) < 40
    books(lvs.instance)


def test_templates_of_one_packet_services_are_tested_like_connections(lvs: Harness) -> None:
    """Those that counted 1 to 8 packets and have been idle for a minute; others stay, assured or not."""
    talks = _clients(_persistent(Talk(lvs, IPV4, UDP, port=53), "-p 1000 -o"))
    for talk in talks[:20]:
        talk.asks()
    for talk in talks[20:]:
        for _ in range(9):
            talk.asks()
    assert len(_templates(lvs)) == 40
    lvs.director.set_sysctl("drop_entry", 3)
    _seconds(lvs, 30)
    assert len(_templates(lvs)) == 40, "nobody has been idle for a minute"
    lvs.shift(35)
    _seconds(lvs, 100)
    left = _templates(lvs)
    assert all(talk.family.client in left for talk in talks[20:])
    assert 20 <= len(left) < 40
    books(lvs.instance)


# ---- conn_max ----


def test_no_more_connections_than_conn_max(lvs: Harness, family: Family) -> None:
    talk = Talk(lvs, family).serve()
    lvs.director.set_sysctl("conn_max", 3)
    first = [talk.from_port(5000 + number).opens() for number in range(3)]
    assert talk.from_port(5003).asks("S").reason == "dropped_conn_max"
    assert all(one.asks("A").forwarded for one in first)
    lvs.director.set_sysctl("conn_max", 4)
    assert talk.from_port(5003).asks("S").forwarded
    lvs.director.set_sysctl("conn_max", 0)
    lvs.advance(1000)
    assert not lvs.entries()
    assert talk.asks("S").reason == "dropped_conn_max"
    assert books(lvs.instance) == (0, 0)


def test_no_more_templates_than_conn_max(lvs: Harness, family: Family) -> None:
    """They are connections, too: clients that are refused leave nothing behind."""
    talk = Talk(lvs, family)
    lvs.ipvsadm(f"-A {talk.key} -s rr -p 100")
    talk.add(family.server)
    lvs.director.set_sysctl("conn_max", 2)
    talk.opens()
    for last in range(2, 6):
        client = f"{family.client[:-1]}{last}"
        packet = ip(client, family.vip, TCP, tcp(5000, 80, "S"))
        assert lvs.from_client(packet).reason == "dropped_conn_max"
    assert lvs.director.count_connections() == 2
    books(lvs.instance)


# ---- run_estimation ----


@pytest.mark.parametrize("how", ["run_estimation", "est_cpulist"])
def test_published_counters_stand_still(lvs: Harness, how: str) -> None:
    talk = Talk(lvs, IPV4).serve().opens()
    for _ in range(28):
        talk.asks("A")
    before = lvs.director.sysctl(how)
    lvs.advance(2)
    lvs.director.set_sysctl(how, "0" if how == "run_estimation" else "\n")
    held = lvs.director.totals()
    assert held.conns == 1 and held.inpkts == 30 and held.inpps > 0
    for _ in range(10):
        talk.asks("A")
    lvs.advance(10)
    assert lvs.director.totals() == held
    service = lvs.service("10.99.0.1:80")
    assert service.stats[:5] == service.destinations[0].stats[:5] == held[:5]
    lvs.director.zero()
    assert lvs.director.totals() == type(held)()
    lvs.director.set_sysctl(how, before)
    lvs.advance(2)
    now = lvs.director.totals()
    assert now.inpkts == 10 and now.inpps > 0


def test_zeroing_while_they_stand_still_takes_what_is_published(lvs: Harness) -> None:
    talk = Talk(lvs, IPV4).serve().opens()
    lvs.director.set_sysctl("run_estimation", 0)
    talk.asks("A")
    lvs.director.zero()
    lvs.director.set_sysctl("run_estimation", 1)
    assert lvs.director.totals().inpkts == 1


def test_stopping_shows_the_present_counters(lvs: Harness) -> None:
    """Nothing that was shown goes back, although the estimator may not have been there for two seconds."""
    talk = Talk(lvs, IPV4).serve().opens()
    talk.asks("A")
    before = lvs.director.totals()
    lvs.director.set_sysctl("run_estimation", 0)
    assert lvs.director.totals()[:5] == before[:5]


def test_status_tells_of_defences(lvs: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    from pylvs.cli import status

    def say() -> str:
        assert status.main([]) == 0
        return capsys.readouterr().out

    assert "defences" not in say()
    _memory(lvs, 512)
    lvs.director.set_sysctls({"drop_packet": 1, "drop_entry": 3})
    said = say()
    assert "drop_entry  ON; so far 0 connections dropped" in said
    assert "drop_packet automatic, ON, one of 2 new connections; so far 0 packets dropped" in said
    assert "memory      short (free memory 512 pages; amemthresh 1024 pages)" in said
