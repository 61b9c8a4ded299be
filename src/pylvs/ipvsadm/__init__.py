"""`ipvsadm`, a drop-in: the original's grammar, output and exit codes around `pylvs.director.Director`.

options.py   the options as data, and popt's way of reading them
grammar.py   words -> Request;  addresses.py and numbers.py  their smallest parts
commands.py  Request -> Director;  daemon.py  the part of it about sync daemons
render.py    the listings;  order.py  their order;  names.py  their names
save.py      -S and -R
input.py     what ipvsadm-restore does with its input
messages.py  the words for refusals;  help.py  those of -h
"""

import os
import sys
from typing import TextIO


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
    """The `ipvsadm-restore` command: it begins with an empty table, and takes no notice of arguments."""
    raise SystemExit(_taking_input() or _run(["-C"]) or _run(["-R"]))


def _taking_input() -> int:
    from pylvs.ipvsadm import input as standard_input
    from pylvs.ipvsadm.messages import INTERNAL, INTERRUPTED

    try:
        standard_input.take()
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        _say(f"ipvsadm: {error}")
        return INTERNAL
    return 0


def _run(words: list[str]) -> int:
    from pylvs.ipvsadm.messages import BROKEN_PIPE, INTERNAL, INTERRUPTED

    try:
        from pylvs.ipvsadm.commands import Shell

        stdin, stdout, stderr = _streams()
        code = Shell(stdin, stdout, stderr, permitted=os.geteuid() == 0).run(words)
        stdout.flush()
        return code
    except BrokenPipeError:
        _forget_output()
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:  # a full disk behind stdout, or the like: nobody's bug
        _say(f"ipvsadm: {error}")
        _forget_output()
        return INTERNAL
    except Exception as error:
        _say(f"ipvsadm: internal error: {type(error).__name__}: {error}; please report it with the command line")
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


def _say(text: str) -> None:
    try:
        sys.stderr.write(text.replace("\n", " ") + "\n")
    except Exception:
        pass


def _forget_output() -> None:
    """Keeps the interpreter from complaining at its end that it cannot write what is still buffered."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError:
        pass
