"""What --json prints: as docs/ipvsadm.schema.json describes it, whatever the table holds and whoever filled it."""

import io
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.test_cli import tables
from pylvs.ipvsadm.commands import Shell
from pylvs.model import BYPASS, MASQ, METHOD_NAMES, TUNNEL, Connection, Stats
from support.fake_director import FakeDirector
from support.hosts import TestResolver
from support.schema import faults

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "ipvsadm.schema.json").read_text())
TABLE = """\
-A -t 10.0.0.1:80 -s sh -b sh-port -p 60 -M 255.255.0.0
-a -t 10.0.0.1:80 -r 10.2.0.1:8080 -m -w 3 -x 10 -y 5
-a -t 10.0.0.1:80 -r 10.2.0.2 -i --tun-type gue --tun-port 6080 --tun-remcsum
-A -t [2001:db8::1]:443 -p -M 64
-A -u 10.0.0.1:5060 -o -p --pe sip
-A -f 70000 -6
-a -f 70000 -6 -r 2001:db8::2 -g
"""


def ipvsadm(director: FakeDirector, line: str, stdin: str = "") -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    code = Shell(io.StringIO(stdin, newline="\n"), out, err, lambda: director, TestResolver()).run(line.split())
    return code, out.getvalue(), err.getvalue()


def document(director: FakeDirector, line: str, stdin: str = "") -> Any:
    """The one that a command line prints, which must say nothing else."""
    code, out, err = ipvsadm(director, line, stdin)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert list(faults(found, SCHEMA)) == []
    return found


@pytest.fixture
def director() -> FakeDirector:
    director = FakeDirector()
    assert ipvsadm(director, "-R", TABLE) == (0, "", "")
    return director


def test_services_whole(director: FakeDirector) -> None:
    key, entry = next(iter(director._services.items()))
    dests = [d._replace(active=7, inactive=8, persistent=9, stats=Stats(*range(10))) for d in entry.destinations]
    director._services[key] = entry._replace(destinations=dests, stats=Stats(*range(1, 11)))
    found = document(director, "-L --json")
    assert (found["version"], found["kind"], found["table_size"]) == (1, "services", 4096)
    web = found["services"][0]
    assert web["stats"] == dict(connections=1, packets_in=2, packets_out=3, bytes_in=4, bytes_out=5)
    assert web["rate"] == dict(connections=6, packets_in=7, packets_out=8, bytes_in=9, bytes_out=10)
    assert web["persistence"] == {"timeout": 60, "netmask": "255.255.0.0"}
    assert (web["scheduler"], web["scheduler_flags"], web["one_packet"]) == ("sh", ["sh-port"], False)
    nat, tunnel = web["real_servers"]
    assert (nat["address"], nat["port"], nat["method"], nat["weight"]) == ("10.2.0.1", 8080, "masquerading", 3)
    assert (nat["upper_threshold"], nat["lower_threshold"]) == (10, 5)
    assert (nat["active_connections"], nat["inactive_connections"], nat["persistent_connections"]) == (7, 8, 9)
    assert tunnel["tunnel"] == {"type": "gue", "port": 6080, "checksum": "remote"}
    kept = {(s.get("address"), s.get("fwmark")): s for s in found["services"]}
    assert kept["2001:db8::1", None]["persistence"] == {"timeout": 360, "prefix_length": 64}
    assert kept["10.0.0.1", None]["persistence_engine"] == "sip"
    assert kept[None, 70000]["family"] == "ipv6"


@pytest.mark.parametrize(
    "options", ["-n", "--stats", "--rate --exact", "--thresholds", "--persistent-conn", "--tun-info -n", "--sort"]
)
def test_columns_change_nothing(director: FakeDirector, options: str) -> None:
    plain = ipvsadm(director, "-L --json")
    assert ipvsadm(director, f"-L {options} --json") == plain
    assert ipvsadm(director, f"--json -L {options}") == plain
    assert ipvsadm(director, "--json") == plain


def test_of_one_service(director: FakeDirector) -> None:
    found = document(director, "-L -u 10.0.0.1:5060 --json")
    assert [(s["protocol"], s["port"]) for s in found["services"]] == [("udp", 5060)]
    assert ipvsadm(director, "-L -u 10.0.0.1:5061 --json") == (1, "", "No such service\n")


def test_nosort_is_the_directors_order(director: FakeDirector) -> None:
    def ports(line: str) -> list[int]:
        return [service.get("port", 0) for service in document(director, line)["services"]]

    assert ports("-L --json") == [80, 5060, 443, 0]
    assert ports("-L --json --nosort") == [entry.service.port for entry in director.services()]


