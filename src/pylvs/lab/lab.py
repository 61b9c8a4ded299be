"""A lab: a topology brought to life in network namespaces, with real servers that really serve.

    with Lab("nat") as lab:
        lab.ipvsadm(f"-A -t {lab.vip}:80 -s rr")
        lab.ipvsadm(f"-a -t {lab.vip}:80 -r {lab.host('rs1').ipv4}:80 -m")
        print(lab.run("client", ["curl", "-s", f"http://{lab.vip}/"]).stdout)

Everything lives inside namespaces made here; the machine's own network is neither used nor changed. Labs that are
up at the same time have different names and share nothing.
"""

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pylvs.lab.namespaces as ns
from pylvs.lab import servers, state
from pylvs.lab.namespaces import LabError
from pylvs.lab.processes import Process, end, is_alive, start_time
from pylvs.lab.state import State
from pylvs.lab.topologies import topology
from pylvs.lab.topology import Host, Topology
from pylvs.lab.waiting import wait_for

_serial = iter(range(1, 1 << 30))
SOURCES = Path(__file__).resolve().parents[2]


def require_root() -> None:
    if os.geteuid() != 0:
        raise LabError("a lab is made of network namespaces: it needs root (try sudo)")


class Lab:
    """One lab. As a context manager it is up in the body and gone afterwards, whatever happens in between.

    Attributes:
        name: of this instance; its namespaces are called `<name>-<host>`.
        topology: who is wired to whom.
        vip, vip6: the virtual addresses that the director holds.
    """

    def __init__(
        self,
        topology_name: str,
        name: str | None = None,
        realservers: int | None = None,
        *,
        serve: bool = True,
        keep: bool = False,
    ):
        """Describe a lab; nothing happens until `up()`.

        Args:
            topology_name: nat, dr, tun, nat-router or bench.
            name: of the instance; by default one that no other process has.
            realservers: how many (default 3; bench: 1).
            serve: start nginx and dnsmasq on the real servers.
            keep: outlive this process (`pylvs lab up`); otherwise a lab whose process is dead is removed by the next.
        """
        self.topology: Topology = topology(topology_name, realservers)
        self.name = state.check_name(name or f"{topology_name}-{os.getpid()}-{next(_serial)}")
        self.vip, self.vip6 = self.topology.vip, self.topology.vip6
        self._serve = serve
        self._keep = keep
        self._children: dict[int, subprocess.Popen[Any]] = {}
        self._processes: list[Process] = []

    # -- life ---------------------------------------------------------------------------------------------------

    def up(self) -> "Lab":
        """Build it; on any failure nothing is left."""
        require_root()
        remove_orphans()
        owner = None if self._keep else (os.getpid(), start_time(os.getpid()) or 0)
        count = len(self.topology.by_role("realserver"))
        namespaces = tuple(ns.namespaces_of(self.name, self.topology))
        taken = [namespace for namespace in namespaces if (ns.NETNS / namespace).exists()]
        if taken and self.name not in state.names():
            raise LabError(f"namespace {taken[0]} exists, and is not ours; give the lab another name")
        state.create(State(self.name, self.topology.name, count, owner, namespaces))
        try:
            ns.build(self.name, self.topology)
            self._unwrap()
            if self._serve:
                self.serve()
        except BaseException:
            self.down()
            raise
        return self

    def down(self) -> None:
        """End its processes, delete its namespaces, forget it. Harmless when there is nothing left."""
        # A second Ctrl-C must not leave half a lab; the record stays until the end, so that a kill can be made good.
        for _ in range(3):
            try:
                self._down()
                return
            except KeyboardInterrupt:
                continue

    def _down(self) -> None:
        with suppress(LabError):
            take_down(self._state())
        for child in self._children.values():
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=1)
            for stream in (child.stdin, child.stdout, child.stderr):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()
        self._children.clear()
        self._processes.clear()

    def __enter__(self) -> "Lab":
        return self.up()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    @classmethod
    def attach(cls, name: str) -> "Lab":
        """A lab that is up already, made by another process; leaving it to that process to take it down."""
        record = state.load(name)
        lab = cls(record.topology, record.name, record.realservers, keep=True)
        lab._processes = [process for process in record.processes if is_alive(process.pid, process.start)]
        return lab

    # -- who is who ---------------------------------------------------------------------------------------------

    def host(self, name: str) -> Host:
        return self.topology.host(name)

    @property
    def realservers(self) -> tuple[Host, ...]:
        return self.topology.by_role("realserver")

    @property
    def directory(self) -> Path:
        """Where the lab keeps its configurations and logs; gone with the lab."""
        return state.RUN / self.name

    @property
    def processes(self) -> tuple[Process, ...]:
        return tuple(self._processes)

    def namespace(self, host: str) -> str:
        self.topology.host(host)
        return ns.namespace_of(self.name, host)

    # -- running things -----------------------------------------------------------------------------------------

    def enter(self, host: str) -> AbstractContextManager[None]:
        """Run the body in a host's namespace: this thread only, see `namespaces.entered`."""
        return ns.entered(self.namespace(host))

    def run(
        self, host: str, argv: Sequence[str] | str, *, check: bool = True, timeout: float = 30.0, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host to its end and return what it said; a LabError if it fails (unless check=False)."""
        words = shlex.split(argv) if isinstance(argv, str) else list(argv)
        settings: dict[str, Any] = {"capture_output": True, "text": True, "env": environment()} | options
        done = subprocess.run(ns.command(self.namespace(host), words), check=False, timeout=timeout, **settings)
        if check and done.returncode != 0:
            said = f"{done.stdout or ''}{done.stderr or ''}".strip()
            raise LabError(f"on {host}: {shlex.join(words)}: exit code {done.returncode}: {said}")
        return done

    def popen(self, host: str, argv: Sequence[str] | str, **options: Any) -> "subprocess.Popen[Any]":
        """Start a command on a host; it is ended with the lab at the latest."""
        words = shlex.split(argv) if isinstance(argv, str) else list(argv)
        # A session of its own: Ctrl-C is for whoever holds the lab, which then ends its processes in order.
        settings: dict[str, Any] = {"start_new_session": True, "env": environment()} | options
        child: subprocess.Popen[Any] = subprocess.Popen(ns.command(self.namespace(host), words), **settings)
        self._children[child.pid] = child
        self._processes.append(Process(child.pid, start_time(child.pid) or 0, host, words[0].rpartition("/")[2]))
        self._save()
        return child

    def start(self, host: str, argv: Sequence[str], what: str) -> "subprocess.Popen[Any]":
        """Start a server on a host, with its output in a log file in the lab's directory."""
        with open(self.directory / f"{host}-{what}.log", "ab") as log:
            return self.popen(host, argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def stop(self, child: "subprocess.Popen[Any]") -> None:
        """End a process that popen() or start() started."""
        mine = [process for process in self._processes if process.pid == child.pid]
        end(mine)
        child.wait(timeout=5)
        self._children.pop(child.pid, None)
        self._processes = [process for process in self._processes if process.pid != child.pid]
        self._save()

    def ipvsadm(self, arguments: Sequence[str] | str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run our `ipvsadm` on the director."""
        return self.director_run([*console_script("ipvsadm"), *_words(arguments)], **options)

    def pylvs(self, arguments: Sequence[str] | str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run our `pylvs` on the director."""
        return self.director_run([*console_script("pylvs"), *_words(arguments)], **options)

    def director_run(self, argv: Sequence[str] | str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.run("director", argv, **options)

    def socket(self, host: str, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A socket that belongs to a host, for use from here."""
        with self.enter(host):
            return socket.socket(family, kind)

    def connect(self, host: str, address: str, port: int, timeout: float = 0.5) -> int:
        """Try a TCP connection from a host to address:port: 0 or the error's number (EAGAIN: nothing came back)."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.socket(host, family) as probe:
            probe.settimeout(timeout)
            return probe.connect_ex((address, port))

    def can_connect(self, host: str, address: str, port: int, timeout: float = 0.5) -> bool:
        """Whether a TCP connection from a host to address:port succeeds."""
        return self.connect(host, address, port, timeout) == 0

    def wait_for(self, predicate: Any, what: str, seconds: float = 5.0) -> Any:
        return wait_for(predicate, what, seconds)

    def _unwrap(self) -> None:
        """Have tunnel packets unwrapped where the topology says so."""
        for host in self.topology.hosts:
            if host.tunnels:
                types = [word for name in host.tunnels for word in ("--type", name)]
                vips = ["--vip", self.vip, "--vip", self.vip6]
                self.run(host.name, [*console_script("pylvs"), "realserver", "decap", *types, *vips])

    # -- what the real servers serve ----------------------------------------------------------------------------

    def serve(self) -> None:
        """Start nginx and dnsmasq on every real server, and wait until they answer."""
        started = []
        for host in self.realservers:
            started.append((host, "nginx", self.start(host.name, servers.nginx(host, self.directory), "nginx")))
            started.append((host, "dnsmasq", self.start(host.name, servers.dns(host), "dnsmasq")))
        for host, what, child in started:
            port = servers.HTTP_PORTS[-1] if what == "nginx" else servers.DNS_PORT
            self._await_server(host, what, child, port)

    def serve_iperf3(self, host: str) -> "subprocess.Popen[Any]":
        """Start an iperf3 server on a host and wait until it listens."""
        child = self.start(host, servers.iperf3(), "iperf3")
        self._await_server(self.host(host), "iperf3", child, servers.IPERF3_PORT)
        return child

    def _await_server(self, host: Host, what: str, child: "subprocess.Popen[Any]", port: int) -> None:
        def answers() -> bool:
            if child.poll() is not None:
                log = (self.directory / f"{host.name}-{what}.log").read_text(errors="replace").strip()
                raise LabError(f"{what} on {host.name} ended with {child.returncode}: {log}")
            if what == "iperf3":  # a connection would be taken for a client's
                return listens(child.pid, port)
            return self.can_connect(host.name, host.ipv4, port) and self.can_connect(host.name, host.ipv6, port)

        wait_for(answers, f"{what} on {host.name} to answer on port {port}", seconds=10)

    # -- the record ---------------------------------------------------------------------------------------------

    def _state(self) -> State:
        return state.load(self.name)

    def _save(self) -> None:
        record = self._state()
        state.save(record._replace(processes=tuple(self._processes)))


def _words(arguments: Sequence[str] | str) -> list[str]:
    return shlex.split(arguments) if isinstance(arguments, str) else list(arguments)


def console_script(name: str) -> list[str]:
    """Our own command of that name: the installed script next to this interpreter, or the same from the sources."""
    script = Path(sys.executable).parent / name
    if script.exists():
        return [str(script)]
    module = {"ipvsadm": "pylvs.ipvsadm", "pylvs": "pylvs.cli"}[name]
    return [sys.executable, "-c", f"import sys; from {module} import main; sys.exit(main())"]


def environment() -> dict[str, str]:
    """The environment of a lab's commands: this very pylvs is found first, as a module and as a command."""
    known = dict(os.environ)
    scripts = str(Path(sys.executable).parent)
    paths = {"PYTHONPATH": str(SOURCES), "PATH": scripts}
    for variable, first in paths.items():
        rest = [part for part in known.get(variable, "").split(os.pathsep) if part and part != first]
        known[variable] = os.pathsep.join([first, *rest])
    known["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"
    return known


def listens(pid: int, port: int) -> bool:
    """Whether some TCP socket listens on that port in the namespace of a process."""
    for table in ("tcp", "tcp6"):
        with suppress(OSError), open(f"/proc/{pid}/net/{table}", encoding="ascii") as file:
            for line in file:
                fields = line.split()
                if fields[3] == "0A" and fields[1].endswith(f":{port:04X}"):
                    return True
    return False


def take_down(record: State) -> None:
    """Remove a lab by its record alone: processes, what pylvs pinned for its hosts, namespaces, directory."""
    end(list(record.processes))
    for namespace in record.namespaces:
        if (ns.NETNS / namespace).exists():
            if is_director(namespace):
                unload(namespace)
            if unwraps(namespace):
                stop_unwrapping(namespace)
    ns.remove(record.namespaces)
    state.forget(record.name)


def is_director(namespace: str) -> bool:
    """Whether pylvs has pinned anything for a namespace: whoever plays with a lab may load it on any host."""
    try:
        from pylvs.datapath import instance  # a lab works, and goes down, without a packet path that is built
    except ImportError:
        return False
    with ns.entered(namespace):
        directory = instance.directory()
    return directory is not None and Path(directory).exists()


def unwraps(namespace: str) -> bool:
    """Whether pylvs has pinned anything there for a tunnel real server."""
    try:
        from pylvs.datapath import decap
    except ImportError:
        return False
    with ns.entered(namespace):
        return decap.pinned()


def unload(namespace: str) -> None:
    """Let pylvs remove its programs and maps: pinned, they would outlive the namespace."""
    _clean(namespace, ["unload"])


def stop_unwrapping(namespace: str) -> None:
    """The same for a tunnel real server's."""
    _clean(namespace, ["realserver", "stop"])


def _clean(namespace: str, words: list[str]) -> None:
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            ns.command(namespace, [*console_script("pylvs"), *words]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment(),
            timeout=20,
            check=False,
        )


def remove_orphans() -> list[str]:
    """Take down the labs whose owner died without doing so; returns their names."""
    removed = []
    for name in state.names():
        with suppress(LabError):
            record = state.load(name)
            if record.orphaned:
                take_down(record)
                removed.append(name)
    return removed
