"""pylvs mark: the director's own firewall marks, and the way of packets that netfilter has marked."""

import argparse
import sys
from _socket import AF_INET
from collections.abc import Sequence

from pylvs.cli.parsing import Parser
from pylvs.director import Director
from pylvs.errors import InvalidValue
from pylvs.marks import FAMILIES, mark_number, mark_route, mark_rule
from pylvs.model import NETMASK_ALL, PROTOCOL_NAMES, MarkRoute, MarkRule

_DESCRIPTION = """\
Give packets a firewall mark, for services that are made with ipvsadm -A -f MARK.
This does what `iptables -t mangle -A PREROUTING ... -j MARK --set-mark` does for
kernel IPVS: pylvs sees packets before netfilter, so marks set there come too late
(see pylvs mark route --help for those).

Rules are in order, and the first that matches says the mark; mark 0 exempts. If
none matches, the mark counts that the packet has (from another TC program). Only
packets are asked that open a connection.
"""
_IMPORT = """\
Add the rules that iptables-save or ip6tables-save tells of: the lines of the table
mangle that set a mark in PREROUTING. All of them or, if one cannot be taken over,
none. They come in the opposite order, since there the last line that matches
decides, and here the first.
"""
_ROUTE = """\
Route packets to pylvs that netfilter (iptables, nftables) has marked in
PREROUTING: out of an interface of our own, pylvs0, and in by its other end,
pylvs1, where the packet path meets them with their marks. Only packets that open
a connection go this way, and later ones as before.

Forwarding must be on (net.ipv4.ip_forward, net.ipv6.conf.all.forwarding). The
packets pass the FORWARD chain, which must let them. The routing rule for the
local table is moved behind ours, so that it works for addresses of the director's
own, too. pylvs unload takes all of it away.
"""
_ROUTE_EXAMPLES = (
    ("pylvs mark route 1", "IPv4 and IPv6, as far as they are forwarded"),
    ("pylvs mark route 0x10/0xf0", "whatever has these bits"),
    ("pylvs mark route 1 --family ipv6", "one family"),
    ("pylvs mark route list", "what is routed"),
    ("pylvs mark route del 1", "no longer"),
)
_ADD_EXAMPLES = (
    ("pylvs mark add --dst 207.175.44.110/31 --proto tcp --dport 80,443 --mark 1", "two addresses"),
    ("pylvs mark add --in eth0 --proto udp --dport 5000:5999 --mark 2", "by interface"),
    ("pylvs mark add --dst 2001:db8::110 --proto tcp --dport http,https --mark 1", "IPv6, names"),
    ("pylvs mark add --insert --src 10.0.0.0/8 --mark 0", "exempt a network"),
)
_DELETE_EXAMPLES = (
    ("pylvs mark del 2", "the second"),
    ("pylvs mark del --in eth0 --proto udp --dport 5000:5999 --mark 2", "by its words"),
)
_IMPORT_EXAMPLES = (
    ("iptables-save -t mangle | pylvs mark import --dry-run", "what would be added"),
    ("iptables-save -t mangle | pylvs mark import", "add it"),
)
_EXAMPLES = (*_ADD_EXAMPLES, ("pylvs mark list", "in order"), _DELETE_EXAMPLES[0], _IMPORT_EXAMPLES[1])
_ADD = """\
Add a rule: packets that all of its words fit get its mark. It goes behind the
others, or with --insert into a place among them.
"""


def _words(parser: argparse.ArgumentParser, needed: bool) -> None:
    """The words that describe a rule, those of iptables among them."""
    which = parser.add_argument_group("which packets (all that is given must apply)")
    which.add_argument("-d", "--dst", metavar="NETWORK", default="", help="to an address or network: 10.0.0.0/8")
    which.add_argument("-s", "--src", metavar="NETWORK", default="", help="from an address or network")
    which.add_argument("-i", "--in", metavar="IFACE", default="", dest="interface", help="that come by this interface")
    which.add_argument("-p", "--proto", metavar="PROTOCOL", default="", help="tcp, udp or sctp")
    which.add_argument("--dport", metavar="PORTS", default="", help="80, 80,443, 1000:2000 or names; up to 8 ranges")
    which.add_argument("--sport", metavar="PORTS", default="", help="the client's port; up to 4 ranges")
    which.add_argument("--family", choices=FAMILIES, help="if no address says it; default: both")
    which.add_argument("--mark", metavar="MARK", required=needed, help="the mark: 1, or 0x1; 0: none")


