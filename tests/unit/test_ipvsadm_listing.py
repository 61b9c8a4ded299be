"""Listings as text: numbers, order, names, connections."""

import random
import threading
import time
from collections.abc import Iterator
from itertools import permutations

import pytest

from pylvs.ipvsadm import render
from pylvs.ipvsadm.names import Names, Resolver
from pylvs.ipvsadm.order import sorted_destinations, sorted_services
from pylvs.model import TCP, UDP, Connection, Destination, Service, Stats, real_server, virtual_service
from support.hosts import TestResolver

NUMBERS = Names(TestResolver(), numeric=True)


# What the original made of the counters that a replaced kernel answer gave it.
@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (0, "        0"),
        (99_999_999, " 99999999"),
        (100_000_000, "  100000K"),
        (999_999_999, "  999999K"),
        (1_000_000_000, "    1000M"),
        (99_999_999_999, "   99999M"),
        (100_000_000_000, "     100G"),
        (99_999_999_999_999, "   99999G"),
        (100_000_000_000_000, "     100T"),
        (18_446_744_073_709_551_615, "18446744T"),
    ],
)
def test_counters_are_rounded_into_nine_columns(value: int, rounded: str) -> None:
    assert render.large_number(value) == rounded


def test_exact_counters_are_not_rounded() -> None:
    entry = Service(virtual_service("10.0.0.1", 80), (), Stats(100_000_000, 1, 2, 3, 18_446_744_073_709_551_615))
    *_, line = render.services([entry], render.STATS, True, True, NUMBERS)
    assert line == "TCP  10.0.0.1:80                  100000000        1        2        3 18446744073709551615"


def test_rates_are_the_other_half_of_the_counters() -> None:
    entry = Service(virtual_service("10.0.0.1", 80), (), Stats(1, 2, 3, 4, 5, 6, 7, 8, 9, 10))
    *_, line = render.services([entry], render.RATE, False, True, NUMBERS)
    assert line.split() == ["TCP", "10.0.0.1:80", "6", "7", "8", "9", "10"]


def order(addresses: list[str]) -> list[str]:
    entries = sorted_destinations([Destination(real_server(address, 80)) for address in addresses])
    return [entry.server.address for entry in entries]


def test_real_servers_by_address_and_port() -> None:
    nearby = ["10.0.0.1", "10.0.0.2", "10.0.0.10", "11.0.0.0", "127.255.255.255"]
    for shuffled in permutations(nearby):
        assert order(list(shuffled)) == nearby


def test_far_apart_addresses_go_round_the_circle_as_in_the_original() -> None:
    newest_first = [
        "127.0.0.9",
        "128.0.0.1",
        "223.0.0.1",
        "1.1.1.1",
        "200.0.0.1",
        "150.0.0.1",
        "100.0.0.1",
        "207.1.1.1",
        "10.0.0.1",
    ]
    listed = [
        "100.0.0.1",
        "127.0.0.9",
        "128.0.0.1",
        "150.0.0.1",
        "200.0.0.1",
        "207.1.1.1",
        "223.0.0.1",
        "1.1.1.1",
        "10.0.0.1",
    ]
    assert order(newest_first) == listed


def test_services_by_mark_family_protocol_address_port() -> None:
    expected = [
        virtual_service("10.0.0.1", 80),
        virtual_service("10.0.0.1", 443),
        virtual_service("10.0.0.2", 80),
        virtual_service("10.0.0.1", 53, protocol="udp"),
        virtual_service("10.0.0.1", 9, protocol="sctp"),
        virtual_service("::1", 80),
        virtual_service(fwmark=10),
        virtual_service(fwmark=10, family=10),
        virtual_service(fwmark=11),
    ]
    shuffled = [Service(svc) for svc in expected]
    random.Random(1).shuffle(shuffled)
    assert [entry.service for entry in sorted_services(shuffled)] == expected


CONNECTION = Connection(2, TCP, "10.1.0.1", 2000, "10.0.0.1", 80, "10.2.0.1", 8080, "ESTABLISHED", 899_999)


