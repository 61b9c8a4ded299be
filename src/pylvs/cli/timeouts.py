"""pylvs timeouts: how long a connection lives in each state without a packet."""

import json

from pylvs.cli.parsing import Parser
from pylvs.director import Director
from pylvs.errors import InvalidValue
from pylvs.protocols import timeouts

_DESCRIPTION = """\
How long a connection lives in each state without a packet. Without assignments:
the timeouts in force, and the default where that is another. With some: all of
them are set at once, or none if one is wrong. Connections follow at their next
packet. Three of them are those of ipvsadm --set.
"""
_EXAMPLES = (
    ("pylvs timeouts", "those in force"),
    ("pylvs timeouts tcp.ESTABLISHED=600 udp=60", "set two"),
    ("pylvs timeouts sctp.INIT=default", "as it was"),
    ("pylvs timeouts --json", "for a program"),
)


def parsers() -> list[Parser]:
    """For pylvs.cli.parsing."""
    parser = Parser(prog="pylvs timeouts", description=_DESCRIPTION, examples=_EXAMPLES)
    parser.add_argument(
        "assignments",
        nargs="*",
        metavar="PROTOCOL.STATE=SECONDS",
        help=f"such as tcp.ESTABLISHED=600 udp=60 sctp.INIT=default; {timeouts.LEAST} to {timeouts.MOST} seconds",
    )
    parser.add_argument("--json", action="store_true", help="one object: protocol, state, seconds")
    return [parser]


def main(argv: list[str]) -> int:
    (parser,) = parsers()
    arguments = parser.parse_args(argv)
    try:
        changes = timeouts.parse(arguments.assignments)
    except InvalidValue as error:
        parser.error(str(error))
    with Director() as director:
        if changes:
            director.set_state_timeouts(changes)
        if not changes or arguments.json:
            _show(director.state_timeouts(), arguments.json)
    return 0


def _show(seconds: dict[timeouts.Place, int], as_json: bool) -> None:
    if as_json:
        nested: dict[str, dict[str, int]] = {}
        for (protocol, state), value in seconds.items():
            nested.setdefault(protocol, {})[state] = value
        print(json.dumps(nested, indent=1))
        return
    print(f"{'state':<18} {'seconds':>8} {'default':>8}")
    for (where, value), milliseconds in zip(seconds.items(), timeouts.DEFAULTS_MS, strict=True):
        default = milliseconds // 1000
        print(f"{'.'.join(where):<18} {value:>8} {default if default != value else '':>8}".rstrip())
