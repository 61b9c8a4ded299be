"""The files under /proc/net, beside those that the kernel had in the same situation.

Connections and services are in no order that can be predicted there: lines are compared as sets, services with their
real servers. The recorded system needed up to SLACK seconds between the packets and a file.
"""

import re

import pytest

from golden.test_conn import PLAYED, SLACK, _play
from pylvs import proc
from pylvs.cli import main
from support.harness import Harness
from support.recordings import Case, cases

RATES = re.compile(r"(?<=Bytes/s\n).*", re.DOTALL)
SIZE = re.compile(r"\(size=\d+\)")
ENTRY = re.compile(r"(\S+ +(?:\S+ ){6}.{11} (?:LOCAL  |SYNC   )?)( *\d+)(| \w+ .*)")
(EMPTY,) = (case for case in cases("proc") if "proc_empty" in case)


def _file(lvs: Harness, name: str) -> str:
    return "".join(f"{line.decode()}\n" for line in proc.lines(lvs.director, name))


@pytest.mark.parametrize("step", EMPTY["proc_empty"], ids=lambda step: step["cmd"].split("/")[-1])
def test_of_a_director_without_services(lvs: Harness, step: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    lvs.director.set_ftp_ports(())  # ip_vs_ftp was not loaded
    monkeypatch.setattr(proc, "possible_cpus", lambda: 1)
    monkeypatch.setattr(lvs.director.instance.counters, "_cpus", 1)
    monkeypatch.setattr(lvs.director.instance.counters, "rows", lambda number: [(0, 0, 0, 0, 0)])
    ours = _file(lvs, step["cmd"].removeprefix("cat "))
    assert SIZE.sub("", ours) == SIZE.sub("", step["stdout"])


def test_the_helper(lvs: Harness) -> None:
    (case,) = (case for case in cases("proc") if "app_init_netns" in case)
    (step,) = case["app_init_netns"]
    assert _file(lvs, "net/ip_vs_app") == step["stdout"]


def _blocks(text: str) -> set[str]:
    """Services, each with its real servers."""
    return set(re.split(r"\n(?! )", SIZE.sub("", text)))


def _entries(text: str) -> dict[str, int]:
    """Lines without their seconds, and the seconds."""
    head, *lines = text.splitlines()
    found = {head: 0}
    for line in lines:
        entry = ENTRY.fullmatch(line)
        assert entry and len(entry[2]) == 7, line
        found[entry[1] + entry[3]] = int(entry[2])
    return found


@pytest.mark.parametrize("case", PLAYED, ids=lambda case: case["id"])
def test_after_packets(lvs: Harness, case: Case) -> None:
    lvs.set(**case.get("sysctl", {}))
    lvs.restore(case["restore"])
    _play(lvs, case)
    for step in case["result"]:
        ours = ""
        if step["cmd"].startswith("sleep "):
            lvs.advance(float(step["cmd"].split()[1]))
        if not step["cmd"].startswith("cat "):
            continue
        ours, recorded = _file(lvs, step["cmd"].removeprefix("cat ")), step["stdout"]
        if "ip_vs_stats" in step["cmd"]:
            assert RATES.sub("", ours) == RATES.sub("", recorded)
        elif "ip_vs_conn" in step["cmd"]:
            mine, theirs = _entries(ours), _entries(recorded)
            assert mine.keys() == theirs.keys()
            assert all(theirs[line] - 1 <= left <= theirs[line] + SLACK for line, left in mine.items())
        else:
            assert _blocks(ours) == _blocks(recorded)


def test_the_per_cpu_file_adds_up(lvs: Harness) -> None:
    (case,) = (case for case in PLAYED if case["id"] == "list-tcp-nat")
    lvs.restore(case["restore"])
    _play(lvs, case)
    lines = _file(lvs, "net/ip_vs_stats_percpu").splitlines()
    rows = [[int(word, 16) for word in line.split()[1:]] for line in lines[2:-4]]
    total = [int(word, 16) for word in lines[-4].split()[1:]]
    assert lines[-4].startswith("  ~ ")
    assert [sum(column) for column in zip(*rows, strict=True)] == total == [0xB, 0x19, 0xD, 0x3E8, 0x208]


def test_names(lvs: Harness) -> None:
    recorded = {name.removeprefix("/proc/") for name in EMPTY["proc_files"]}
    assert recorded | {"net/ip_vs_status"} == set(proc.FILES)
    assert _file(lvs, "/proc/net/ip_vs") == _file(lvs, "net/ip_vs") == _file(lvs, "ip_vs")


def test_the_command_writes_the_same(lvs: Harness, capfdbinary: pytest.CaptureFixture[bytes],
                                     monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    lvs.ipvsadm("-A -t 10.99.0.1:80 -s rr", "-a -t 10.99.0.1:80 -r 10.2.0.1:8080 -m")
    monkeypatch.setattr("sys.argv", ["pylvs", "proc", "net/ip_vs"])
    assert main() == 0
    assert capfdbinary.readouterr().out.decode() == _file(lvs, "net/ip_vs")
    monkeypatch.setattr("sys.argv", ["pylvs", "proc"])
    assert main() == 0
    assert capfdbinary.readouterr().out.decode().split() == list(proc.FILES)
    monkeypatch.setattr("sys.argv", ["pylvs", "proc", "net/nothing"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert b"there are net/ip_vs" in capfdbinary.readouterr().err
