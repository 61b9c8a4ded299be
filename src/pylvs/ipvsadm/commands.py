"""Doing what a request asks for: each command is a few lines around the director."""

import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TextIO

from pylvs.errors import InvalidValue, LVSError, NoSuchService
from pylvs.ipvsadm import daemon, messages, render, save
from pylvs.ipvsadm.grammar import Request, parse
from pylvs.ipvsadm.messages import MISUSE, NOT_LISTED, OK, REFUSED, Exit, Refused, try_help
from pylvs.ipvsadm.names import Names, Resolver
from pylvs.model import DEFAULT_SCHEDULER, RealServer, VirtualService, real_server, virtual_service

if TYPE_CHECKING:
    from pylvs.director import Director

LINES = 512  # written at once


def open_director() -> "Director":
    from pylvs.director import Director  # only now: a mistyped option needs no eBPF

    return Director()


class Shell:
    """One run of ipvsadm: where it reads and writes, and the director, opened when it is first needed.

    Args:
        director: makes the director.
        permitted: whether this user may use it at all, as far as that can be known without opening it. ipvsadm
            looks at that before it looks at the command line.
    """

    def __init__(
        self,
        stdin: Iterable[str] = (),
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        director: Callable[[], Any] = open_director,
        resolver: Resolver | None = None,
        permitted: bool = True,
    ):
        self.stdin = stdin
        self.stdout = stdout or sys.stdout
        self.stderr = stderr or sys.stderr
        self._open_director = director
        self._director: Any = None
        self._resolver = resolver
        self._permitted = permitted

    def run(self, words: Sequence[str]) -> int:
        """Runs the command line `words` (without the program's name); returns the exit code."""
        try:
            if not self._permitted:
                self.open()
            return self.execute(words)
        except Exit as end:
            self.stdout.write(end.output)
            if end.error:
                self.complain(end.error)
            return end.code
        finally:
            if self._director is not None:
                self._director.close()
                self._director = None

    def execute(self, words: Sequence[str], restoring: bool = False) -> int:
        """Runs one command line of possibly many."""
        try:
            request = parse(words, Names(self._resolver)) if words else Request("list")
            if request.command == "restore":
                if restoring:
                    raise try_help()
                return self.restore()
            self.obey(request)
        except Refused as error:
            self.complain(str(error))
            return REFUSED
        return OK

    def restore(self) -> int:
        """Runs every line of standard input; the last one's outcome is the restore's."""
        result = OK
        if self._director is None:
            self.open()  # what cannot work is said before input is waited for
        for line in self.stdin:
            words = save.words(line)
            if words:
                result = self.execute(words, restoring=True)
        return result

    def obey(self, request: Request) -> None:
        try:
            _COMMANDS[request.command](self, request)
        except NoSuchService:
            if request.command == "list":
                raise Exit(NOT_LISTED, messages.NO_SERVICE) from None
            raise Refused(messages.refusal(request.command, NoSuchService(""))) from None
        except LVSError as error:
            raise Refused(messages.refusal(request.command, error)) from None

    @property
    def director(self) -> Any:
        return self.open() if self._director is None else self._director

    def open(self) -> Any:
        try:
            self._director = self._open_director()
        except LVSError as error:
            raise Exit(MISUSE, messages.cannot_initialize(error)) from None
        return self._director

    def names(self, request: Request) -> Names:
        return Names(self._resolver, numeric=request.has("numeric"))

    def print(self, lines: Iterable[str]) -> None:
        rest = iter(lines)
        while True:
            batch = list(islice(rest, LINES))
            if not batch:
                return
            batch.append("")
            self.stdout.write("\n".join(batch))

    def complain(self, text: str) -> None:
        self.stderr.write(text + "\n")


def service_of(request: Request) -> VirtualService:
    """The virtual service of a request, with all its parameters."""
    return virtual_service(
        request.address,
        request.port,
        protocol=request.protocol,
        fwmark=request.fwmark,
        family=request.family,
        scheduler=request.scheduler or DEFAULT_SCHEDULER,
        scheduler_flags=request.scheduler_flags,
        persistent=request.persistent,
        netmask=request.netmask,
        persistence_engine=request.engine,
        one_packet=request.has("ops"),
    )


def server_of(request: Request) -> RealServer:
    return real_server(
        request.server_address,
        request.server_port,
        method=request.method,
        weight=request.weight,
        upper=request.upper,
        lower=request.lower,
        tun_type=request.tun_type,
        tun_port=request.tun_port,
        tun_flags=request.tun_flags,
    )


def _list(shell: Shell, request: Request) -> None:
    director, names = shell.director, shell.names(request)
    if request.has("connection"):
        shell.print(render.connections(director.connections(), request.has("persistent-conn"), names))
    elif request.has("timeout"):
        shell.print([render.timeouts(director.timeouts())])
    elif request.has("daemon"):
        shell.print(render.daemons(daemon.running(director)))
    else:
        if request.has("service-address"):
            entries = [director.service(service_of(request))]
        else:
            shell.print([render.version_line(director.table_size)])
            entries = director.services()
        kind = render.kind_of(request.given)
        shell.print(render.services(entries, kind, request.has("exact"), not request.has("nosort"), names))


def _save(shell: Shell, request: Request) -> None:
    shell.print(save.rules(shell.director.services(), shell.names(request)))


def _add_service(shell: Shell, request: Request) -> None:
    shell.director.add_service(service_of(request))


def _edit_service(shell: Shell, request: Request) -> None:
    shell.director.edit_service(service_of(request))


def _delete_service(shell: Shell, request: Request) -> None:
    shell.director.delete_service(service_of(request))


def _flush(shell: Shell, _request: Request) -> None:
    shell.director.flush()


def _zero(shell: Shell, request: Request) -> None:
    shell.director.zero(service_of(request) if request.has("service-address") else None)


def _with_server(shell: Shell, request: Request, action: Callable[[VirtualService, RealServer], None]) -> None:
    key = service_of(request)
    try:
        server = server_of(request)
    except InvalidValue:
        shell.director.service(key)  # a service that is not there is the greater fault
        raise
    action(key, server)


def _add_server(shell: Shell, request: Request) -> None:
    _with_server(shell, request, shell.director.add_destination)


def _edit_server(shell: Shell, request: Request) -> None:
    _with_server(shell, request, shell.director.edit_destination)


def _delete_server(shell: Shell, request: Request) -> None:
    _with_server(shell, request, shell.director.delete_destination)


def _set(shell: Shell, request: Request) -> None:
    shell.director.set_timeouts(request.timeouts)


def _start_daemon(shell: Shell, request: Request) -> None:
    daemon.start(shell.director, request.daemon)


def _stop_daemon(shell: Shell, request: Request) -> None:
    daemon.stop(shell.director, request.daemon.role)


_COMMANDS: dict[str, Callable[[Shell, Request], None]] = {
    "list": _list,
    "save": _save,
    "add-service": _add_service,
    "edit-service": _edit_service,
    "delete-service": _delete_service,
    "flush": _flush,
    "zero": _zero,
    "add-server": _add_server,
    "edit-server": _edit_server,
    "delete-server": _delete_server,
    "set": _set,
    "start-daemon": _start_daemon,
    "stop-daemon": _stop_daemon,
}