def test_connections_in_numbers_and_names() -> None:
    *_, line = render.connections([CONNECTION], False, NUMBERS)
    assert line == "TCP 14:59  ESTABLISHED 10.1.0.1:2000      10.0.0.1:80        10.2.0.1:8080"
    *_, line = render.connections([CONNECTION], False, Names(TestResolver()))
    assert line == "TCP 14:59  ESTABLISHED 10.1.0.1:cisco-sccp vip1.example.test:http 10.2.0.1:http-alt"


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [(0, "00:00"), (999, "00:00"), (-5, "00:00"), (59_999, "00:59"), (60_000, "01:00"), (2_678_400_000, "44640:00")],
)
def test_expiry_in_minutes_and_seconds(milliseconds: int, shown: str) -> None:
    *_, line = render.connections([CONNECTION._replace(expires=milliseconds)], False, NUMBERS)
    assert line.split()[1] == shown


def test_a_clients_call_id_cannot_command_the_terminal() -> None:
    entry = CONNECTION._replace(pe_name="sip", pe_data=b"call\x1b[2J\xff@10.1.0.1 more")
    *_, line = render.connections([entry], True, NUMBERS)
    assert line.endswith("10.2.0.1:8080    sip                call?[2J?@10.1.0.1")
    *_, line = render.connections([entry._replace(pe_data=b"")], True, NUMBERS)
    assert "sip" in line


@pytest.mark.parametrize(("addresses", "shown"), [(("10.1.0.1", "10.2.0.1"), 185), (("fd00:1::1", "fd00:2::1"), 92)])
def test_a_call_id_is_cut_where_the_original_cuts_it(addresses: tuple[str, str], shown: int) -> None:
    client, server = addresses
    data = bytes(48 + i % 10 for i in range(255))
    entry = CONNECTION._replace(caddr=client, vaddr=server, daddr=server, pe_name="sip", pe_data=data)
    lines = [*render.connections([entry._replace(protocol=UDP)], True, NUMBERS)][2:]
    assert [line.rpartition(" ")[2] for line in lines] == [data[:shown].decode()]


def test_a_listing_of_connections_is_never_in_memory_at_once() -> None:
    asked = 0

    def endless() -> Iterator[Connection]:
        nonlocal asked
        while True:
            asked += 1
            yield CONNECTION

    lines = render.connections(endless(), False, Names(TestResolver()))
    for _ in range(5000):
        next(lines)
    assert asked <= 5000 + render.SLICE


class DeadServer(Resolver):
    """A name server that does not answer, but for one host."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def host_at(self, address: str) -> str | None:
        if address == "10.0.0.1":
            return "vip1.example.test"
        self.over.wait(20)
        return None


def test_a_dead_name_server_does_not_stall_a_listing() -> None:
    resolver = DeadServer()
    names = Names(resolver, budget=0.2)
    servers = [Destination(real_server(f"10.2.{i}.1", 80)) for i in range(200)]
    entries = [Service(virtual_service("10.0.0.1", port), servers) for port in range(60001, 60020)]
    began = time.monotonic()
    lines = list(render.services(entries, render.PLAIN, False, True, names))
    took = time.monotonic() - began
    resolver.over.set()
    assert took < 2
    assert lines[2] == "TCP  vip1.example.test:60001 wlc"
    assert lines[3] == "  -> 10.2.0.1:http                Route   1      0          0         "


def test_names_are_asked_for_once() -> None:
    asked = []

    class Counting(TestResolver):
        __test__ = False

        def host_at(self, address: str) -> str | None:
            asked.append(address)
            return super().host_at(address)

    names = Names(Counting())
    for _ in range(3):
        names.learn(["10.0.0.1", "10.9.9.9", "10.0.0.1"])
    assert sorted(asked) == ["10.0.0.1", "10.9.9.9"]
    assert names.endpoint("10.0.0.1", 80, TCP) == "vip1.example.test:http"
    assert names.endpoint("10.9.9.9", 81, TCP) == "10.9.9.9:81"
    assert names.endpoint("2001:db8::1", 80, 0) == "[2001:db8::1]:80"
