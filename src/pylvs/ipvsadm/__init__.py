"""`ipvsadm`, a drop-in: the original's grammar, output and exit codes around `pylvs.director.Director`.

options.py   the options as data, and popt's way of reading them
grammar.py   words -> Request;  addresses.py and numbers.py  their smallest parts
commands.py  Request -> Director;  daemon.py  the part of it about sync daemons
render.py    the listings;  order.py  their order;  names.py  their names
save.py      -S and -R
messages.py  the words for refusals;  help.py  those of -h

Beyond the original, and only for who asks for it:

documents.py what --json prints;  changes.py  what --dry-run does
rehearse.py  --dry-run and -R --atomic;  explain.py  the sentences of --explain
"""

import os
import sys
from typing import TextIO

INTERNAL, INTERRUPTED, BROKEN_PIPE = 70, 130, 141  # exit codes that the original does not have


def main() -> None:
    """The `ipvsadm` command."""
    raise SystemExit(_run(sys.argv[1:]))


def main_save() -> None:
    """The `ipvsadm-save` command."""
    from pylvs.ipvsadm.help import SAVE_USAGE
    from pylvs.ipvsadm.save import save_command

    words = save_command(sys.argv[1:])
    if words is None:
        sys.stderr.write(SAVE_USAGE)
        raise SystemExit(1)
    raise SystemExit(_run(words))


def main_restore() -> None:
    """The `ipvsadm-restore` command: it begins with an empty table, and takes no notice of arguments but ours."""
    ours = [word for word in sys.argv[1:] if word in ("--atomic", "--dry-run", "--json", "--explain")]
    if set(ours) - {"--explain"}:
        raise SystemExit(_run(["-R", *ours], replacing=True))
    raise SystemExit(_run(["-C", *ours]) or _run(["-R", *ours]))


def _run(words: list[str], replacing: bool = False) -> int:
    """Runs a command line; whatever happens, it ends in an exit code and at most a line about it."""
    try:
        from pylvs.ipvsadm.commands import Shell

        stdin, stdout, stderr = _streams()
        code = Shell(stdin, stdout, stderr, permitted=os.geteuid() == 0).run(words, replacing)
        stdout.flush()
        return code
    except BrokenPipeError:
        _forget_output()
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:  # a full disk behind stdout, or the like: nobody's bug
        _say("ipvsadm: {}", error)
        _forget_output()
        return INTERNAL
    except MemoryError:
        _say("ipvsadm: out of memory")
        return INTERNAL
    except Exception as error:
        _say("ipvsadm: internal error: {}: {}; please report it with the command line", type(error).__name__, error)
        _forget_output()
        return INTERNAL


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
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError:
        pass
