"""The lines of iptables-save that set a firewall mark, as `MarkRule`s. Pure: text in, values out.

What is understood: the chain PREROUTING of the table mangle, `-j MARK` that sets the whole mark (--set-mark, or
--set-xmark with a full mask), with -s, -d, -i, -p, the ports of tcp, udp, sctp and multiport, and comments. A line that
sets a mark in another way is refused: half of somebody's rules would be worse than none. iptables lets the last line
that matches decide and pylvs the first, so the rules come in the opposite order.
"""

import shlex
from _socket import AF_INET, AF_INET6
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from pylvs.errors import InvalidValue
from pylvs.marks import mark_number, mark_rule
from pylvs.model import MarkRule, family_of

_ARGUMENTS = {
    "-d": "destination", "--destination": "destination", "--dst": "destination",
    "-s": "source", "--source": "source", "--src": "source",
    "-i": "interface", "--in-interface": "interface",
    "-p": "protocol", "--protocol": "protocol", "--proto": "protocol",
    "--dport": "destination_ports", "--destination-port": "destination_ports",
    "--dports": "destination_ports", "--destination-ports": "destination_ports",
    "--sport": "source_ports", "--source-port": "source_ports",
    "--sports": "source_ports", "--source-ports": "source_ports",
}  # fmt: skip
_MATCHES = ("tcp", "udp", "sctp", "multiport", "comment")
_COMMANDS = ("-A", "--append")
_JUMPS = ("-j", "--jump")


def marks(text: str) -> tuple[list[MarkRule], list[str]]:
    """The rules of a text, and what in PREROUTING of mangle was passed over because it sets no mark.

    Args:
        text: what iptables-save or ip6tables-save says; or commands, `iptables -t mangle -A PREROUTING ...`.

    Raises:
        InvalidValue: a line sets a mark in a way that cannot be taken over; the text names it.
    """
    rules: list[MarkRule] = []
    others: list[str] = []
    for number, line, words, family in _prerouting(text):
        if not any(word in _JUMPS and after == "MARK" for word, after in pairwise(words)):
            others.append(line)
            continue
        try:
            rule = _rule(words, family)
        except InvalidValue as error:
            raise InvalidValue(f"line {number}: {line}: {error}") from None
        if rule in rules:
            rules.remove(rule)  # the later one decides
        rules.append(rule)
    return rules[::-1], others


def _prerouting(text: str) -> Iterator[tuple[int, str, list[str], int]]:
    """(line number, line, words behind the chain's name, family) of what is appended to mangle's PREROUTING."""
    table, family = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line.startswith("#"):
            said = line.split()
            family = AF_INET6 if "ip6tables-save" in said else AF_INET if "iptables-save" in said else family
            continue
        if line.startswith("*"):
            table = line[1:]
            continue
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise InvalidValue(f"line {number}: {line}: {error}") from None
        of, its = table, family
        program = words[0].rpartition("/")[2] if words else ""
        if program in ("iptables", "ip6tables"):
            of, its = "filter", AF_INET6 if program == "ip6tables" else AF_INET
            words = words[1:]
        if words[:1] and words[0] in ("-t", "--table"):
            of, words = "".join(words[1:2]), words[2:]
        elif len(words) > 3 and words[2] in ("-t", "--table"):  # it may stand behind the chain's name, too
            of, words = words[3], words[:2] + words[4:]
        if len(words) > 1 and words[0] in _COMMANDS and words[1] == "PREROUTING" and of == "mangle":
            yield number, line, words[2:], its


def _rule(words: list[str], family: int) -> MarkRule:
    arguments: dict[str, Any] = {}
    mark = None
    rest = iter(words)
    for word in rest:
        value = next(rest, None)
        if value is None:
            raise InvalidValue(f"{word} says nothing")
        if word in _ARGUMENTS:
            if _ARGUMENTS[word] in arguments:
                raise InvalidValue(f"{word} is there twice")
            arguments[_ARGUMENTS[word]] = value
        elif word in ("-m", "--match"):
            if value not in _MATCHES:
                raise InvalidValue(f"the match {value} cannot be taken over; only {', '.join(_MATCHES)}")
        elif word in ("--set-mark", "--set-xmark"):
            number, slash, mask = value.partition("/")
            if slash and mark_number(mask) != 0xFFFFFFFF:
                raise InvalidValue("it sets only some bits of the mark, which cannot be taken over")
            mark = mark_number(number)
        elif word not in (*_JUMPS, "--comment"):
            raise InvalidValue(f"{word} cannot be taken over")
    if mark is None:
        raise InvalidValue("it does not say which mark")
    if arguments.get("interface", "").endswith("+"):
        raise InvalidValue(f"the interface {arguments['interface']} stands for several; name each")
    if not family:
        addresses = [arguments[name] for name in ("destination", "source") if name in arguments]
        family = family_of(addresses[0]) if addresses else AF_INET
    for name in ("destination", "source"):
        if name in arguments:
            arguments[name] = _prefix(arguments[name])
    return mark_rule(mark, family=family, **arguments)


def _prefix(network: str) -> str:
    """10.0.0.0/255.0.0.0 as 10.0.0.0/8; anything else as it is."""
    address, slash, mask = network.partition("/")
    parts = mask.split(".")
    if not slash or len(parts) != 4 or not all(part.isascii() and part.isdecimal() and len(part) < 4 for part in parts):
        return network
    number = 0
    for part in parts:
        number = number << 8 | int(part) & 0xFF
    bits = number.bit_count()
    if number != (1 << 32) - (1 << (32 - bits)):
        raise InvalidValue(f"the mask {mask} is not one of leading bits")
    return f"{address}/{bits}"
