"""pylvs conns: the connections of this network namespace's director, chosen, counted, listed and ended."""

import sys
from collections.abc import Iterable, Iterator
from itertools import islice

from pylvs.cli.parsing import Parser
from pylvs.datapath import _layout
from pylvs.datapath.connections import GROUPINGS, Entry, Reader, entries
from pylvs.director import Director
from pylvs.errors import InvalidValue
from pylvs.model import METHOD_NAMES, endpoint, protocol_name
from pylvs.selections import Selection, selection

TITLE = f"pro expire {'state':<11} {'source':<21} {'virtual':<21} {'destination':<21} {'forward':<7} {'packets':>8}"
_LINES = 512  # written at once

_DESCRIPTION = """\
List connections, as `ipvsadm -Lcn` does, and how each is forwarded and how many
packets came from its client. What is not given is any; what is given must all
apply. Nothing is changed.
"""
_EXAMPLES = (
    ("pylvs conns --rip 10.1.1.11", "who is still on a real server"),
    ("pylvs conns --count --service 192.168.1.110:80", "how many a service has"),
    ("pylvs conns --by rip --state ESTABLISHED", "how they are spread"),
    ("pylvs conns --by client | head", "who has most"),
    ("pylvs conns --json --client 10.0.0.0/8", "for a program"),
    ("pylvs conns flush --help", "ending connections"),
)
_FLUSH_DESCRIPTION = """\
End connections at once, without waiting for their time to be over. Their clients'
next packets find no connection: to TCP the stack answers RST, UDP is scheduled
anew. Counters (ActiveConn, InActConn) are right at once. Services and real
servers stay as they are; to keep new connections off a real server, set its
weight to 0 first.
"""
_FLUSH_EXAMPLES = (
    ("pylvs conns flush --dry-run --rip 10.1.1.11", "how many that would be"),
    ("pylvs conns flush --rip 10.1.1.11", "let go of a dead real server's"),
    ("pylvs conns flush --state SYN_RECV --client 203.0.113.0/24", "half-open ones of a network"),
    ("pylvs conns flush --all", "everything"),
)


def _parser(flush: bool) -> Parser:
    parser = Parser(
        prog="pylvs conns flush" if flush else "pylvs conns",
        description=_FLUSH_DESCRIPTION if flush else _DESCRIPTION,
        examples=_FLUSH_EXAMPLES if flush else _EXAMPLES,
    )
    which = parser.add_argument_group("which connections")
    which.add_argument(
        "--service",
        metavar="SERVICE",
        help="of a virtual service, as ipvsadm shows it: 10.0.0.1:80 (any protocol), tcp/10.0.0.1:80, "
        "udp/[2001:db8::1]:53; port 0: all its ports",
    )
    which.add_argument(
        "--rip", metavar="ADDRESS[:PORT]", help="of a real server: 10.1.1.11, 10.1.1.11:8080 or [2001:db8::1]:8080"
    )
    which.add_argument(
        "--client", metavar="ADDRESS", help="of a client or network: 10.0.0.1, 10.0.0.1:1025 or 10.0.0.0/8"
    )
    which.add_argument(
        "--state", metavar="STATE,...", help="in one of these states: ESTABLISHED, SYN_RECV, TIME_WAIT, UDP, ..."
    )
    if flush:
        which.add_argument("--all", action="store_true", help="all there are; needed if nothing else is given")
        parser.add_argument("--dry-run", action="store_true", help="end none, say how many it would be, by service")
    else:
        output = parser.add_argument_group("output")
        output.add_argument("--count", action="store_true", help="only how many there are")
        output.add_argument(
            "--by", choices=GROUPINGS, help="how many there are of each service, real server, state or client"
        )
        output.add_argument("--json", action="store_true", help="one object on each line; times are milliseconds")
    return parser


def parsers() -> list[Parser]:
    """For pylvs.cli.parsing."""
    return [_parser(flush=False), _parser(flush=True)]


