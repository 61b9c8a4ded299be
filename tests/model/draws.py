"""What the games of test_model.py are drawn from: names, packets, options, and what there is at the moment.

Few of each, so that they meet. A service may have several doors: a firewall mark's are wherever the mark is given, and
those for all ports and of FTP answer on many.
"""

from typing import Any, NamedTuple

from hypothesis import strategies as st

from model.pair import METHODS, connection_name, endpoint, key, server
from model.schedulers import SCHEDULERS
from model.services import Key, Options

Machine = Any
"""What plays: it has the `pair`."""
Place = tuple[str, str, int, tuple[int, int]]
"""A real server's name, method, weight and thresholds."""
NAMES = ("tcp 10.99.0.1:80", "tcp 10.99.0.2:80", "udp 10.99.0.1:80", "tcp [fd00:99::1]:80", "udp [fd00:99::1]:53",
         "sctp 10.99.0.1:80", "sctp [fd00:99::1]:80", "tcp 10.99.0.1:0", "udp [fd00:99::1]:0", "tcp 10.99.0.1:21",
         "mark 0.0.0.0:5", "mark [::]:5")  # fmt: skip
MARK = 5
SERVERS = ("rs1:80", "rs2:80", "rs1:8080", "rs3:0")
FLAGS = ("SYN", "ACK", "FIN+ACK", "RST", "SYN+ACK", "PSH+ACK", "FIN", "SYN+FIN", "SYN+RST", "RST+ACK", "URG", "")
CHUNKS = {
    "SYN": "INIT", "ACK": "COOKIE_ECHO", "FIN+ACK": "SHUTDOWN", "RST": "ABORT", "SYN+ACK": "INIT_ACK",
    "PSH+ACK": "DATA", "FIN": "DOWN_ACK", "SYN+FIN": "COOKIE_ACK", "SYN+RST": "ERROR", "RST+ACK": "ABORT",
    "URG": "COMPLETE", "": "",
}  # fmt: skip
"""What is said instead of TCP's flags where the service is SCTP's: what comes nearest, or else what is left."""
STORIES = (
    "client:SYN server:SYN+ACK client:ACK",
    "client:SYN server:SYN+ACK client:ACK client:FIN+ACK server:FIN+ACK client:ACK client:SYN",
    "client:SYN server:SYN+ACK client:ACK server:FIN+ACK client:FIN+ACK server:ACK client:SYN",
    "client:SYN client:ACK",
    "client:SYN client:ACK client:FIN+ACK client:ACK client:SYN",
    "client:SYN client:ACK server:ACK client:FIN+ACK client:SYN",
    "client:SYN server:RST+ACK client:SYN",
    "client:SYN server:SYN+ACK client:ACK client:RST client:SYN",
    "client:SYN server:SYN+ACK client:ACK server:SYN+FIN client:PSH+ACK",
    "client:SYN server:SYN+ACK client:ACK server:SYN+FIN client:FIN+ACK server:FIN client:URG client:SYN",
)
SYSCTLS = (
    *[("conn_reuse_mode", value) for value in (1, 0, 2, 3)],
    *[("sloppy_tcp", value) for value in (0, 1, 1)],
    *[("sloppy_sctp", value) for value in (0, 1, 1)],
    *[("secure_tcp", value) for value in (0, 1, 1)],
    *[("expire_nodest_conn", value) for value in (0, 1, 1)],
    *[("expire_quiescent_template", value) for value in (0, 1, 1)],
    ("drop_packet", 0),
    ("conn_max", 1 << 30),
)
SECONDS = (1, 1, 1, 2, 2, 5, 10, 11, 19, 29, 30, 59, 60, 61, 99, 119, 120, 241, 299, 300, 901)

service_names = st.sampled_from(NAMES)
server_names = st.sampled_from(SERVERS)
clients = st.sampled_from(("c1", "c2", "c3"))
ports = st.sampled_from((1025, 1026, 1027))
flag_names = st.sampled_from(FLAGS)
ttls = st.sampled_from((64, 64, 64, 64, 64, 2, 1))
sizes = st.sampled_from((0, 1, 200))
schedulers = st.sampled_from(sorted(SCHEDULERS))
methods = st.sampled_from(sorted(METHODS))
weights = st.sampled_from((1, 1, 2, 2, 3, 4, 6, 100, 0))
thresholds = st.sampled_from(((0, 0), (0, 0), (0, 0), (1, 0), (2, 0), (4, 0), (4, 2), (3, 3), (5, 1)))
flag_sets = st.sampled_from(
    [frozenset(), frozenset(("fallback",)), frozenset(("port",)), frozenset(("fallback", "port"))]
)
doors = st.integers(0, 11)
"""Which way to a service, where there are several."""
pools = st.lists(
    st.tuples(server_names, methods, weights, thresholds), unique_by=lambda place: place[0], min_size=1, max_size=4
)


