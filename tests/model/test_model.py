"""The real director against the model: random commands and random packets, compared after each.

    client c1, c2, c3  --  director  --  rs1, rs2, rs3      in the namespaces of support/harness.py

The clients and their ports are few, so that connections are met again, retransmitted, reused and collide.

    PYLVS_MODEL_EXAMPLES=5000 pytest tests/model        that many examples, others on each run

A counterexample is a Python program over the rules below, with what the model expected under each packet.
"""

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from model.connections import Connection
from model.draws import (
    NAMES,
    SECONDS,
    STORIES,
    SYSCTLS,
    Door,
    Place,
    clients,
    connections,
    described,
    door_of,
    doors,
    edited,
    flag_names,
    has_connections,
    has_servers,
    has_services,
    has_templates,
    methods,
    name_of,
    places,
    pools,
    ports,
    present,
    said,
    server_names,
    service_names,
    sizes,
    template_moments,
    thresholds,
    trashed,
    ttls,
    weights,
)
from model.pair import (
    MAX_SERVERS,
    MAX_SERVICES,
    Pair,
    connection_name,
    endpoint,
    host,
    key,
    server,
    use_all_numbers,
)
from model.services import Options
from support.harness import Harness

HAPPENS = (
    "template met again", "template of a mark met again", "template of a network met again",
    "template of many ports met again", "template of an overloaded one", "template of a quiescent one",
    "template from before an edit", "template after its first end", "template invalid", "template lives on",
    "goes on for its template", "ended with its real server", "without a real server",
    "leaves a quiescent real server", "by mark", "one service before another", "for one packet",
    "FTP's data without a connection", "dropped in defence", "too many",
)  # fmt: skip
"""What has to have been played, or the comparison says little."""
EXAMPLES, STEPS = 250, 40
VARIABLE = "PYLVS_MODEL_EXAMPLES"


