"""`ipvsadm`, a drop-in: the original's grammar, output and exit codes around `pylvs.director.Director`.

options.py   the options as data, and popt's way of reading them
grammar.py   words -> Request;  addresses.py and numbers.py  their smallest parts
commands.py  Request -> Director;  daemon.py  the part of it about sync daemons
render.py    the listings;  order.py  their order;  names.py  their names
save.py      -S and -R
input.py     what ipvsadm-restore does with its input
messages.py  the words for refusals;  help.py  those of -h

Beyond the original, and only for who asks for it:

documents.py what --json prints;  changes.py  what --dry-run does
rehearse.py  --dry-run and -R --atomic;  explain.py  the sentences of --explain
"""

import os
import sys
from collections.abc import Callable
from typing import TextIO

INTERNAL, INTERRUPTED, BROKEN_PIPE = 70, 130, 141  # exit codes that the original does not have


def main() -> None:
    """The `ipvsadm` command."""
    raise SystemExit(_guarded(lambda: _run(sys.argv[1:])))


def main_save() -> None:
    """The `ipvsadm-save` command."""
    raise SystemExit(_guarded(lambda: _save(sys.argv[1:])))


def main_restore() -> None:
    """The `ipvsadm-restore` command: it begins with an empty table, and takes no notice of arguments but ours."""
    raise SystemExit(_guarded(lambda: _restore(sys.argv[1:])))


def _run(words: list[str], replacing: bool = False) -> int:
    from pylvs.ipvsadm.commands import Shell

    stdin, stdout, stderr = _streams()
    code = Shell(stdin, stdout, stderr, permitted=os.geteuid() == 0).run(words, replacing)
    stdout.flush()
    return code


def _save(words: list[str]) -> int:
    from pylvs.ipvsadm.help import SAVE_USAGE
    from pylvs.ipvsadm.save import save_command

    command = save_command(words)
    if command is None:
        sys.stderr.write(SAVE_USAGE)
        return 1
    return _run(command)


def _restore(words: list[str]) -> int:
    from pylvs.ipvsadm import input as standard_input

    standard_input.take()
    ours = [word for word in words if word in ("--atomic", "--dry-run", "--json", "--explain")]
    if set(ours) - {"--explain"}:
        return _run(["-R", *ours], replacing=True)
    return _run(["-C", *ours]) or _run(["-R", *ours])


def _guarded(work: Callable[[], int]) -> int:
    """Runs a command; whatever happens, it ends in an exit code and at most a line about it."""
    try:
        code = work()
    except BrokenPipeError:
        code = BROKEN_PIPE
    except KeyboardInterrupt:
        code = INTERRUPTED
    except OSError as error:  # a full disk behind stdout, or the like: nobody's bug
        _say("ipvsadm: {}", error)
        code = INTERNAL
    except MemoryError:
        _say("ipvsadm: out of memory")
        code = INTERNAL
    except Exception as error:
        _say("ipvsadm: internal error: {}: {}; please report it with the command line", type(error).__name__, error)
        code = INTERNAL
    _forget_output()
    return code


def _streams() -> tuple[TextIO, TextIO, TextIO]:
    """The standard streams, passing on bytes that are not UTF-8 as they are; any of them may have been closed."""
    streams = [sys.stdin, sys.stdout, sys.stderr]
    for number, stream in enumerate(streams):
        if stream is None:
            streams[number] = open(os.devnull, "r" if number == 0 else "w")  # noqa: SIM115 - open until the end
        elif hasattr(stream, "reconfigure"):
            # A carriage return alone does not end a line of a restore.
            stream.reconfigure(errors="surrogateescape", newline="\n")
    return streams[0], streams[1], streams[2]


def _say(text: str, *arguments: object) -> None:
    try:
        sys.stdout.flush()  # what was listed before it
    except Exception:
        pass
    try:
        sys.stderr.write(text.format(*arguments).replace("\n", " ") + "\n")
        sys.stderr.flush()
    except Exception:
        pass


def _forget_output() -> None:
    """Keeps the interpreter from complaining at its end that it cannot write what is still buffered."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            if stream is not None:
                stream.flush()
        except Exception:
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            except OSError:
                pass
