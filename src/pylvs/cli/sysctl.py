"""pylvs sysctl: what sysctl(8) does for the kernel's net.ipv4.vs, for this network namespace's director."""

import argparse
import errno
import os
import re
import sys
from collections.abc import Iterator
from typing import NamedTuple

from pylvs import sysctl
from pylvs.cli.parsing import Parser
from pylvs.director import Director
from pylvs.errors import InvalidValue, LVSError, NoSuchSysctl

DEFAULT_FILE = "/etc/sysctl.conf"

_DESCRIPTION = """\
Read and write the sysctls of this network namespace's director: the names under
net.ipv4.vs, with the kernel's defaults and the kernel's ideas of what may be
written. Options, output and exit codes are those of sysctl(8). The prefix
net.ipv4.vs. may be left out.

Reading starts no director; without one, it shows what one would begin with.
"""
_EXAMPLES = (
    ("pylvs sysctl -a", "all of them"),
    ("pylvs sysctl net.ipv4.vs.drop_entry", "one; drop_entry will do"),
    ("pylvs sysctl drop_entry=1 secure_tcp=1", "set two"),
    ("pylvs sysctl --atomic drop_entry=1 conn_max=100000", "both or none"),
    ("pylvs sysctl -p /etc/sysctl.d/60-lvs.conf", "what stands in a file"),
    ("pylvs sysctl --explain drop_entry", "what it means, its default, its range"),
)
_EXITS = {1: "a name that is not there, a value that is refused, or nothing asked for"}


class Wish(NamedTuple):
    """One word of the command line, or one line of a file.

    Attributes:
        name: as it was written.
        value: None to read it.
        forgiving: no complaint if there is no such name ("-name" in a file).
    """

    name: str
    value: str | None = None
    forgiving: bool = False


def _parser() -> Parser:
    parser = Parser(prog="pylvs sysctl", description=_DESCRIPTION, examples=_EXAMPLES, exits=_EXITS)
    parser.add_argument("words", nargs="*", metavar="NAME[=VALUE]", help="what to read or to set; with -p: files")
    parser.add_argument("-a", "--all", "-A", "-X", action="store_true", help="show all")
    parser.add_argument("-w", "--write", action="store_true", help="every word has to be NAME=VALUE")
    parser.add_argument("-n", "--values", action="store_true", help="show values without names")
    parser.add_argument("-N", "--names", action="store_true", help="show names without values")
    parser.add_argument("-b", "--binary", action="store_true", help="show values without names and newlines")
    parser.add_argument("-e", "--ignore", action="store_true", help="do not complain of unknown names")
    parser.add_argument("-q", "--quiet", action="store_true", help="do not show what is set")
    parser.add_argument(
        "-p", "-f", "--load", action="store_true",
        help=f"read files of lines NAME = VALUE, as {DEFAULT_FILE}, which is read if none is given; - is standard "
        "input. Names outside net.ipv4.vs are the kernel's, and passed over",
    )  # fmt: skip
    parser.add_argument("-r", "--pattern", metavar="PATTERN", help="only names that this regular expression finds")
    parser.add_argument("--dry-run", action="store_true", help="show what would be set, and set nothing")
    own = parser.add_argument_group("what sysctl(8) has not")
    own.add_argument("--atomic", action="store_true", help="set everything, or if anything is refused nothing")
    own.add_argument("--explain", action="store_true", help="say what the names mean, their default, their range")
    return parser


def parsers() -> list[Parser]:
    """For pylvs.cli.parsing."""
    return [_parser()]


def main(argv: list[str]) -> int:
    parser = _parser()
    # sysctl(8) has the file behind -p, and allows --load=FILE
    arguments = parser.parse_args([part for word in argv for part in _split(word)])
    if arguments.explain:
        return _explain(arguments.words)
    failed, wishes = False, []
    if arguments.all:
        wishes = [Wish(name) for name in sysctl.NAMES]
    elif arguments.load:
        for path in arguments.words or [DEFAULT_FILE]:
            failed |= not _read_file(path, wishes)
    elif not arguments.words:
        if arguments.write:
            print("pylvs sysctl: no variables specified\nTry `pylvs sysctl --help' for more.", file=sys.stderr)
        else:
            parser.print_help(sys.stderr)
        return 1
    for place, word in enumerate(arguments.words if not (arguments.all or arguments.load) else ()):
        name, equals, value = word.partition("=")
        if arguments.write and not equals:
            print(f"pylvs sysctl: command line({place}): invalid syntax, continuing...", file=sys.stderr)
            failed = True
        else:
            wishes.append(Wish(name, value if equals else None))
    if arguments.pattern is not None:
        try:
            wishes = _matching(wishes, arguments.pattern)
        except InvalidValue as error:
            parser.error(str(error))
    with Director() as director:
        return int(not _Session(director, arguments).run(wishes) or failed)


def _split(word: str) -> list[str]:
    return ["--load", word.removeprefix("--load=")] if word.startswith("--load=") else [word]


