"""What can be completed, as data: from the tables and parsers that the programs themselves read.

A program has nodes: what may be typed once a command is known. A shell's script (shells.py) finds the node of a command
line, offers what that node has, and asks `ipvsadm -Sn` for services and real servers.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pylvs import proc, sysctl
from pylvs.cli import COMMANDS
from pylvs.cli.parsing import Parser, every_parser
from pylvs.ipvsadm import help as texts
from pylvs.ipvsadm import options
from pylvs.lab.topologies import TOPOLOGIES
from pylvs.protocols import timeouts
from pylvs.schedulers import NAMES, NONE

NO, YES, MAYBE = range(3)
"""Does an option take an argument?"""

LISTS: dict[str, tuple[str, ...]] = {
    "scheduler": (*NAMES, NONE),
    "flags": ("sh-fallback", "sh-port", "mh-fallback", "mh-port"),
    "tunnel": tuple(options.TUNNEL_ALLOWED),
    "role": ("master", "backup"),
    "engine": ("sip",),
    "sysctl": tuple(sysctl.NAMES),
    "timeout": tuple(f"{protocol}.{state}=" for protocol, state in timeouts.PLACES),
    "state": tuple(dict.fromkeys(state for _, state in timeouts.PLACES)),
    "proc": tuple(proc.FILES),
    "protocol": ("tcp", "udp", "sctp"),
    "topology": tuple(TOPOLOGIES),
}
"""Kinds of words that are known when this is made."""
ASKED = ("service", "server", "endpoint", "rip", "interface", "file", "directory")
"""Kinds that are looked up when somebody types: virtual services and real servers in the words of ipvsadm and in those
of `pylvs conns`, and what the machine has."""

_ARGUMENTS = {
    "scheduler": "scheduler",
    "sched-flags": "flags",
    "tcp-service": "service",
    "udp-service": "service",
    "sctp-service": "service",
    "fwmark-service": "service",
    "real-server": "server",
    "tun-type": "tunnel",
    "start-daemon": "role",
    "stop-daemon": "role",
    "mcast-interface": "interface",
    "pe": "engine",
}
GROUPS = {
    "service-address": ("tcp-service", "udp-service", "sctp-service", "fwmark-service", "ipv6"),
    "forwarding-method": ("masquerading", "gatewaying", "ipip"),
    "nosort": ("nosort", "sort"),
}
"""Options that options.ALLOWED has under one name."""
# of pylvs: by command and argument, else by argument
_WORDS = {
    "conns --service": "endpoint",
    "conns flush --service": "endpoint",
    "--rip": "rip",
    "--state": "state",
    "--proto": "protocol",
    "--in": "interface",
    "--dev": "interface",
    "--root": "directory",
    "--prefix": "directory",
    "interface": "interface",
    "directory": "directory",
    "mark import file": "file",
    "proc name": "proc",
    "sysctl words": "sysctl",
    "timeouts assignments": "timeout",
    "lab show name": "topology",
}


class Option(NamedTuple):
    """An option: its spellings, whether it takes an argument, of what kind, and what it is for."""

    spellings: tuple[str, ...]
    takes: int
    kind: str
    text: str


class Node(NamedTuple):
    """What may be typed behind a command; `below` are the words that lead on, `words` the kind of other words."""

    name: str
    below: tuple[tuple[str, str], ...]
    options: tuple[Option, ...]
    words: str = ""


class Program(NamedTuple):
    """A program. `commands`: does the node come from an option (ipvsadm), not from words (pylvs)?"""

    name: str
    nodes: tuple[Node, ...]
    by_option: bool


def programs() -> list[Program]:
    """All programs that are completed."""
    save = Option(("-n",), NO, "", "numeric output of addresses and ports")
    said = descriptions()
    restore = tuple(_option(name, said.get(name, name)) for name in options.EXTENSIONS)
    return [
        Program("ipvsadm", tuple(_ipvsadm()), True),
        Program("ipvsadm-save", (Node("", (), (save,)),), False),
        Program("ipvsadm-restore", (Node("", (), restore),), False),
        Program("pylvs", tuple(_pylvs()), False),
    ]


# ---- ipvsadm --------------------------------------------------------------------------------------------------------


def descriptions() -> dict[str, str]:
    """What `ipvsadm -h` says of each option, in a few words."""
    found = {"version": "display the version"}
    for line in (texts.USAGE + texts.EXTENSIONS_USAGE).splitlines():
        if match := re.match(r"  --([\w-]+)", line):
            found[match[1]] = re.split(r"\s{2,}", line.strip())[-1].rstrip(",;")
    return found


def _ipvsadm() -> Iterator[Node]:
    said = descriptions()
    known = {name: _option(name, said.get(name, name)) for name in options.OPTIONS | options.EXTENSIONS}
    yield Node("", (), tuple(known[name] for name in options.COMMANDS))
    for command, internal in options.COMMANDS.items():
        allowed: list[str] = []
        for rule in (*options.ALLOWED.get(internal, "").split(), *options.EXTENSIONS_ALLOWED.get(internal, "").split()):
            name = rule.lstrip("+1")
            allowed += GROUPS.get(name, (name,))
        yield Node(command, (), tuple(known[name] for name in allowed))


def _option(name: str, text: str) -> Option:
    letters, argument = (options.OPTIONS | options.EXTENSIONS)[name]
    takes = {options.FLAG: NO, options.REQUIRED: YES, options.OPTIONAL: MAYBE}[argument]
    spellings = (*(f"-{letter}" for letter in letters), f"--{name}")
    return Option(spellings, takes, _ARGUMENTS.get(name, ""), text)


# ---- pylvs ----------------------------------------------------------------------------------------------------------


def _pylvs() -> Iterator[Node]:
    helping = Option(("-h", "--help"), NO, "", "show what it is for")
    version = Option(("-V", "--version"), NO, "", "show the version")
    parsers = every_parser()
    below = [(name, what) for name, (_, what) in COMMANDS.items()]
    yield Node("", (*below, ("help", "what a command is for")), (helping, version))
    yield Node("help", tuple(below), ())
    for name, parser in parsers.items():
        # conns flush and proc mount have parsers of their own, beside those of conns and proc
        inside = parser.subcommand_purposes() | {
            other.removeprefix(f"{name} "): _first_line(parsers[other])
            for other in parsers
            if other.startswith(f"{name} ") and other.removeprefix(f"{name} ") not in parser.subcommands()
        }
        offered = tuple(_parsed(name, parser, action) for action in parser.options())
        yield Node(name, tuple(inside.items()), (helping, *offered), _kind_of_words(name, parser))


def _first_line(parser: Parser) -> str:
    return " ".join((parser.description or "").split()).partition(". ")[0].rstrip(".")


def _parsed(name: str, parser: Parser, action: object) -> Option:
    spellings = tuple(action.option_strings)  # type: ignore[attr-defined]
    takes = {0: NO, "?": MAYBE}.get(action.nargs, YES)  # type: ignore[attr-defined]
    kind = _kind(name, action, spellings) if takes else ""
    return Option(spellings, takes, kind, " ".join(parser.help_of(action).split()))  # type: ignore[arg-type]


def _kind(name: str, action: object, names: Iterable[str]) -> str:
    choices = getattr(action, "choices", None)
    if choices:
        return "=" + " ".join(choices)
    for word in names:
        for key in (f"{name} {word}", word):
            if key in _WORDS:
                return _WORDS[key]
    return ""


def _kind_of_words(name: str, parser: Parser) -> str:
    for action in parser.words():
        return _kind(name, action, (action.dest,))
    return ""
