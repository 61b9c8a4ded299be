"""Doing what a request asks for: each command is a few lines around the director."""

import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TextIO

from pylvs.errors import InvalidValue, LVSError, NoSuchService
from pylvs.ipvsadm import daemon, messages, render, save
from pylvs.ipvsadm.grammar import Request, parse
from pylvs.ipvsadm.messages import MISUSE, NOT_LISTED, OK, REFUSED, Exit, Refused, try_help
from pylvs.ipvsadm.names import Names, PatientResolver, Resolver
from pylvs.model import DEFAULT_SCHEDULER, RealServer, VirtualService, real_server, virtual_service

if TYPE_CHECKING:
    from pylvs.director import Director
    from pylvs.ipvsadm.save import Line

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
        self._resolver = PatientResolver(resolver or Resolver())
        self._permitted = permitted
        self._words: Sequence[str] = ()
        self.plan: Any = None  # what stands in for the director while a command is rehearsed

    def run(self, words: Sequence[str], replacing: bool = False) -> int:
        """Runs the command line `words` (without the program's name); returns the exit code.

        Args:
            replacing: a restore begins with an empty table.
        """
        self._words = words
        try:
            if not self._permitted:
                self.open()
            return self.execute(words, replacing=replacing)
        except Exit as end:
            if end.error:
                self.complain(end.error)
            return end.code
        finally:
            if self._director is not None:
                self._director.close()
                self._director = None

    def execute(self, words: Sequence[str], line: "Line | None" = None, replacing: bool = False) -> int:
        """Runs one command line; `line`: the one of a restore that it is."""
        try:
            request = self.parse(words, line is not None)
            if request.command == "restore":
                return self.restore(request, replacing)
            self.obey(request)
        except (Refused, Exit) as fault:
            return self.report(fault, words, line)
        return OK

    def parse(self, words: Sequence[str], restoring: bool) -> Request:
        request = parse(words, Names(self._resolver), not restoring) if words else Request("list")
        if restoring and request.command == "restore":
            raise try_help()
        return request

    def restore(self, request: Request, replacing: bool) -> int:
        """Runs every line of standard input; the last one's outcome is the restore's."""
        if request.has("atomic") or request.has("dry-run"):
            from pylvs.ipvsadm import rehearse

            return rehearse.restore(self, request, replacing)
        result = OK
        if self._director is None:
            self.open()  # what cannot work is said before input is waited for
        for line in save.lines(self.stdin):
            result = self.execute(line.words, line)
        return result

    def obey(self, request: Request) -> None:
        try:
            if request.has("dry-run") and self.plan is None:
                from pylvs.ipvsadm import rehearse

                rehearse.command(self, request)
            else:
                _COMMANDS[request.command](self, request)
        except NoSuchService as error:
            if request.command == "list":
                raise Exit(NOT_LISTED, messages.NO_SERVICE, reason=str(error)) from None
            raise Refused(messages.refusal(request.command, NoSuchService("")), str(error)) from None
        except LVSError as error:
            raise Refused(messages.refusal(request.command, error), str(error)) from None

    def report(self, fault: Refused | Exit, words: Sequence[str], line: "Line | None" = None) -> int:
        """Says what is wrong with a command line, and more of it where somebody wants to know.

        Returns:
            The exit code, if others may follow.

        Raises:
            Exit: it ends the program; all is said.
        """
        if isinstance(fault, Exit):
            self.stdout.write(fault.output)
        if fault.error:
            self.complain(fault.error)
            explaining = "--explain" in self._words and self._explaining()
            if line is not None and (explaining or self.plan is not None):
                self.complain(f"line {line.number}: {line.shown}")
            if explaining:
                from pylvs.ipvsadm.explain import explanation

                text = explanation(fault.error, words, fault.reason)
                if text:
                    self.complain(text)
        if isinstance(fault, Exit):
            raise Exit(fault.code)
        return REFUSED

    def _explaining(self) -> bool:
        """Is `--explain` there as an option, and not as some option's argument?"""
        from pylvs.ipvsadm.explain import given

        return any(name == "explain" for name, _ in given(self._words))

    @property
    def director(self) -> Any:
        if self.plan is not None:
            return self.plan
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
        try:
            self.stderr.write(text + "\n")
        except BrokenPipeError:
            raise
        except OSError:
            pass  # nobody can be told; what was done stays done, and the exit code tells


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
    if request.has("json"):
        _list_json(shell, request)
        return
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


def _list_json(shell: Shell, request: Request) -> None:
    from pylvs.ipvsadm import documents

    director = shell.director
    if request.has("connection"):
        shell.print(documents.connections(director.connections()))
    elif request.has("timeout"):
        shell.print(documents.timeouts(director.timeouts()))
    elif request.has("daemon"):
        shell.print(documents.daemons(daemon.running(director)))
    else:
        one = request.has("service-address")
        entries = [director.service(service_of(request))] if one else director.services()
        shell.print(documents.services(entries, director.table_size, not request.has("nosort")))


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