def _matching(wishes: list[Wish], pattern: str) -> list[Wish]:
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise InvalidValue(f"'{pattern}' is no regular expression: {error}") from None
    return [wish for wish in wishes if wanted.search(_full(wish.name))]


def _full(name: str) -> str:
    return sysctl.PREFIX + name.replace("/", ".").removeprefix(sysctl.PREFIX)


def _read_file(path: str, wishes: list[Wish]) -> bool:
    """Add a file's lines to the wishes; False if there was something wrong with it."""
    try:
        if path == "-":
            text = sys.stdin.read()
        else:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                text = file.read()
    except OSError as error:
        print(f'pylvs sysctl: cannot open "{path}": {os.strerror(error.errno or 0)}', file=sys.stderr)
        return False
    good = True
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line[0] in "#;":
            continue
        name, equals, value = line.partition("=")
        forgiving = name.startswith("-")
        name = name.removeprefix("-").strip()
        if not equals and forgiving:
            continue  # in files it keeps a pattern from matching
        if not equals:
            print(f"pylvs sysctl: {path}({number}): invalid syntax, continuing...", file=sys.stderr)
            good = False
        elif name.replace("/", ".").startswith(sysctl.PREFIX):
            wishes.append(Wish(name, value.strip(), forgiving))
    return good


class _Session:
    """What one command reads and writes, and how it says so."""

    def __init__(self, director: Director, options: argparse.Namespace):
        self._director = director
        self._options = options

    def run(self, wishes: list[Wish]) -> bool:
        """True if all went well."""
        if self._options.atomic and not self._check(wishes):
            return False
        together = {}
        if self._options.atomic and not self._options.dry_run:
            for wish in wishes:
                if wish.value is not None and self._known(wish):
                    together[wish.name] = _written(wish.value)
            if together:
                self._director.set_sysctls(together)
        good = True
        for wish in wishes:
            try:
                name = sysctl.find(wish.name).name
                value = wish.value
                if value is None:
                    value = self._director.sysctl(name)
                elif self._options.dry_run:
                    self._director.check_sysctls({name: _written(value)})
                elif not self._options.atomic:
                    self._director.set_sysctl(name, _written(value))
                self._show(name, value, wish.value is not None)
            except LVSError as error:
                good &= self._complain(wish, error)
        return good

    def _known(self, wish: Wish) -> bool:
        try:
            sysctl.find(wish.name)
        except NoSuchSysctl:
            return False
        return True

    def _check(self, wishes: list[Wish]) -> bool:
        """Say what of all this would be refused."""
        good = True
        for wish in wishes:
            try:
                name = sysctl.find(wish.name).name
                if wish.value is not None:
                    self._director.check_sysctls({name: _written(wish.value)})
            except LVSError as error:
                good &= self._complain(wish, error)
        if not good:
            print("pylvs sysctl: nothing was set", file=sys.stderr)
        return good

    def _complain(self, wish: Wish, error: LVSError) -> bool:
        """Tell of an error; True if it does not count."""
        if isinstance(error, NoSuchSysctl):
            if self._options.ignore or wish.forgiving:
                return True
            path = wish.name.replace(".", "/")
            if not path.startswith("net/"):
                path = f"net/ipv4/vs/{path}"
            said = f"cannot stat /proc/sys/{path}: {os.strerror(errno.ENOENT)}"
            if not path.startswith("net/ipv4/vs/"):
                said += " here: only names under net.ipv4.vs are the director's; use sysctl(8)"
        elif isinstance(error, InvalidValue):
            said = f'setting key "{_full(wish.name)}": {os.strerror(error.errno)}: {error}'
        else:
            raise error
        print(f"pylvs sysctl: {said}", file=sys.stderr)
        return False

    def _show(self, name: str, value: str, written: bool) -> None:
        options = self._options
        if written and options.quiet:
            return
        if options.names:
            print(sysctl.PREFIX + name)
        elif options.binary:
            print(value, end="")
        elif options.values:
            print(value)
        else:
            print(f"{sysctl.PREFIX}{name} = {value}")


def _written(value: str) -> str:
    """What sysctl(8) writes for a value: with a newline behind it, so that nothing at all is no value."""
    return value + "\n"


def _explain(names: list[str]) -> int:
    chosen = [sysctl.find(name) for name in names] or list(sysctl.ALL)
    print("\n\n".join("\n".join(_explanation(one)) for one in chosen))
    return 0


def _explanation(one: sysctl.Sysctl) -> Iterator[str]:
    import textwrap

    yield sysctl.PREFIX + one.name
    wrap = textwrap.TextWrapper(width=80, initial_indent="  ", subsequent_indent=" " * 11, break_on_hyphens=False)
    yield from wrap.wrap(f"meaning  {one.meaning}")
    if one.here:
        yield from wrap.wrap(f"here     {one.here}")
    default = one.default.replace("\t", " ") or "depends on the machine"
    yield from wrap.wrap(f"default  {default}")
    yield from wrap.wrap(f"may be   {one.accepted} ({one.unit})")
    yield f"  kernel   {'Documentation/networking/ipvs-sysctl.rst' if one.document else 'not in its documents'}"