def test_the_rest(director: FakeDirector) -> None:
    assert document(director, "-L --timeout --json")["timeouts"] == {"tcp": 900, "tcp_fin": 120, "udp": 300}
    assert document(director, "-L --daemon --json")["daemons"] == []
    assert ipvsadm(director, "--start-daemon master --mcast-interface lo --syncid 3")[0] == 0
    assert document(director, "-L --daemon --json")["daemons"] == [
        {
            "role": "master",
            "interface": "lo",
            "syncid": 3,
            "maxlen": 1472,
            "group": "224.0.0.81",
            "port": 8848,
            "ttl": 1,
        }
    ]


CONNECTION = Connection(2, 6, "10.1.0.1", 1025, "10.0.0.1", 80, "10.2.0.1", 8080, "ESTABLISHED", 899_500)


def test_connections() -> None:
    call = CONNECTION._replace(
        protocol=17, template=True, fwmark=7, pe_name="sip", pe_data=bytes(range(256)), expires=-5, method=BYPASS
    )
    odd = CONNECTION._replace(protocol=50, family=10, caddr="2001:db8::1")
    one, two, three = document(FakeDirector(connections=[CONNECTION, call, odd]), "-L -c --json")["connections"]
    assert (one["client"], one["expires"]) == ({"address": "10.1.0.1", "port": 1025}, 899.5)
    assert {"fwmark", "persistence_engine", "persistence_data"}.isdisjoint(one)
    assert (two["fwmark"], two["template"], two["expires"], two["method"]) == (7, True, 0, "bypass")
    assert two["persistence_data"].encode("latin-1") == bytes(range(256))
    assert (three["protocol"], three["family"]) == ("ip_50", "ipv6")


@pytest.mark.parametrize("number", [0, 1, 3])
def test_each_connection_has_a_line(number: int) -> None:
    director = FakeDirector(connections=[CONNECTION] * number)
    _, out, _ = ipvsadm(director, "-L -c --json")
    assert out.endswith("\n")
    assert len(out.splitlines()) == number + 2
    for line in out.splitlines()[1:-1]:
        assert json.loads(line.rstrip(","))["state"] == "ESTABLISHED"
    assert len(document(director, "-L -c --json")["connections"]) == number


def test_connections_need_no_memory() -> None:
    class Endless(FakeDirector):
        def connections(self) -> Iterator[Connection]:
            return (CONNECTION._replace(cport=port & 0xFFFF) for port in range(20_000))

    class Null(io.StringIO):
        def write(self, text: str) -> int:
            return len(text)

    tracemalloc.start()
    try:
        Shell((), Null(), Null(), Endless).run(["-L", "-c", "--json"])
        assert tracemalloc.get_traced_memory()[1] < 2_000_000  # the whole would be 5 MB
    finally:
        tracemalloc.stop()


def test_only_where_it_makes_sense() -> None:
    for line, message in (
        ("-S --json", "Illegal 'json' option with the 'save' command"),
        ("-R --json", "You need to supply the 'dry-run' option for 'json' with the 'restore' command"),
        ("-A -f 1 --json", "You need to supply the 'dry-run' option for 'json' with the 'add-service' command"),
        ("-L --dry-run", "Illegal 'dry-run' option with the 'list' command"),
        ("-C --atomic", "Illegal 'atomic' option with the 'flush' command"),
        ("--atomic", "Illegal 'atomic' option with the 'list' command"),
        ("-L --json=1", "--json=1: option does not take an argument"),
    ):
        assert ipvsadm(FakeDirector(), line) == (255 if "=" in line else 2, "", message + "\n")


def test_every_method_has_a_word() -> None:
    from pylvs.ipvsadm.documents import METHODS

    assert METHODS.keys() == METHOD_NAMES.keys() == {MASQ, 1, TUNNEL, 3, BYPASS}


@settings(max_examples=60, deadline=None)
@given(tables(), tables(), st.sampled_from(["-L --json", "-L --json --nosort", "-R --dry-run --json"]))
def test_any_table(rules: str, others: str, line: str) -> None:
    director = FakeDirector()
    ipvsadm(director, "-R", rules)
    code, out, _ = ipvsadm(director, line, "-C\n" + others)
    assert code in (0, 255)
    assert list(faults(json.loads(out), SCHEMA)) == []


def test_the_check_finds_faults(director: FakeDirector) -> None:
    good = document(director, "-L --json")
    for path, value in (
        (("version",), 2),
        (("services", 0, "port"), "80"),
        (("services", 0, "port"), 65536),
        (("services", 0, "port"), True),
        (("services", 0, "address"), "vip1.example"),
        (("services", 0, "fwmark"), 1),
        (("services", 0, "news"), 1),
        (("services", 0, "real_servers", 0, "method"), "Masq"),
    ):
        spoilt = json.loads(json.dumps(good))
        place = spoilt
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        assert list(faults(spoilt, SCHEMA)), path
    del good["services"][0]["rate"]
    assert list(faults(good, SCHEMA))
