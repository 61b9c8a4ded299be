"""What `--explain` adds to a refusal: in a sentence what was wrong with this command line, and what would be right.

One table, by the original's messages. A sentence may name parts of its message ({0}, {1}) and what was given on the
command line: {argument} is the argument of the first of its options that is there.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pylvs.ipvsadm.options import (
    ALLOWED,
    EXTENSIONS,
    EXTENSIONS_ALLOWED,
    OPTIONS,
    TUNNEL_ALLOWED,
    BadOption,
    OptionReader,
)
from pylvs.ipvsadm.save import SHOWN

_SERVICE = ("tcp-service", "udp-service", "sctp-service")
_TIMES = "a whole number of seconds, at most 2678400 (31 days)"


class _Rule(NamedTuple):
    """What is said about one message.

    Attributes:
        message: a pattern for the whole of it.
        sentence: "" where the message says it all itself.
        options: whose argument {argument} is.
    """

    message: str
    sentence: str
    options: tuple[str, ...] = ()


_RULES = (
    _Rule(
        r"Try `ipvsadm -h' or .*",
        "The command line must begin with a command: -A, -E, -D, -a, -e, -d, -L, -C, -Z, -R, -S, --set, "
        "--start-daemon or --stop-daemon.",
    ),
    _Rule(
        r"invalid option `(.*)'",
        "'{0}' would be a second command, and there can be only one; what stands first is the command.",
    ),
    _Rule(
        r"unexpected argument (.*)",
        "'{0}' belongs to no option: the option before it takes no argument, or has one already.",
    ),
    _Rule(r"(.*): unknown option", "There is no option {0}.{near}"),
    _Rule(r"(.*): missing argument", "{0} needs something behind it, and the line ends there."),
    _Rule(r"(.*): option does not take an argument", "{0} stands for itself: leave out what is attached to it."),
    _Rule(r"multiple '(.*)' options specified", "What '{0}' says can be said only once; leave one of them out."),
    _Rule(r"Illegal '(.*)' option with the '(.*)' command", "'{1}' {takes}, but not {spelling}.{instead}"),
    _Rule(r"Illegal '(.*)' option with the '(.*)' tunnel type", "A tunnel of type {1} {takes_tunnel}, but not --{0}."),
    _Rule(
        r"You need to supply the 'dry-run' option for 'json' with the '(.*)' command",
        "'{0}' prints nothing that could be JSON; with --dry-run it prints what would change.",
    ),
    _Rule(
        r"You need to supply the '(.*)' option for the '(.*)' (command|tunnel type)",
        "Without {spelling} it is not said which one is meant.",
    ),
    _Rule(
        r"The option '(.*)' conflicts with the '(.*)' option in .*",
        "'{0}' and '{1}' ask for two different things; leave one of them out.",
    ),
    _Rule(
        r"options conflicts in the list command",
        "-c shows connections, --timeout and --daemon single lines: columns of services such as --stats do not go "
        "with them.",
    ),
    _Rule(
        r"Zero port specified for non-persistent service",
        "'{argument}' has no port. Give one, as in 192.0.2.1:80; a service for all ports must be persistent (-p).",
        _SERVICE,
    ),
    _Rule(
        r"One-Packet Scheduling is only for UDP virtual services",
        "-o schedules each datagram alone: name the service with -u, or by a mark with -f.",
    ),
    _Rule(
        r"Different address family is allowed only for tunneling servers",
        "The service and the real server '{argument}' are of IPv4 and IPv6; only -i can join them.",
        ("real-server",),
    ),
    _Rule(
        r"Tunnel options conflict with forward method",
        "Options that begin with --tun- say what a tunnel is like: give -i, or leave them out.",
    ),
    _Rule(
        r"--set option requires 3 timeout values",
        "Three numbers of seconds must follow, for TCP, TCP after a FIN, and UDP; 0 keeps what there is.",
    ),
    _Rule(
        r"invalid timeout value `(.*)' specified",
        f"'{{0}}' is not {_TIMES}; --set also takes 0, which keeps what there is.",
    ),
    _Rule(r"incompatible scheduler flag `(.*)'", "'{0}' is a flag of another scheduler than this service's."),
    _Rule(
        r"invalid scheduler flag `(.*)'",
        "There is no flag '{0}'; there are sh-fallback and sh-port, mh-fallback and mh-port, and for all schedulers "
        "flag-1, flag-2 and flag-3.",
    ),
    _Rule(
        r"illegal start-daemon parameter specified|illegal start_daemon specified",
        "There are two daemons: master, which tells others of connections, and backup, which listens.",
    ),
    _Rule(r"illegal weight specified", "'{argument}' is not a whole number from 0 to 2147483647.", ("weight",)),
    _Rule(
        r"illegal u_threshold specified", "'{argument}' is not a whole number from 0 to 2147483647.", ("u-threshold",)
    ),
    _Rule(
        r"illegal l_threshold specified", "'{argument}' is not a whole number from 0 to 2147483647.", ("l-threshold",)
    ),
    _Rule(r"illegal tunnel port specified", "'{argument}' is not a port from 1 to 65535.", ("tun-port",)),
    _Rule(r"illegal syncid specified", "'{argument}' is not a whole number from 0 to 255.", ("syncid",)),
    _Rule(r"illegal sync-maxlen specified", "'{argument}' is not a whole number from 1 to 65507.", ("sync-maxlen",)),
    _Rule(r"illegal mcast-port specified", "'{argument}' is not a port from 1 to 65535.", ("mcast-port",)),
    _Rule(r"illegal mcast-ttl specified", "'{argument}' is not a whole number from 1 to 255.", ("mcast-ttl",)),
    _Rule(
        r"illegal tunnel type specified",
        "There is no tunnel of type '{argument}'; there are ipip, gue and gre.",
        ("tun-type",),
    ),
    _Rule(
        r"illegal virtual server address\[:port\] specified", "'{argument}' is no service address.{endpoint}", _SERVICE
    ),
    _Rule(
        r"illegal real server address\[:port\] specified",
        "'{argument}' is no real server's address.{endpoint}",
        ("real-server",),
    ),
    _Rule(r"invalid fwmark value `(.*)' specified", "'{0}' is not a whole number from 1 to 4294967295."),
    _Rule(
        r"-6 must follow -f", "-6 says that a firewall mark is of IPv6: write -f MARK -6. Addresses need no such word."
    ),
    _Rule(r"illegal ipv6 netmask specified", "'{argument}' is not a prefix length from 1 to 128.", ("netmask",)),
    _Rule(
        r"illegal virtual server persistent mask specified",
        "'{argument}' is no IPv4 mask such as 255.255.255.0; for an IPv6 service, -M must stand behind its address.",
        ("netmask",),
    ),
    _Rule(r"invalid IPv4 mcast-group `(.*)'", "'{0}' is no IPv4 multicast address (224.0.0.0 to 239.255.255.255)."),
    _Rule(r"invalid IPv6 mcast-group `(.*)'", "'{0}' is no IPv6 multicast address (ff00::/8)."),
    _Rule(
        r"this would end the restore here, and has no place in an atomic one",
        "-h and --version end a restore, whose remaining lines would then be missing; leave this line out.",
    ),
    # What the director refuses: its own words go before these.
    _Rule(r"Service already exists", "Change it with -E, or delete it first with -D."),
    _Rule(
        r"Scheduler or persistence engine not found",
        "Schedulers are rr wrr lc wlc lblc lblcr dh sh sed nq fo ovf mh twos none and module:Class; the only "
        "engine is sip.",
    ),
    _Rule(r"No such service|Service not defined", "ipvsadm -L -n shows those that there are; -A makes one."),
    _Rule(r"Destination already exists", "Change it with -e, or delete it first with -d."),
    _Rule(r"No such destination", "ipvsadm -L -n shows those that there are; -a adds one."),
    _Rule(r"Daemon has already run", "Stop it first with --stop-daemon."),
    _Rule(r"No daemon is running", "There is nothing to stop."),
    _Rule(r"Permission denied \(you must be root\)", "Run it as root."),
    _Rule(
        r"Can't initialize ipvs: Permission denied .*", "Run it as root: even looking needs CAP_NET_ADMIN and CAP_BPF."
    ),
    _Rule(r"Can't initialize ipvs: .*", "Nothing can be done before this is put right; nothing was changed."),
    _Rule(
        r"Invalid operation\.  Possibly wrong module version, address not unicast, \.\.\.",
        "An address must be a single host's, and of the family that the service has.",
    ),
    _Rule(r"Protocol not available", "The kernel lacks something that the director needs."),
    _Rule(r"Memory allocation problem", "There is not enough memory for this."),
    _Rule(
        r"Numerical result out of range",
        "Weights and thresholds are 0 to 2147483647, and the lower threshold is not above the upper one.",
    ),
    _Rule(r"No such device", "There is no interface '{argument}' here.", ("mcast-interface",)),
    _Rule(r"ipvsadm: (.*)", ""),  # says it all itself
)


def explanation(message: str, words: Sequence[str], reason: str = "") -> str:
    """The sentence about a refusal.

    Args:
        message: the original's.
        words: the command line that was refused.
        reason: what the director says about it.
    """
    text = _sentence(message, words)
    if reason and reason not in message:
        text = f"{reason[0].upper()}{reason[1:]}. {text}".rstrip()
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _sentence(message: str, words: Sequence[str]) -> str:
    for rule in _RULES:
        found = re.fullmatch(rule.message, message.rstrip("\n"), re.DOTALL)
        if found:
            break
    else:
        return ""
    parts = [shortened(part or "") for part in found.groups()]
    arguments = [argument for name, argument in given(words) if name in rule.options]
    argument = next((text for text in arguments if text is not None), "")
    return rule.sentence.format(*parts, argument=shortened(argument), endpoint=_ENDPOINT, **_more(message, parts))


def shortened(text: str) -> str:
    """A word as a sentence can hold it."""
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


_ENDPOINT = (
    " Write 192.0.2.1:80, [2001:db8::1]:80 or host:service; a host's name must have an IPv4 address, a service's name "
    "must be in /etc/services."
)


def _more(message: str, parts: Sequence[str]) -> dict[str, str]:
    """What a sentence may say beyond parts of its message."""
    more = {"near": "", "spelling": "", "takes": "", "takes_tunnel": "", "instead": ""}
    if message.endswith(": unknown option"):
        more["near"] = _near(parts[0])
    if message.startswith(("Illegal '", "You need to supply the '")) and len(parts) > 1:
        more["spelling"] = _spelling(parts[0])
        more["takes"] = _takes(f"{ALLOWED.get(parts[1], '')} {EXTENSIONS_ALLOWED.get(parts[1], '')}")
        more["takes_tunnel"] = _takes(TUNNEL_ALLOWED.get(parts[1], ""))
        if parts == ["json", "save"]:
            more["instead"] = " What -S prints is for -R; ipvsadm -L --json prints the table as JSON."
    return more


def _near(word: str) -> str:
    from difflib import get_close_matches

    names = [f"--{name}" for name in (*OPTIONS, *EXTENSIONS)]
    found = get_close_matches(word.partition("=")[0], names, 1)
    if found:
        return f" Did you mean {found[0]}?"
    return " Letters may stand together behind one '-'; long names begin with '--' and are not cut short."


# Names of several options in messages, as one gives them.
_SPELLINGS = {
    "service-address": "a service (-t, -u, --sctp-service or -f)",
    "forwarding-method": "a forwarding method (-g, -i or -m)",
    "flush": "-C",
}


def _spelling(name: str) -> str:
    if name in _SPELLINGS:
        return _SPELLINGS[name]
    letters = OPTIONS.get(name, ("", 0))[0]
    return f"-{letters[0]} (--{name})" if letters else f"--{name}"


def _takes(rules: str) -> str:
    names = [_spelling(rule.lstrip("+1")) for rule in rules.split()]
    return f"takes {', '.join(names)}" if names else "takes no options"


def given(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """The options on a command line and their arguments; what is none is passed over."""
    reader = OptionReader(words)
    while True:
        try:
            for found in reader:
                yield found.name, found.argument
            return
        except BadOption:
            continue