class DirectorMachine(RuleBasedStateMachine):
    """Everything that happens to the pair."""

    def __init__(self, lvs: Harness, played: Counter[str]):
        super().__init__()
        self.played = played
        self.pair = Pair(lvs)

    def _conn(self, name: str) -> Connection:
        return next(conn for conn in self.pair.model.connections if connection_name(conn) == name)

    @precondition(lambda self: self.pair.remarks)
    @invariant()
    def as_expected(self) -> None:
        """What the model expected of the last step, for the reader of a counterexample."""
        for line in self.pair.remarks:
            note(f"        # {line}")
        self.pair.remarks.clear()

    def teardown(self) -> None:
        self.as_expected()
        self.pair.end()
        self.played.update(self.pair.model.happened)
        self.played["in time" if self.pair.in_time() else "too slowly"] += 1

    # ---- packets: most of what happens, so most of the rules ----

    def _client_says(self, to: Door, client: str, port: int, flags: str, ttl: int = 64) -> None:
        source = host(client, to.address)
        self.pair.send(to.protocol, source, port, to.address, to.port, said(to.protocol, flags), ttl, mark=to.mark)

    def _server_says(self, conn: Connection, flags: str, ttl: int = 64, size: int = 0) -> None:
        """Behind NAT it speaks for itself; otherwise as the VIP, and the packet happens to pass the director."""
        flags = said(conn.protocol, flags)
        self.pair.send(conn.protocol, *conn.replies_from, *conn.client, flags, ttl, size)

    @precondition(has_services)
    @rule(service=present, client=clients, port=ports, door=doors)
    def client_opens(self, service: str, client: str, port: int, door: int) -> None:
        self._client_says(door_of(service, door), client, port, "SYN")

    @precondition(has_services)
    @rule(service=present, client=clients, door=doors, count=st.integers(2, 4))
    def client_opens_many(self, service: str, client: str, door: int, count: int) -> None:
        """From one port after the other, and by one door after the other."""
        for number in range(count):
            self._client_says(door_of(service, door + number), client, 1025 + number, "SYN")

    @precondition(has_services)
    @rule(service=present, count=st.integers(2, 8), door=doors)
    def crowd_opens(self, service: str, count: int, door: int) -> None:
        """c11, c12, ... each once."""
        for number in range(count):
            self._client_says(door_of(service, door), f"c{11 + number}", 1025, "SYN")

    @precondition(has_services)
    @rule(
        service=present, count=st.integers(2, 8), door=doors, lasts=st.sampled_from((False, False, False, True)),
        limit=st.sampled_from((("drop_packet", 1), ("drop_packet", 3), ("conn_max", 1), ("conn_max", 6))),
    )  # fmt: skip
    def crowd_meets_defence(self, service: str, count: int, door: int, lasts: bool, limit: tuple[str, int]) -> None:
        name, value = limit
        before = self.pair.model.sysctls[name]
        self.pair.command("set_sysctl", name, value)
        self.crowd_opens(service, count, door)
        if not lasts:
            self.pair.command("set_sysctl", name, before)

    @precondition(has_services)
    @rule(client=clients, port=ports, outlive=st.booleans())
    def client_opens_all(self, client: str, port: int, outlive: bool) -> None:
        """From one port to every service: behind NAT they may share a real server. And then perhaps only the last one
        is used."""
        for service in list(self.pair.model.services):
            self._client_says(door_of(name_of(service), 0), client, port, "SYN")
        if outlive and self.pair.model.connections:
            last = self.pair.model.connections[0]
            self.client_says(connection_name(last), "ACK", 64, 0)
            self.pair.advance(60)
            if last in self.pair.model.connections:
                self._server_says(last, "SYN+ACK")

    @precondition(has_services)
    @rule(service=present, client=clients, port=ports, story=st.sampled_from(STORIES), door=doors)
    def conversation(self, service: str, client: str, port: int, story: str, door: int) -> None:
        to = door_of(service, door)
        name = f"{to.protocol} {client}:{port} {endpoint(to.address, to.port)}"
        for who, flags in (line.split(":") for line in story.split()):
            conn = next((conn for conn in self.pair.model.connections if connection_name(conn) == name), None)
            if who == "client":
                self._client_says(to, client, port, flags)
            elif conn:
                self._server_says(conn, flags)

    @precondition(has_services)
    @rule(
        service=present, client=clients, port=st.sampled_from((1025, 20)), flags=flag_names, ttl=ttls,
        to_port=st.sampled_from((0, 0, 81)), door=doors,
    )  # fmt: skip
    def client_is_odd(
        self, service: str, client: str, port: int, flags: str, ttl: int, to_port: int, door: int
    ) -> None:
        """It begins as nobody should, or asks a port that no service has, or comes from FTP's data port."""
        to = door_of(service, door)
        self._client_says(to._replace(port=to_port or to.port), client, port, flags, ttl)

    @rule(service=service_names, server_name=server_names, client=clients, port=ports, flags=flag_names)
    def server_speaks_up(self, service: str, server_name: str, client: str, port: int, flags: str) -> None:
        """To a client that may never have asked."""
        of = door_of(service, 0)
        address, server_port = server(server_name, of.address)
        flags = said(of.protocol, flags)
        self.pair.send(of.protocol, address, server_port or of.port, host(client, of.address), port, flags)

    @precondition(has_connections)
    @rule(connection=connections, flags=flag_names, ttl=ttls, size=sizes)
    def client_says(self, connection: str, flags: str, ttl: int, size: int) -> None:
        conn = self._conn(connection)
        flags = said(conn.protocol, flags)
        self.pair.send(conn.protocol, *conn.client, *conn.virtual, flags, ttl, size, mark=conn.mark)

    @precondition(has_connections)
    @rule(connection=connections, port=st.integers(2001, 2003))
    def client_opens_another(self, connection: str, port: int) -> None:
        """From another port to where it was before."""
        conn = self._conn(connection)
        client, _ = conn.client
        self.pair.send(conn.protocol, client, port, *conn.virtual, said(conn.protocol, "SYN"), mark=conn.mark)

    @precondition(has_connections)
    @rule(connection=connections, flags=flag_names, ttl=ttls, size=sizes)
    def server_says(self, connection: str, flags: str, ttl: int, size: int) -> None:
        self._server_says(self._conn(connection), flags, ttl, size)

    @precondition(has_connections)
    @rule(
        connection=connections,
        order=st.sampled_from((("client",), ("client", "server"), ("server",), ("server", "client"))),
        again=st.booleans(),
    )
    def close(self, connection: str, order: tuple[str, ...], again: bool) -> None:
        """And perhaps the client returns at once, from the same port."""
        conn = self._conn(connection)  # which may end at the first of these
        for who in order:
            if who == "client":
                self._client_returns(conn, "FIN+ACK")
            else:
                self._server_says(conn, "FIN+ACK")
        if again:
            self._client_returns(conn, "SYN")

    def _client_returns(self, conn: Connection, flags: str) -> None:
        self.pair.send(conn.protocol, *conn.client, *conn.virtual, said(conn.protocol, flags), mark=conn.mark)

    @precondition(has_connections)
    @rule(connection=connections)
    def client_returns(self, connection: str) -> None:
        """From the same port, as if it knew nothing of its connection."""
        self._client_returns(self._conn(connection), "SYN")

    # ---- commands ----

    @initialize(
        services=st.lists(st.tuples(described, pools), unique_by=lambda one: one[0][0], min_size=1, max_size=3),
        nodest=st.sampled_from((0, 0, 1)), quiescent=st.sampled_from((0, 0, 1)),
    )  # fmt: skip
    def begin(self, services: list[tuple[tuple[str, Options], list[Place]]], nodest: int, quiescent: int) -> None:
        self.pair.command("set_sysctl", "expire_nodest_conn", nodest)
        self.pair.command("set_sysctl", "expire_quiescent_template", quiescent)
        for service, pool in services:
            self._service_with_pool(*service, pool)

    @rule(service=described, pool=pools)
    def add_service(self, service: tuple[str, Options], pool: list[Place]) -> None:
        self._service_with_pool(*service, pool)

    def _service_with_pool(self, service: str, options: Options, pool: list[Place]) -> None:
        self.pair.command("add_service", key(service), options)
        for place in pool:
            self._add_server(service, *place)

    @precondition(has_services)
    @rule(service=edited)
    def edit_service(self, service: tuple[str, Options]) -> None:
        name, options = service
        self.pair.command("edit_service", key(name), options)

    @precondition(has_services)
    @rule(service=present)
    def delete_service(self, service: str) -> None:
        self.pair.command("delete_service", key(service))

    @precondition(has_services)
    @rule(service=present, server_name=server_names, method=methods, weight=weights, limits=thresholds)
    def add_server(self, service: str, server_name: str, method: str, weight: int, limits: tuple[int, int]) -> None:
        self._add_server(service, server_name, method, weight, limits)

    @precondition(lambda self: self.pair.model.trash)
    @rule(place=trashed, method=methods, weight=weights, limits=thresholds)
    def add_server_again(self, place: tuple[str, str], method: str, weight: int, limits: tuple[int, int]) -> None:
        self._add_server(*place, method, weight, limits)

    def _add_server(self, service: str, server_name: str, method: str, weight: int, limits: tuple[int, int]) -> None:
        to = key(service)
        place = server(server_name, to.address)
        waiting = self.pair.model.trashed(to, *place)
        if waiting and self.pair.model.fate(waiting) == "open":
            return  # whether its counters come back depends on when the kernel last looked
        self.pair.command("add_server", to, *place, method, weight, *limits)

    @precondition(has_servers)
    @rule(place=places, method=methods, weight=weights, limits=thresholds)
    def edit_server(self, place: tuple[str, str], method: str, weight: int, limits: tuple[int, int]) -> None:
        service, name = place
        to = key(service)
        self.pair.command("edit_server", to, *server(name, to.address), method, weight, *limits)

    @precondition(has_servers)
    @rule(place=places)
    def delete_server(self, place: tuple[str, str]) -> None:
        service, name = place
        to = key(service)
        self.pair.command("delete_server", to, *server(name, to.address))

    @precondition(has_servers)
    @rule(
        place=places, seconds=st.sampled_from((0, 30, 90, 119, 241)), method=methods, weight=weights, limits=thresholds
    )
    def server_is_away(
        self, place: tuple[str, str], seconds: int, method: str, weight: int, limits: tuple[int, int]
    ) -> None:
        self.delete_server(place)
        self.pair.advance(seconds)
        self._add_server(*place, method, weight, limits)

    @precondition(has_connections)
    @rule(
        connection=connections, way=st.sampled_from(("weight 0", "delete")), before=st.sampled_from((0, 0, 1)),
        after=st.sampled_from((1, 1, 0)), quiescent=st.sampled_from((0, 1)), port=st.sampled_from((0, 0, 2001, 2002)),
        flags=st.sampled_from(("SYN", "SYN", "ACK")), again=st.booleans(),
    )  # fmt: skip
    def real_server_fails(
        self, connection: str, way: str, before: int, after: int, quiescent: int, port: int, flags: str, again: bool
    ) -> None:
        """Under a connection, which goes on, or begins anew, or is joined by another one."""
        conn = self._conn(connection)
        of, place = conn.server.service.key, (conn.server.address, conn.server.port)
        self.pair.command("set_sysctl", "expire_nodest_conn", before)
        if way == "delete":
            self.pair.command("delete_server", of, *place)
        else:
            self.pair.command("edit_server", of, *place, conn.server.method, 0)
        self.pair.command("set_sysctl", "expire_nodest_conn", after)
        self.pair.command("set_sysctl", "expire_quiescent_template", quiescent)
        client = conn.client[0], port or conn.client[1]
        for _ in range(1 + again):
            self.pair.send(conn.protocol, *client, *conn.virtual, said(conn.protocol, flags), mark=conn.mark)

    @precondition(has_services)
    @rule(
        command=st.tuples(st.just("zero"), st.none() | present)
        | st.tuples(st.just("set_timeouts"), *[st.sampled_from((0, 1, 30, 1000))] * 3)
        | st.sampled_from(SYSCTLS).map(lambda setting: ("set_sysctl", *setting))
        | st.just(("flush",))
    )
    def director(self, command: tuple[Any, ...]) -> None:
        name, *rest = command
        if name == "zero" and rest[0]:
            rest = [key(rest[0])]
        self.pair.command(name, *rest)

    @precondition(has_connections)
    @rule(connection=connections)
    def end_connection(self, connection: str) -> None:
        self.pair.command("end_connection", self._conn(connection))

    # ---- time ----

    @precondition(has_connections)
    @rule(connection=connections, who=st.sampled_from(("client", "server")), flags=st.sampled_from(("SYN", "ACK")))
    def packet_at_the_very_end_of(self, connection: str, who: str, flags: str) -> None:
        """Its time is over, but nobody has cleared it away yet."""
        conn = self._conn(connection)
        begins = flags == "SYN" or conn.protocol == "udp" or self.pair.model.sysctls[f"sloppy_{conn.protocol}"]
        if begins and self._ends_at(conn.expires) > 1:
            return  # the others would still be counted when a real server is chosen
        self.pair.advance_unswept(conn.expires - self.pair.model.now)
        flags = said(conn.protocol, flags)
        if who == "client":
            self.pair.send(conn.protocol, *conn.client, *conn.virtual, flags, mark=conn.mark)
        else:
            self._server_says(conn, flags)

    @precondition(has_templates)
    @rule(moment=template_moments, port=ports)
    def client_comes_at_the_very_end_of_its_template(self, moment: int, port: int) -> None:
        template = next(one for one in self.pair.model.templates if one.expires == moment)
        protocol, (client, _), (address, to_port) = template.key
        if self._ends_at(moment) > 1 or self.pair.model.sysctls["conn_max"] < 1 << 30:
            return  # what nobody has cleared away would still be counted
        client = host("c1", client) if client == "0.0.0.0" else client
        to = Door(protocol, address, to_port or 1025, template.mark)
        if protocol == "ip":
            to = door_of("mark [::]:5" if ":" in address else "mark 0.0.0.0:5", port)
        self.pair.advance_unswept(moment - self.pair.model.now)
        self.pair.send(to.protocol, client, port, to.address, to.port, said(to.protocol, "SYN"), mark=to.mark)

    def _ends_at(self, moment: int) -> int:
        """How many connections and templates."""
        model = self.pair.model
        return sum(one.expires == moment for one in (*model.connections, *model.templates))

    @rule(seconds=st.sampled_from(SECONDS))
    def time_passes(self, seconds: int) -> None:
        self.pair.advance(seconds)

    @precondition(has_connections)
    @rule(connection=connections, early=st.sampled_from((1, 0)))
    def time_passes_until_the_end_of(self, connection: str, early: int) -> None:
        self.pair.advance(max(self._conn(connection).expires - self.pair.model.now - early, 0))

    @precondition(has_templates)
    @rule(moment=template_moments, early=st.sampled_from((1, 0)))
    def time_passes_until_the_end_of_a_template(self, moment: int, early: int) -> None:
        self.pair.advance(max(moment - self.pair.model.now - early, 0))


