"""The forms of /proc/net/ip_vs and ip_vs_conn, of everything that was ever recorded: what the lines say is read from
the recordings, and written again."""

import io
import re
from collections.abc import Iterator

import pytest

from pylvs import proc
from pylvs.ipvsadm.commands import Shell
from pylvs.model import Connection
from support.fake_director import FakeDirector
from support.hosts import TestResolver
from support.recordings import Case, cases

CASES = cases("conn")
SERVER = re.compile(r"(  -> \S+      \w+ *\b)(\d+ +)(\d+ +)(\d+ +)")
SIZE = re.compile(r"\(size=\d+\)")
PROTOCOLS = {"IP": 0, "TCP": 6, "UDP": 17, "SCTP": 132}


def _file(director: object, name: str) -> str:
    return "".join(f"{line.decode()}\n" for line in proc.lines(director, name))  # type: ignore[arg-type]


def _recorded(case: Case, name: str) -> Iterator[str]:
    return (step["stdout"] for step in case["result"] if step["cmd"] == f"cat /proc/{name}")


def _blocks(text: str) -> set[str]:
    """Services, each with its real servers; counts and weights are of the moment, but not their columns."""
    lines = []
    for line in SIZE.sub("", text).splitlines():
        server = SERVER.fullmatch(line)
        if server:
            widths = [len(column) for column in server.groups()[1:]]
            assert widths == [7, 11, 10], line
        lines.append(server[1] if server else line)
    return set(re.split(r"\n(?! )", "\n".join(lines)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_services(case: Case) -> None:
    director = FakeDirector()
    words = "\n".join([case["restore"], *(rest[0].removeprefix("ipvsadm ") for who, *rest in case["packets"]
                                         if who == "cmd")])  # fmt: skip
    if "-D " in words or "-d " in words:
        pytest.skip("what was deleted is not in the file")
    code = Shell(
        io.StringIO(case["restore"]), io.StringIO(), io.StringIO(), director=lambda: director,
        resolver=TestResolver({}),
    ).run(["-R"])  # fmt: skip
    assert code == 0
    compared = 0
    for recorded in _recorded(case, "net/ip_vs"):
        assert _blocks(_file(director, "net/ip_vs")) == _blocks(recorded)
        compared += 1
    assert compared == 1


def _address(word: str) -> str:
    if ":" in word:
        return word
    return ".".join(str(byte) for byte in bytes.fromhex(word))


def _connection(line: str, sync: bool) -> Connection:
    words = line.split(None, 10)
    protocol, caddr, cport, vaddr, vport, daddr, dport, state = words[:8]
    rest = words[9:] if sync else words[8:]
    return Connection(
        10 if ":" in caddr else 2, PROTOCOLS[protocol], _address(caddr), int(cport, 16), _address(vaddr),
        int(vport, 16), _address(daddr), int(dport, 16), state, int(rest[0]) * 1000 + 999,
        pe_name=rest[1] if len(rest) > 1 else "", pe_data=rest[2].encode() if len(rest) > 1 else b"",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["net/ip_vs_conn", "net/ip_vs_conn_sync"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_connections(case: Case, name: str) -> None:
    (recorded,) = _recorded(case, name)
    sync = name.endswith("sync")
    director = FakeDirector(connections=[_connection(line, sync) for line in recorded.splitlines()[1:]])
    assert _file(director, name) == recorded


def test_ticks_are_the_kernels_that_one_has() -> None:
    director = FakeDirector()
    Shell(io.StringIO(), io.StringIO(), io.StringIO(), director=lambda: director).run(
        ["-A", "-t", "10.0.0.1:80", "-p", "60"]
    )
    for hz, ticks in ((250, b"15000"), (100, b"6000"), (1000, b"60000")):
        assert b"persistent " + ticks in list(proc.lines(director, "net/ip_vs", hz))[-1]  # type: ignore[arg-type]
