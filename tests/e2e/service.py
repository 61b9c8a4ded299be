"""A virtual service in a lab, in the words of the tests: what they ask of the director and of a client."""

import hashlib
import subprocess
from pathlib import Path
from typing import NamedTuple

from pylvs.lab import Lab
from pylvs.lab.servers import BIG_SIZE, big_sha256
from pylvs.lab.topology import Host

TIMEOUT = "5"


class Counts(NamedTuple):
    """A line of `ipvsadm -Ln`."""

    method: str
    weight: int
    active: int
    inactive: int


class Traffic(NamedTuple):
    """A line of `ipvsadm -Ln --stats --exact`."""

    conns: int
    inpkts: int
    outpkts: int
    inbytes: int
    outbytes: int


def endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class Service:
    """One virtual service on the lab's VIP, in one family."""

    def __init__(
        self, lab: Lab, method: str, *, ipv6: bool = False, port: int = 80, rport: int | None = None, kind: str = "-t"
    ):
        """method: -m or -g; rport: the real servers' port, by default the service's; kind: -t or -u."""
        self.lab, self.method, self.ipv6, self.port, self.kind = lab, method, ipv6, port, kind
        self.rport = port if rport is None else rport
        self.vip = lab.vip6 if ipv6 else lab.vip
        self.address = endpoint(self.vip, port)

    # -- the director -------------------------------------------------------------------------------------------

    def add(self, *servers: str, scheduler: str = "rr") -> "Service":
        """Define the service, with these real servers (all of the lab's when none is named)."""
        self.lab.ipvsadm(["-A", self.kind, self.address, "-s", scheduler])
        for name in servers or tuple(server.name for server in self.lab.realservers):
            self.add_server(name)
        return self

    def rip(self, server: str | Host) -> str:
        host = self.lab.host(server) if isinstance(server, str) else server
        return host.ipv6 if self.ipv6 else host.ipv4

    def server(self, name: str) -> str:
        return endpoint(self.rip(name), self.rport)

    def add_server(self, name: str, weight: int = 1) -> None:
        self._server("-a", name, self.method, "-w", str(weight))

    def remove_server(self, name: str) -> None:
        self._server("-d", name)

    def set_weight(self, name: str, weight: int) -> None:
        self._server("-e", name, self.method, "-w", str(weight))

    def _server(self, verb: str, name: str, *more: str) -> None:
        self.lab.ipvsadm([verb, self.kind, self.address, "-r", self.server(name), *more])

    def _rows(self, *options: str) -> dict[str, list[str]]:
        """What the list says of each real server, by name."""
        text = self.lab.ipvsadm(["-Ln", *options, self.kind, self.address]).stdout
        names = {self.server(server.name): server.name for server in self.lab.realservers}
        rows = [line.split() for line in text.splitlines() if line.startswith("  ->")]
        return {names[row[1]]: row[2:] for row in rows if row[1] in names}

    def counts(self) -> dict[str, Counts]:
        return {name: Counts(row[0], *map(int, row[1:4])) for name, row in self._rows().items()}

    def traffic(self) -> dict[str, Traffic]:
        return {name: Traffic(*map(int, row[:5])) for name, row in self._rows("--stats", "--exact").items()}

    # -- a client -----------------------------------------------------------------------------------------------

    def url(self, path: str = "/") -> str:
        return f"http://{self.address}{path}"

    def try_get(self, path: str = "/") -> subprocess.CompletedProcess[str]:
        return self.lab.run("client", ["curl", "-sS", "-m", TIMEOUT, self.url(path)], check=False)

    def get(self, path: str = "/") -> str:
        """One connection from the client to the VIP, and what the real server answered."""
        return self.lab.run("client", ["curl", "-sS", "-m", TIMEOUT, self.url(path)]).stdout.strip()

    def download(self, file: Path, rate: str = "") -> "Download":
        return Download(self, file, rate)

    def dig(self, record: str = "TXT") -> str:
        """Who answers a DNS query to the VIP (dig takes no answer from another address than it asked)."""
        words = ["dig", "+short", "+tries=1", "+time=3", "-p", str(self.port), f"@{self.vip}", "whoami.lab", record]
        return self.lab.run("client", words).stdout.strip().strip('"')


class Download:
    """A transfer of the big file from the VIP, under way; `rate` slows the real server (1m: a mebibyte per second)."""

    def __init__(self, service: Service, file: Path, rate: str):
        self._file = file
        self._lab = service.lab
        path = f"/slow?rate={rate}" if rate else "/big"
        argv = ["curl", "-sS", "-m", "60", "--no-buffer", "-o", str(file), service.url(path)]
        self.process = self._lab.popen("client", argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def size(self) -> int:
        return self._file.stat().st_size if self._file.exists() else 0

    def wait_until(self, size: int) -> None:
        self._lab.wait_for(lambda: self.size() >= size, f"{size} bytes to arrive", seconds=10)

    def running(self) -> bool:
        return self.process.poll() is None and self.size() < BIG_SIZE

    def finish(self, seconds: float = 20) -> None:
        """Wait for the end, and check every byte."""
        said, _ = self.process.communicate(timeout=seconds)
        assert self.process.returncode == 0, said
        assert self.size() == BIG_SIZE
        assert hashlib.sha256(self._file.read_bytes()).hexdigest() == big_sha256()