def _examples() -> int:
    return int(os.environ.get(VARIABLE, EXAMPLES))


def _settings() -> dict[str, Any]:
    return {
        "max_examples": _examples(),
        "derandomize": VARIABLE not in os.environ,
        "phases": (Phase.generate, Phase.shrink),  # what Phase.explain adds hides the steps
        "print_blob": VARIABLE in os.environ,
        "stateful_step_count": STEPS,
        "deadline": None,
        "database": None,
        "report_multiple_bugs": False,
        "suppress_health_check": list(HealthCheck),
    }


@pytest.fixture
def lvs() -> Iterator[Harness]:
    if os.geteuid() != 0:
        pytest.skip("loading the packet path needs root")
    with Harness(max_services=MAX_SERVICES, max_dests=MAX_SERVERS) as harness:
        use_all_numbers(harness)
        yield harness


def test_the_director_does_what_the_model_does(lvs: Harness) -> None:
    played: Counter[str] = Counter()
    run_state_machine_as_test(lambda: DirectorMachine(lvs, played), settings=settings(**_settings()))
    assert played["in time"] > played["too slowly"], f"the machine was too busy to compare anything: {played}"
    missing = [what for what in HAPPENS if not played[what]]
    assert not missing or _examples() < EXAMPLES, f"this was never played: {missing}"


def test_replies_of_connections_that_share_a_real_server(lvs: Harness) -> None:
    """One client port to two services that both lead, by NAT, to one real server: the older connection's end does not
    take the newer one's replies along. (Too rare above to rely on.)"""
    pair = Pair(lvs)
    for name in NAMES[:2]:
        pair.command("add_service", key(name), Options("rr"))
        pair.command("add_server", key(name), "10.2.0.1", 80, "nat", 1)
        pair.send("tcp", "10.1.0.1", 1025, *key(name)[1:], "SYN")
    pair.send("tcp", "10.1.0.1", 1025, *key(NAMES[1])[1:], "ACK")
    pair.advance(60)
    pair.send("tcp", "10.2.0.1", 80, "10.1.0.1", 1025, "SYN+ACK")
    assert pair.remarks[-1].endswith("nat reply, 10.99.0.2:80 > 10.1.0.1:1025 ttl 63")