def _options(name: str) -> st.SearchStrategy[tuple[str, Options]]:
    """A service's name, and what it may be like. Those for many ports are mostly persistent."""
    many = name.startswith("mark") or name.endswith((":0", ":21"))
    persistence = (100, 20, 360, 100, 20, 0) if many else (0, 0, 0, 100, 20, 360)
    return st.tuples(
        st.just(name),
        st.builds(
            Options, schedulers, flag_sets, st.sampled_from(persistence), st.sampled_from((0, 0, 1, 8, 32)),
            st.sampled_from((False, False, True)),
        ),
    )  # fmt: skip


described = service_names.flatmap(_options)


class Door(NamedTuple):
    """Where a client knocks."""

    protocol: str
    address: str
    port: int
    mark: int = 0


def door_of(service: str, number: int) -> Door:
    """One of the ways to a service: its own, or those to which it answers, too."""
    protocol, address, port = key(service)
    if protocol == "mark":
        one, other = ("fd00:99::1", "fd00:99::2") if ":" in address else ("10.99.0.1", "10.99.0.2")
        ways = [("tcp", one, 80), ("tcp", other, 443), ("udp", one, 80), ("tcp", other, 1025), ("sctp", one, 80)]
        return Door(*ways[number % len(ways)], port)
    mark = MARK if number == 11 else 0
    if port == 0:
        return Door(protocol, address, (443, 80, 1025, 21)[number % 4], mark)
    if port == 21:
        return Door(protocol, address, (21, 21, 20, 1025, 22)[number % 5], mark)
    return Door(protocol, address, port, mark)


def said(protocol: str, flags: str) -> str:
    """What a packet of this protocol says."""
    return {"tcp": flags, "sctp": CHUNKS.get(flags, flags)}.get(protocol, "")


def name_of(service: Key) -> str:
    return f"{service.protocol} {endpoint(service.address, service.port)}"


def _present(machine: Machine) -> st.SearchStrategy[str]:
    """A service that there is, or now and then one that there may not be."""
    there = [name_of(service) for service in machine.pair.model.services]
    return st.sampled_from(there * (max(12 // len(there), 1)) + [NAMES[0]])


def _open(machine: Machine) -> st.SearchStrategy[str]:
    return st.sampled_from(sorted(connection_name(conn) for conn in machine.pair.model.connections))


def _there(machine: Machine) -> st.SearchStrategy[tuple[str, str]]:
    """A service and one of its real servers, or now and then one that it may not have."""
    found = [
        (name_of(service.key), name)
        for service in machine.pair.model.services.values()
        for name in SERVERS
        if any((one.address, one.port) == server(name, one.address) for one in service.servers)
    ]
    return st.sampled_from(found * (max(20 // len(found), 1)) + [(NAMES[0], SERVERS[0])])


def _gone(machine: Machine) -> st.SearchStrategy[tuple[str, str]]:
    """A real server in the trash, and its service; if possible one that there is again."""
    found = [
        (name_of(one.service.key), name)
        for one in machine.pair.model.trash
        for name in SERVERS
        if (one.address, one.port) == server(name, one.address)
    ]
    return st.sampled_from([place for place in found if key(place[0]) in machine.pair.model.services] or found)


def _template_moments(machine: Machine) -> st.SearchStrategy[int]:
    """When some template's time is over."""
    return st.sampled_from(sorted({template.expires for template in machine.pair.model.templates}))


present = st.runner().flatmap(_present)
template_moments = st.runner().flatmap(_template_moments)
edited = present.flatmap(_options)
connections = st.runner().flatmap(_open)
places = st.runner().flatmap(_there)
trashed = st.runner().flatmap(_gone)


def has_connections(machine: Machine) -> bool:
    return bool(machine.pair.model.connections)


def has_templates(machine: Machine) -> bool:
    return bool(machine.pair.model.templates)


def has_services(machine: Machine) -> bool:
    return bool(machine.pair.model.services)


def has_servers(machine: Machine) -> bool:
    return any(service.servers for service in machine.pair.model.services.values())
