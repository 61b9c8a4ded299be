"""The options of ipvsadm as data, and the reader that takes them off a command line the way popt does.

Three tables: `OPTIONS` (spelling and argument), `COMMANDS` (which of them say what to do), `ALLOWED` (which options
each command takes), and `TUNNEL_ALLOWED` (which options each tunnel type takes). A new option is a line in them.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pylvs.ipvsadm.messages import misuse

FLAG, REQUIRED, OPTIONAL = range(3)

# name: (letter, argument). A name with two letters has both.
OPTIONS: dict[str, tuple[str, int]] = {
    "add-service": ("A", FLAG),
    "edit-service": ("E", FLAG),
    "delete-service": ("D", FLAG),
    "clear": ("C", FLAG),
    "list": ("Ll", FLAG),
    "zero": ("Z", FLAG),
    "add-server": ("a", FLAG),
    "edit-server": ("e", FLAG),
    "delete-server": ("d", FLAG),
    "set": ("", FLAG),
    "help": ("h", FLAG),
    "version": ("v", FLAG),
    "restore": ("R", FLAG),
    "save": ("S", FLAG),
    "start-daemon": ("", REQUIRED),
    "stop-daemon": ("", REQUIRED),
    "tcp-service": ("t", REQUIRED),
    "udp-service": ("u", REQUIRED),
    "sctp-service": ("", REQUIRED),
    "fwmark-service": ("f", REQUIRED),
    "scheduler": ("s", REQUIRED),
    "persistent": ("p", OPTIONAL),
    "netmask": ("M", REQUIRED),
    "real-server": ("r", REQUIRED),
    "masquerading": ("m", FLAG),
    "ipip": ("i", FLAG),
    "gatewaying": ("g", FLAG),
    "weight": ("w", REQUIRED),
    "u-threshold": ("x", REQUIRED),
    "l-threshold": ("y", REQUIRED),
    "numeric": ("n", FLAG),
    "connection": ("c", FLAG),
    "mcast-interface": ("", REQUIRED),
    "timeout": ("", FLAG),
    "daemon": ("", FLAG),
    "stats": ("", FLAG),
    "rate": ("", FLAG),
    "thresholds": ("", FLAG),
    "persistent-conn": ("", FLAG),
    "nosort": ("", FLAG),
    "sort": ("", FLAG),
    "syncid": ("", REQUIRED),
    "exact": ("X", FLAG),
    "ipv6": ("6", FLAG),
    "ops": ("o", FLAG),
    "pe": ("", REQUIRED),
    "sched-flags": ("b", REQUIRED),
    "sync-maxlen": ("", REQUIRED),
    "mcast-group": ("", REQUIRED),
    "mcast-port": ("", REQUIRED),
    "mcast-ttl": ("", REQUIRED),
    "tun-info": ("", FLAG),
    "tun-type": ("", REQUIRED),
    "tun-port": ("", REQUIRED),
    "tun-nocsum": ("", FLAG),
    "tun-csum": ("", FLAG),
    "tun-remcsum": ("", FLAG),
}
# Beyond the original, which refuses these words; only on the command line itself, not in the lines of a restore.
EXTENSIONS = {
    "json": ("", FLAG),
    "atomic": ("", FLAG),
    "dry-run": ("", FLAG),
    "explain": ("", FLAG),
}
_LETTERS = {letter: name for name, (letters, _) in OPTIONS.items() for letter in letters}

# The option that comes first says what to do: its name there, its name in messages.
COMMANDS = {
    "add-service": "add-service",
    "edit-service": "edit-service",
    "delete-service": "delete-service",
    "clear": "flush",
    "list": "list",
    "add-server": "add-server",
    "delete-server": "delete-server",
    "edit-server": "edit-server",
    "set": "set",
    "start-daemon": "start-daemon",
    "stop-daemon": "stop-daemon",
    "restore": "restore",
    "save": "save",
    "zero": "zero",
    "help": "help",
    "version": "version",
}

# Options by the name that messages give them, in the order in which they are checked: of several faults the first
# in this order is named. Several options may share a name (-t and -f, -g and -m).
CHECK_ORDER = (
    *("numeric", "connection", "service-address", "scheduler", "persistent", "netmask", "real-server"),
    *("forwarding-method", "weight", "u-threshold", "l-threshold", "mcast-interface", "timeout", "daemon"),
    *("stats", "rate", "thresholds", "persistent-conn", "nosort", "syncid", "exact", "ops", "pe", "sched-flags"),
    *("sync-maxlen", "mcast-group", "mcast-port", "mcast-ttl"),
    *("tun-info", "tun-type", "tun-port", "tun-nocsum", "tun-csum", "tun-remcsum"),
)

# What a command takes: "+x" it must have, "1x" only one of those, the rest it may have.
_SERVICE = "+service-address scheduler persistent netmask ops pe sched-flags"
_SERVER = (
    "+service-address +real-server forwarding-method weight u-threshold l-threshold "
    "tun-type tun-port tun-nocsum tun-csum tun-remcsum"
)
ALLOWED = {
    "add-service": _SERVICE,
    "edit-service": _SERVICE,
    "delete-service": "+service-address",
    "flush": "",
    "list": "numeric 1connection 1service-address 1timeout 1daemon stats rate thresholds persistent-conn nosort syncid "
    "exact tun-info",
    "add-server": _SERVER,
    "delete-server": "+service-address +real-server",
    "edit-server": _SERVER,
    "set": "",
    "start-daemon": "mcast-interface syncid sync-maxlen mcast-group mcast-port mcast-ttl",
    "stop-daemon": "syncid",
    "restore": "",
    "save": "numeric",
    "zero": "service-address",
}
# What a command takes of the extensions. Those of `--dry-run` stand for themselves: `--json` is what that prints.
_CHANGING = "dry-run json explain"
EXTENSIONS_ALLOWED = {name: _CHANGING for name in ALLOWED} | {
    "list": "json explain",
    "save": "explain",
    "restore": "atomic dry-run json explain",
}
TUNNEL_ORDER = ("tun-port", "tun-nocsum", "tun-csum", "tun-remcsum")
TUNNEL_ALLOWED = {
    "ipip": "",
    "gue": "+tun-port 1tun-nocsum 1tun-csum 1tun-remcsum",
    "gre": "1tun-nocsum 1tun-csum",
}


class BadOption(Exception):
    """The words on the command line that are no option; `str()` is what ipvsadm says of them."""


class Given(NamedTuple):
    """One option found on the command line; `word` is the word it ended in."""

    name: str
    argument: str | None
    word: str


class OptionReader:
    """Takes options off a command line; what is not an option gathers in `arguments`.

    Args:
        extended: `EXTENSIONS` are options, too.
    """

    def __init__(self, words: Sequence[str], extended: bool = True):
        self.words = words
        self._options = OPTIONS | EXTENSIONS if extended else OPTIONS
        self.arguments: list[str] = []
        self._next = 0

    def __iter__(self) -> Iterator[Given]:
        words = self.words
        while self._next < len(words):
            word = words[self._next]
            self._next += 1
            if word == "--":
                self.arguments.extend(words[self._next :])
                self._next = len(words)
            elif not word.startswith("-") or word == "-":
                self.arguments.append(word)
            elif word.startswith("--"):
                name, equals, value = word[2:].partition("=")
                if name not in self._options:
                    raise self._bad("unknown option")
                yield self._take(name, value if equals else None, "")[0]
            else:
                letters = word[1:]
                while letters:
                    if letters[0] not in _LETTERS:
                        raise self._bad("unknown option")
                    given, letters = self._take(_LETTERS[letters[0]], None, letters[1:])
                    yield given

    @property
    def rest(self) -> Sequence[str]:
        """What is not read yet, or is no option."""
        return (*self.arguments, *self.words[self._next :])

    def _take(self, name: str, value: str | None, letters: str) -> tuple[Given, str]:
        """The option `name` with its argument, and the bundled letters that remain after it."""
        kind = self._options[name][1]
        if kind == FLAG:
            if value is not None or letters.startswith("="):
                raise self._bad("option does not take an argument")
        elif value is None and letters:
            value, letters = letters.removeprefix("="), ""
        elif value is None:
            at_end = self._next == len(self.words)
            if at_end and kind == REQUIRED:
                raise self._bad("missing argument")
            if not at_end and (kind == REQUIRED or not self.words[self._next].startswith("-")):
                value = self.words[self._next]
                self._next += 1
        return Given(name, value, self.words[self._next - 1]), letters

    def _bad(self, reason: str) -> BadOption:
        return BadOption(f"{self.words[self._next - 1]}: {reason}")


def check_options(command: str, given: set[str]) -> None:
    """Refuses options that the command does not take, and commands without the options they need."""
    _check(given, CHECK_ORDER, ALLOWED[command], f"the '{command}' command")


def check_extensions(command: str, given: set[str]) -> None:
    """Refuses extensions that the command does not take."""
    allowed = EXTENSIONS_ALLOWED[command].split()
    for name in EXTENSIONS:
        if name in given and name not in allowed:
            raise misuse(f"Illegal '{name}' option with the '{command}' command")
    if "json" in given and command != "list" and "dry-run" not in given:
        raise misuse(f"You need to supply the 'dry-run' option for 'json' with the '{command}' command")


def check_tunnel_options(tunnel: str, given: set[str]) -> None:
    """The same for the options of a tunnel type."""
    _check(given, TUNNEL_ORDER, TUNNEL_ALLOWED[tunnel], f"the '{tunnel}' tunnel type")


_RULES: dict[str, dict[str, str]] = {}


def _check(given: set[str], order: Sequence[str], allowed: str, what: str) -> None:
    rules = _RULES.get(allowed)
    if rules is None:  # a restore asks for the same ones line by line
        rules = _RULES[allowed] = {rule.lstrip("+1"): rule[0] for rule in allowed.split()}
    only: str | None = None
    for name in order:
        rule = rules.get(name)
        if name not in given:
            if rule == "+":
                raise misuse(f"You need to supply the '{name}' option for {what}")
        elif rule is None:
            raise misuse(f"Illegal '{name}' option with {what}")
        elif rule == "1":
            if only is not None:
                raise misuse(f"The option '{name}' conflicts with the '{only}' option in {what}")
            only = name
