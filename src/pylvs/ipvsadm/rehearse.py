"""Commands whose outcome is known before they are in force: `--dry-run`, and `-R --atomic`.

Both are played on a plan of the table (`Director.rehearsal`, `Director.transaction`), by the same code that runs a
command in earnest: what is refused there is refused here, in the same words and with the same exit code.
"""

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from pylvs.errors import LVSError
from pylvs.ipvsadm import messages, save
from pylvs.ipvsadm.changes import Table, between, line, table
from pylvs.ipvsadm.messages import MISUSE, OK, Exit, Refused, misuse

if TYPE_CHECKING:
    from pylvs.ipvsadm.commands import Shell
    from pylvs.ipvsadm.grammar import Request

Step = tuple["Request | Refused | Exit", save.Line]


def command(shell: "Shell", request: "Request") -> None:
    """Rehearse one command and print what it would change."""
    shell.plan = shell.director.rehearsal()
    try:
        before = _table(shell.plan)
        shell.obey(request)
        _print(shell, request, before)
    finally:
        shell.plan = None


def restore(shell: "Shell", request: "Request", replacing: bool) -> int:
    """Restore atomically, or rehearse it; returns the exit code.

    Args:
        replacing: the restore begins with an empty table.
    """
    director = shell.open() if shell.director is None else shell.director
    atomic, dry = request.has("atomic"), request.has("dry-run")
    # All of the input is there before anybody's lock is held.
    steps = _steps(shell) if atomic else []
    try:
        with director.transaction() if atomic and not dry else nullcontext(director.rehearsal()) as plan:
            shell.plan = plan
            before = _table(plan) if dry else None
            if replacing:
                plan.flush()
            try:
                result = _play(shell, steps) if atomic else _follow(shell)
            except Exit:
                if before and not atomic:
                    _print(shell, request, before)  # of what came before the line that ends it
                raise
            if before:
                _print(shell, request, before)
    except LVSError as error:
        shell.plan = None
        raise Refused(messages.refusal("restore", error), str(error)) from None
    finally:
        shell.plan = None
    return result


def _steps(shell: "Shell") -> list[Step]:
    """The lines of the input as requests, up to the first that is none."""
    steps: list[Step] = []
    for text in save.lines(shell.stdin):
        try:
            request = shell.parse(text.words, True)
            steps.append((request, text._replace(words=[])))  # a hundred thousand lines may follow
        except (Refused, Exit) as fault:
            if isinstance(fault, Exit) and not fault.error:
                fault = misuse("this would end the restore here, and has no place in an atomic one")
            steps.append((fault, text))
            break
    return steps


def _play(shell: "Shell", steps: list[Step]) -> int:
    """All of the lines, or an Exit at the first that is refused."""
    for step, text in steps:
        try:
            if isinstance(step, (Refused, Exit)):
                raise step
            shell.obey(step)
        except (Refused, Exit) as fault:
            try:
                code = shell.report(fault, save.words(text.text), text)
            except Exit as end:
                code = end.code or MISUSE
            shell.complain("nothing was changed")
            raise Exit(code) from None
    return OK


def _follow(shell: "Shell") -> int:
    """Every line, whatever became of those before it, as a restore does it in earnest."""
    result = OK
    for text in save.lines(shell.stdin):
        result = shell.execute(text.words, text)
    return result


def _table(plan: Any) -> Table:
    return table(plan.services(), plan.timeouts())


def _print(shell: "Shell", request: "Request", before: Table) -> None:
    found = between(before, _table(shell.plan), shell.plan.zeroed)
    if request.has("json"):
        from pylvs.ipvsadm.documents import changes

        shell.print(changes(found))
    else:
        shell.print(map(line, found))
