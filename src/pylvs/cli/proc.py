"""pylvs proc: the files that the kernel's IPVS has under /proc, for this network namespace's director."""

import argparse
import sys
from collections.abc import Iterable
from itertools import islice

from pylvs import proc
from pylvs.cli.parsing import Parser
from pylvs.director import Director
from pylvs.errors import InvalidValue

_LINES = 512  # written at once

_DESCRIPTION = f"""\
Print a file that the kernel's IPVS has under /proc, in its form, for programs
that read it. Without a name: which ones there are.

Timeouts in net/ip_vs are clock ticks. A kernel has 100, 250, 300 or 1000 of them
in a second; here it is {proc.HZ} unless --hz says otherwise.

  pylvs proc mount DIR       show all of them, and the sysctls, as files below DIR
"""
_EXAMPLES = (
    ("pylvs proc", "which files there are"),
    ("pylvs proc net/ip_vs", "services and real servers"),
    ("pylvs proc /proc/net/ip_vs_conn | wc -l", "how many connections, and a title"),
)
_MOUNT = """\
Show net/ip_vs, net/ip_vs_conn, ... and sys/net/ipv4/vs/* as files below a
directory, in the foreground, until SIGINT or SIGTERM. Sysctls can be written.
Needs FUSE: /dev/fuse, libfuse and mfusepy (pip install 'pylvs[fuse]').
"""
_MOUNT_EXAMPLES = (("pylvs proc mount /run/lvs & cat /run/lvs/net/ip_vs_stats", ""),)


def _parser() -> Parser:
    parser = Parser(prog="pylvs proc", description=_DESCRIPTION, examples=_EXAMPLES)
    parser.add_argument("name", nargs="?", metavar="NAME", help="such as net/ip_vs")
    _add_hz(parser)
    return parser


def _mount_parser() -> Parser:
    parser = Parser(prog="pylvs proc mount", description=_MOUNT, examples=_MOUNT_EXAMPLES)
    parser.add_argument("directory", metavar="DIR", help="an empty directory")
    _add_hz(parser)
    return parser


def parsers() -> list[Parser]:
    """For pylvs.cli.parsing."""
    return [_parser(), _mount_parser()]


def main(argv: list[str]) -> int:
    if argv[:1] == ["mount"]:
        return _mount(argv[1:])
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.name is None:
        print("\n".join(proc.FILES))
        return 0
    with Director() as director:
        try:
            lines = proc.lines(director, arguments.name, arguments.hz)
        except InvalidValue as error:
            parser.error(str(error))
        _print(lines)
    return 0


def _add_hz(parser: argparse.ArgumentParser) -> None:
    text = "clock ticks per second (default %(default)s)"
    parser.add_argument("--hz", type=_hz, default=proc.HZ, metavar="N", help=text)


def _hz(word: str) -> int:
    try:
        number = int(word)
    except ValueError:
        number = 0
    if not 1 <= number <= 10_000:
        raise argparse.ArgumentTypeError(f"'{word}' cannot be ticks per second; it may be 1 to 10000")
    return number


def _print(lines: Iterable[bytes]) -> None:
    sys.stdout.flush()
    out, rest = sys.stdout.buffer, iter(lines)
    while batch := list(islice(rest, _LINES)):
        batch.append(b"")
        out.write(b"\n".join(batch))
    out.flush()


def _mount(argv: list[str]) -> int:
    arguments = _mount_parser().parse_args(argv)
    from pylvs.cli.mount import mount

    mount(arguments.directory, arguments.hz)
    return 0