def main(argv: list[str]) -> int:
    flush = argv[:1] == ["flush"]
    parser = _parser(flush)
    arguments = parser.parse_args(argv[flush:])
    try:
        which = selection(arguments.service, arguments.rip, arguments.client, arguments.state)
    except InvalidValue as error:
        parser.error(str(error))
    if flush and which.everything != arguments.all:
        parser.error(
            "--all means all, and cannot stand with --service, --rip, --client or --state"
            if arguments.all
            else "which ones? give --service, --rip, --client or --state; or --all to end every connection"
        )
    with Director() as director:
        if director.instance is None:
            print("pylvs: no director is loaded in this network namespace", file=sys.stderr)
        if flush:
            _flush(director, which, arguments.dry_run)
        elif arguments.by:
            _print(_groups(director, which, arguments.by, arguments.json))
        elif arguments.count:
            number = director.count_connections(which)
            print(f'{{"connections": {number}}}' if arguments.json else number)
        else:
            _print(_listing(director, which, arguments.json))
    return 0


def _print(lines: Iterable[str]) -> None:
    rest = iter(lines)
    while batch := list(islice(rest, _LINES)):
        batch.append("")
        sys.stdout.write("\n".join(batch))


def _groups(director: Director, which: Selection, by: str, json: bool) -> Iterator[str]:
    for name, number in director.count_connections_by(by, which).items():
        # no name has anything in it that JSON would have to escape
        yield f'{{"{by}": "{name}", "connections": {number}}}' if json else f"{number:>10} {name}"


def _listing(director: Director, which: Selection, json: bool) -> Iterator[str]:
    if not json:
        yield TITLE
    if director.instance is not None:
        # not director.connections(): it says less, and a million values are quicker written than made
        line, reader = _json if json else _line, Reader(director.instance)
        for entry in entries(director.instance, which):
            yield line(entry, reader)


def _line(entry: Entry, reader: Reader) -> str:
    client, virtual = reader.addresses(entry)
    cport, vport, dport = entry.ports
    source, server = endpoint(client, cport), endpoint(reader.server(entry.dest, entry.family), dport)
    minutes, seconds = divmod(entry.left // 1_000_000_000, 60)
    method = METHOD_NAMES.get(entry.flags & _layout.CONN_METHOD, "")
    return (
        f"{protocol_name(entry.protocol):<3} {minutes:02}:{seconds:02}  "
        f"{entry.state_name:<11} {source:<21} {endpoint(virtual, vport):<21} "
        f"{server:<21} {method:<7} {entry.packets:>8}"
    )


def _json(entry: Entry, reader: Reader) -> str:
    client, virtual = reader.addresses(entry)
    cport, vport, dport = entry.ports
    _, call = reader.engine_data(entry)
    # no name has anything in it that JSON would have to escape; of a Call-ID's characters, two
    call_id = call.decode("latin-1").replace("\\", "\\\\").replace('"', '\\"')
    return (
        f'{{"protocol": "{protocol_name(entry.protocol).lower()}", "state": "{entry.state_name}"'
        f', "client": "{client}", "client_port": {cport}, "virtual": "{virtual}", "virtual_port": {vport}'
        f', "rip": "{reader.server(entry.dest, entry.family)}", "rip_port": {dport}'
        f', "template": {"true" if entry.template else "false"}, "call_id": "{call_id}"'
        f', "forward": "{METHOD_NAMES.get(entry.flags & _layout.CONN_METHOD, "")}"'
        f', "active": {"false" if entry.flags & _layout.CONN_INACTIVE else "true"}, "packets": {entry.packets}'
        f', "expires": {entry.left // 1_000_000}, "timeout": {entry.timeout}, "fwmark": {reader.fwmark(entry)}}}'
    )


def _flush(director: Director, which: Selection, dry: bool) -> None:
    if not dry:
        print(f"{director.flush_connections(which)} ended")
        return
    counts = director.count_connections_by("service", which)
    print(f"{sum(counts.values()):>10} would be ended")
    for name, number in counts.items():
        print(f"{number:>10}   {name}")
