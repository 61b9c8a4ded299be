"""The names that the recorded listings knew, instead of this machine's /etc/hosts and /etc/services."""

from pylvs.ipvsadm.names import Resolver

HOSTS = {
    "127.0.0.1": "localhost",
    "::1": "localhost",
    "10.0.0.1": "vip1.example.test",
    "10.0.0.2": "vip2.example.test",
    "192.168.10.1": "rs1.example.test",
    "192.168.10.2": "a-rather-long-real-server-name-for-column-width.example.test",
    "2001:db8::80": "vip6.example.test",
    "2001:db8::a1": "rs6.example.test",
}
ALIASES = {
    "localhost": "127.0.0.1",
    "vip1": "10.0.0.1",
    "vip2": "10.0.0.2",
    "rs1": "192.168.10.1",
    "rs2": "192.168.10.2",
    "guest": "127.0.0.1",
    "ip6-localhost": "127.0.0.1",  # the C library gives the IPv4 address of this machine for ::1
}
SERVICES = {
    ("tcp", 1): "tcpmux",
    ("tcp", 7): "echo",
    ("tcp", 22): "ssh",
    ("udp", 7): "echo",
    ("tcp", 9): "discard",
    ("udp", 9): "discard",
    ("tcp", 53): "domain",
    ("udp", 53): "domain",
    ("tcp", 80): "http",
    ("tcp", 443): "https",
    ("udp", 443): "https",
    ("tcp", 2000): "cisco-sccp",
    ("tcp", 4711): "a-service-name-of-some-length-indeed",
    ("sctp", 4712): "x",
    ("tcp", 5060): "sip",
    ("udp", 5060): "sip",
    ("tcp", 5353): "mdns",
    ("udp", 5353): "mdns",
    ("tcp", 8080): "http-alt",
}


class TestResolver(Resolver):
    __test__ = False

    def __init__(self, hosts: dict[str, str] = HOSTS):
        self._hosts = hosts
        self._addresses = ALIASES | {name: address for address, name in hosts.items() if ":" not in address}
        self._ports = {(protocol, name): port for (protocol, port), name in SERVICES.items()}

    def address_of(self, host: str) -> str | None:
        return self._addresses.get(host.lower())

    def host_at(self, address: str) -> str | None:
        return self._hosts.get(address)

    def port_of(self, service: str, protocol: str) -> int | None:
        return self._ports.get((protocol, service))

    def service_at(self, port: int, protocol: str) -> str | None:
        return SERVICES.get((protocol, port))
