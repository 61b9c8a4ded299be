"""Names of hosts and services, both ways.

A listing must not hang because a name server does: all the names of a listing
together get one second (`BUDGET`), then addresses are shown as numbers. Names on
the command line have longer (`PATIENCE`), for without an answer the command is
refused. Lookups run in threads because nothing else can leave a C library waiting
for an answer; a thread that waits does not keep the program from ending.
"""

import _socket
from _thread import LockType, allocate_lock, start_new_thread
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any

from pylvs.model import PROTOCOL_NAMES

BUDGET = 1.0  # seconds
PATIENCE = 10.0  # seconds in all that names on a command line, or in a restore, may stay without an answer
LEAST = 0.05  # seconds that each of them has even then: /etc/hosts answers at once
LAST = 100  # how many may have that, before no name is asked for any more
WORKERS = 16
CACHE_MAX = 65536  # a connection listing may show millions of clients


class Resolver:
    """What the C library answers; None for what it does not know."""

    def address_of(self, host: str) -> str | None:
        """The IPv4 address of a host: ipvsadm looks up no other."""
        if not host or host.startswith("<"):  # Python's own words for "any" and "broadcast"
            return None
        try:
            return _socket.gethostbyname(host)
        except (OSError, ValueError, TypeError):
            return None

    def host_at(self, address: str) -> str | None:
        try:
            return _socket.gethostbyaddr(address)[0]
        except (OSError, ValueError, TypeError):
            return None

    def port_of(self, service: str, protocol: str) -> int | None:
        try:
            return _socket.getservbyname(service, protocol)
        except (OSError, ValueError, TypeError):
            return None

    def service_at(self, port: int, protocol: str) -> str | None:
        try:
            return _socket.getservbyport(port, protocol)
        except (OSError, ValueError, TypeError, OverflowError):
            return None


class PatientResolver(Resolver):
    """Another resolver, for which nobody waits longer than it is worth.

    Time in which questions are answered counts for nothing: a restore with thousands of names takes its time.
    """

    def __init__(self, resolver: Resolver, patience: float | None = None, budget: float | None = None):
        self._resolver = resolver
        self._parsing = _Asker(PATIENCE if patience is None else patience, LAST)
        self._showing = _Asker(BUDGET if budget is None else budget, 0)

    def address_of(self, host: str) -> str | None:
        answer: str | None = self._parsing.ask(self._resolver.address_of, host)
        return answer

    def port_of(self, service: str, protocol: str) -> int | None:
        answer: int | None = self._parsing.ask(self._resolver.port_of, service, protocol)
        return answer

    def host_at(self, address: str) -> str | None:
        return self._resolver.host_at(address)  # `Names` asks for many at once, in threads of its own

    def service_at(self, port: int, protocol: str) -> str | None:
        answer: str | None = self._showing.ask(self._resolver.service_at, port, protocol)
        return answer


class Names:
    """Names for one run of ipvsadm, remembered.

    Args:
        numeric: show no names.
        budget: seconds that all host names together may take; None: `BUDGET`.
    """

    def __init__(self, resolver: Resolver | None = None, numeric: bool = False, budget: float | None = None):
        self._resolver = resolver or Resolver()
        self.numeric = numeric
        self._budget = BUDGET if budget is None else budget
        self._hosts: dict[str, str] = {}
        self._services: dict[tuple[int, int], str] = {}
        self._deadline: float | None = None

    def address_of(self, host: str) -> str | None:
        return self._resolver.address_of(host)

    def port_of(self, service: str, protocol: int) -> int | None:
        name = _service_protocol(protocol)
        return self._resolver.port_of(service, name) if name else None

    def endpoint(self, address: str, port: int, protocol: int) -> str:
        """host:service as listings show it, cut to the original's 59 characters."""
        if self.numeric:
            return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        host = self._hosts.get(address, address)
        if ":" in address:
            host = f"[{host}]"
        return f"{host}:{self._service(port, protocol)}"[:59]

    def learn(self, addresses: Iterable[str]) -> None:
        """Looks up the names of addresses that are about to be shown, as far as the time goes."""
        if self.numeric:
            return
        if len(self._hosts) > CACHE_MAX:
            self._hosts.clear()
        wanted = [address for address in dict.fromkeys(addresses) if address not in self._hosts]
        if self._deadline is None:
            self._deadline = monotonic() + self._budget
        left = self._deadline - monotonic()
        if wanted and left > 0:
            self._hosts.update(_Lookup(self._resolver, wanted).results(left))

    def _service(self, port: int, protocol: int) -> str:
        key = (port, protocol)
        text = self._services.get(key)
        if text is None:
            name = _service_protocol(protocol)
            text = (name and self._resolver.service_at(port, name)) or str(port)
            self._services[key] = text
        return text