def _parser() -> Parser:
    parser = Parser(prog="pylvs mark", description=_DESCRIPTION, examples=_EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add = commands.add_parser("add", help="add a rule behind the others", description=_ADD, examples=_ADD_EXAMPLES)
    _words(add, needed=True)
    add.add_argument(
        "--insert", nargs="?", const="1", metavar="PLACE", help="not behind the others but in this place (default 1)"
    )
    delete = commands.add_parser(
        "del", help="remove a rule, by its place or by all its words", examples=_DELETE_EXAMPLES,
        description="Remove one rule: the one in a place, or the one that has exactly these words.",
    )  # fmt: skip
    delete.add_argument("place", nargs="?", metavar="PLACE", help="as pylvs mark list counts them")
    _words(delete, needed=False)
    listing = commands.add_parser(
        "list", help="show the rules in order", examples=[("pylvs mark list", ""), ("pylvs mark list --json", "")],
        description="Show the rules in the order in which they are asked, each in the words that add and del take.",
    )  # fmt: skip
    listing.add_argument("--json", action="store_true", help="one object on each line")
    commands.add_parser(
        "flush", help="remove all rules", description="Remove all rules at once.", examples=[("pylvs mark flush", "")]
    )
    taking = commands.add_parser(
        "import", help="add the rules that iptables-save tells of", description=_IMPORT, examples=_IMPORT_EXAMPLES
    )
    taking.add_argument("file", nargs="?", metavar="FILE", help="default: standard input")
    taking.add_argument("--dry-run", action="store_true", help="show the rules and change nothing")
    route = commands.add_parser(
        "route", help="for marks of iptables and nftables", description=_ROUTE, examples=_ROUTE_EXAMPLES,
        usage="pylvs mark route [--mask MASK] [--family FAMILY] [--json] [add|del] MARK[/MASK] | list",
    )  # fmt: skip
    route.add_argument(
        "what", metavar="[add|del] MARK[/MASK] | list", nargs="+", help="which mark, and which of its bits"
    )
    route.add_argument("--mask", metavar="MASK", help="the bits of the mark that count (default: all)")
    route.add_argument("--family", choices=FAMILIES, help="default: both, as far as they are forwarded")
    route.add_argument("--json", action="store_true", help="of list: one object on each line")
    return parser


def parsers() -> list[Parser]:
    """For pylvs.cli.parsing."""
    return [_parser()]


def main(argv: list[str]) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        rule = _rule(arguments)
        place = _place(arguments)
        route = _route_words(arguments) if arguments.command == "route" else None
    except InvalidValue as error:
        parser.error(str(error))
    with Director() as director:
        if arguments.command == "route":
            _route(director, arguments, route)
        elif arguments.command == "add":
            assert rule is not None
            director.add_mark(rule, place)
        elif arguments.command == "del":
            gone = director.delete_mark(place if rule is None and place is not None else _given(rule))
            print(f"removed: {gone}")
        elif arguments.command == "import":
            _import(director, arguments)
        elif arguments.command == "flush":
            director.flush_marks()
        elif arguments.command == "list":
            _print(director.marks(), arguments.json)
    return 0


def _route_words(arguments: argparse.Namespace) -> MarkRoute | None:
    """The mark that was named; None with "list". What is done with it becomes `arguments.verb`."""
    words = arguments.what
    arguments.verb = words.pop(0) if words[0] in ("add", "del", "list") else "add"
    if len(words) != (arguments.verb != "list"):
        raise InvalidValue("write: pylvs mark route 1, pylvs mark route del 1, or pylvs mark route list")
    if arguments.verb == "list":
        return None
    mark, slash, mask = words[0].partition("/")
    if slash and arguments.mask is not None:
        raise InvalidValue(f"the mask is given twice: {mask} and {arguments.mask}")
    mask = mask if slash else arguments.mask
    return mark_route(mark_number(mark), NETMASK_ALL if mask is None else mark_number(mask), arguments.family or 0)


def _route(director: Director, arguments: argparse.Namespace, route: MarkRoute | None) -> None:
    if route is None:
        for known in director.mark_routes():
            print(_route_object(known) if arguments.json else known)
        return
    if arguments.verb == "add":
        # of no family that is forwarded, and so the director says why not
        families = [route.family] if arguments.family else director.forwarded_families() or [AF_INET]
        for family in families:
            director.add_mark_route(route._replace(family=family))
        return
    there = [known for known in director.mark_routes() if known[:2] == route[:2]]
    for known in [route] if arguments.family or not there else there:
        director.delete_mark_route(known)


def _import(director: Director, arguments: argparse.Namespace) -> None:
    from pylvs.iptables import marks

    try:
        if arguments.file is None:
            text = sys.stdin.read()
        else:
            with open(arguments.file) as file:
                text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValue(f"{arguments.file or 'standard input'} cannot be read: {error}") from None
    rules, others = marks(text)
    for line in others:
        print(f"pylvs: passed over, since it sets no mark: {line}", file=sys.stderr)
    there = director.marks()
    new = [rule for rule in rules if rule not in there]
    if arguments.dry_run:
        _print(new, False)
        return
    if new:
        director.set_marks([*there, *new])
    print(
        f"{len(new)} rules added" + (f", {len(rules) - len(new)} were there already" if len(rules) > len(new) else "")
    )


def _given(rule: MarkRule | None) -> MarkRule:
    assert rule is not None  # or _place() has refused
    return rule


def _rule(arguments: argparse.Namespace) -> MarkRule | None:
    """The rule that was described, or None if a place stands for it."""
    if arguments.command not in ("add", "del"):
        return None
    described = [arguments.dst, arguments.src, arguments.interface, arguments.proto, arguments.dport, arguments.sport]
    if arguments.command == "del":
        anything = any(described) or arguments.family or arguments.mark is not None
        if arguments.place is not None:
            if anything:
                raise InvalidValue("give the rule's place or its words, not both")
            return None
        if arguments.mark is None:
            raise InvalidValue("which one? give its place, or all its words and --mark; pylvs mark list shows both")
    return mark_rule(
        mark_number(arguments.mark),
        destination=arguments.dst,
        source=arguments.src,
        interface=arguments.interface,
        protocol=arguments.proto,
        destination_ports=arguments.dport,
        source_ports=arguments.sport,
        family=arguments.family or 0,
    )


def _place(arguments: argparse.Namespace) -> int | None:
    text = {"add": "insert", "del": "place"}.get(arguments.command)
    value = getattr(arguments, text) if text else None
    if value is None:
        return None
    if not value.isascii() or not value.isdecimal() or len(value) > 6:
        raise InvalidValue(f"place '{value}' is no number; pylvs mark list counts the rules from 1")
    return int(value)


def _print(rules: Sequence[MarkRule], json: bool) -> None:
    if json:
        from json import dumps

        for rule in rules:
            print(dumps(_object(rule)))
        return
    for place, rule in enumerate(rules, 1):
        sys.stdout.write(f"{place:>4}  {rule}\n")


def _object(rule: MarkRule) -> dict[str, object]:
    return {
        "mark": rule.mark,
        "destination": rule.destination,
        "source": rule.source,
        "interface": rule.interface,
        "protocol": PROTOCOL_NAMES[rule.protocol].lower() if rule.protocol else "",
        "destination_ports": rule.destination_ports,
        "source_ports": rule.source_ports,
        "family": next((name for name, number in FAMILIES.items() if number == rule.family), ""),
    }


def _route_object(route: MarkRoute) -> str:
    family = next(name for name, number in FAMILIES.items() if number == route.family)
    return f'{{"mark": {route.mark}, "mask": {route.mask}, "family": "{family}"}}'