class _Lookup:
    """Host names of a list of addresses, looked up side by side."""

    def __init__(self, resolver: Resolver, addresses: Sequence[str]):
        self._resolver = resolver
        self._pending = list(reversed(addresses))
        self._found: dict[str, str] = {}
        self._workers = min(WORKERS, len(addresses))
        self._guard: LockType = allocate_lock()
        self._done: LockType = allocate_lock()

    def results(self, timeout: float) -> dict[str, str]:
        """What is known when all have answered, or when the time is over."""
        self._done.acquire()
        for _ in range(self._workers):
            try:
                start_new_thread(self._work, ())
            except RuntimeError:  # no more threads here: those that started do the work
                with self._guard:
                    self._workers -= 1
        if self._workers:
            self._done.acquire(timeout=timeout)
        with self._guard:
            self._pending.clear()  # workers that still wait for an answer take no more
            return dict(self._found)

    def _work(self) -> None:
        while True:
            with self._guard:
                if not self._pending:
                    self._workers -= 1
                    if not self._workers and self._done.locked():
                        self._done.release()
                    return
                address = self._pending.pop()
            try:
                name = self._resolver.host_at(address)
            except Exception:
                name = None
            with self._guard:
                # An address without a name is remembered too, so as not to ask again.
                self._found[address] = name or address


class _Asker:
    """Asks in a thread of its own, one question after the other.

    Args:
        patience: seconds in all that may pass without an answer.
        last: how many questions have `LEAST` seconds when that is used up.
    """

    def __init__(self, patience: float, last: int):
        self._left, self._last = patience, last
        self._worker: _Worker | None = None

    def ask(self, question: Callable[..., Any], *arguments: object) -> Any:
        """The answer; None if there is none in time."""
        if self._left <= 0:
            self._last -= 1
            if self._last < 0:
                return None
        begun = monotonic()
        try:
            worker = self._worker or _Worker()
        except RuntimeError:  # no more threads here
            return question(*arguments)
        self._worker = worker
        if worker.ask(question, arguments, max(self._left, LEAST)):
            return worker.answer
        self._left -= monotonic() - begun
        self._worker = None  # it waits on, alone
        return None

    def __del__(self) -> None:
        if self._worker is not None:
            self._worker.dismiss()


class _Worker:
    """A thread that answers questions."""

    def __init__(self) -> None:
        self.answer: Any = None
        self._question: Callable[[], Any] | None = None
        self._asked, self._answered = allocate_lock(), allocate_lock()
        self._asked.acquire()
        self._answered.acquire()
        start_new_thread(self._work, ())

    def ask(self, question: Callable[..., Any], arguments: Sequence[object], timeout: float) -> bool:
        """Is there an answer in time?"""
        self._question = lambda: question(*arguments)
        self._asked.release()
        return self._answered.acquire(timeout=timeout)

    def dismiss(self) -> None:
        self._question = None
        self._asked.release()

    def _work(self) -> None:
        while True:
            self._asked.acquire()
            if self._question is None:
                return
            try:
                self.answer = self._question()
            except Exception:
                self.answer = None
            self._answered.release()


def _service_protocol(protocol: int) -> str:
    """The protocol's name in /etc/services; "" for those without services, like the IP of firewall marks."""
    name = PROTOCOL_NAMES.get(protocol, "").lower()
    return name if name in ("tcp", "udp", "sctp") else ""
