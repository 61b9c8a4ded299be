"""pylvs realserver: on a real server, unwrap LVS-TUN's packets, and see what the host still needs."""

import argparse
from typing import TYPE_CHECKING

from pylvs.cli.parsing import Parser, number
from pylvs.datapath import decap, host
from pylvs.datapath.decap import Decap
from pylvs.realserver import GUE_PORT, TUNNELS, decapsulation, findings, strict

if TYPE_CHECKING:
    from pylvs.realserver import Decapsulation

# reason -> what a person needs to know of it
MEANING = {
    "unwrapped_ipip": "IPIP: the inner packet went on into the stack",
    "unwrapped_gre": "GRE",
    "unwrapped_gue": "GUE",
    "up_other": "no tunnel packet of a type that is unwrapped here",
    "up_other_host": "for another machine, or VLAN-tagged: it comes again on the VLAN's own interface",
    "up_fragment": "a fragment of a tunnel packet: the way from the director must carry it whole",
    "up_not_local": "a tunnel packet to another address than this host's",
    "up_sender": "a tunnel packet from elsewhere than the directors that were named",
    "up_header": "a GRE or GUE header with options that LVS does not use",
    "up_malformed": "broken or truncated, the tunnel packet or what is in it",
    "up_inner": "the inner packet is to an address that is no VIP here",
    "up_refused": "a merged packet that this kernel cannot turn into the other IP version",
    "dropped_checksum": "the checksum of GRE, or of GUE's UDP, is wrong",
    "dropped_ecn": "congestion was noted on a packet that cannot tell its sender (RFC 6040)",
    "dropped_broken": "the kernel refused half-way",
    "clamped": "SYN and SYN+ACK segments that left with a smaller maximum segment size",
}
_DESCRIPTION = """\
What a real server of LVS-TUN or LVS-DR needs, in the network namespace that this
runs in. None of it needs a director here, or disturbs one.
"""
_DECAP = """\
Take the outer headers off the packets that a director sends through tunnels
(ipvsadm -i), so that this host can be a real server of LVS-TUN without any tunnel
device or module: the client's packet goes on into the stack as if it had come so.
An eBPF program does it on the interfaces' TC ingress; it stays when the command
is done. The command says everything anew: given again, with other options, it
changes what is there, without losing a packet.

Only packets to this host are looked at, and only those are unwrapped whose inner
destination is one of the VIPs (or, if none is named, an address of this host):
it forwards nothing. What is not unwrapped goes on unchanged. netfilter and other
TC programs see the inner packet, or not at all: filter for the VIPs.

Clients must be told how long a packet gets through the tunnel (path MTU discovery).
Where such messages get lost, --clamp-mss has the SYN and SYN+ACK segments that leave
this host with a VIP as their source ask for shorter segments: no longer than N, or
("auto") than what fits into the smallest MTU of these interfaces, less the headers.
That MTU is looked at now: give the command again when it has changed. A smaller one
stays as it is.

rp_filter must not be strict (1) where the answers to the clients leave by another
interface; pylvs realserver check looks at that and at the rest.
"""
_DECAP_EXAMPLES = (
    ("pylvs realserver decap --vip 192.168.1.110", "IPIP, for one VIP"),
    ("pylvs realserver decap --dev eth0 --type ipip --type gue --port 6080", "by one interface, GUE too"),
    ("pylvs realserver decap --vip 192.168.1.110 --vip fd00::110 --director 10.0.0.9", "of one director"),
    ("pylvs realserver decap --vip 192.168.1.110 --clamp-mss auto", "clients send what fits into the tunnel"),
)
_STATUS = """\
Show what is unwrapped, where and since when, and what became of every packet.
"""
_STOP = """\
Unwrap nothing any more: tunnel packets take the stack's own way.
"""
_CHECK = """\
Say what this host lacks to be a real server: the VIP on lo, no ARP for it
(arp_ignore, arp_announce), a sane rp_filter, and the unwrapping of tunnel packets.
Each that is missing comes with the command that mends it. The exit code is 1 if
there is any.
"""


def _parser() -> Parser:
    examples = (_DECAP_EXAMPLES[0], ("pylvs realserver check", "what this host still needs"))
    parser = Parser(prog="pylvs realserver", description=_DESCRIPTION, examples=examples)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "decap", help="unwrap tunnel packets, from now on", description=_DECAP, examples=_DECAP_EXAMPLES
    )
    run.add_argument(
        "--dev", action="append", default=[], metavar="IFACE", help="on this interface; default: on all but lo"
    )
    run.add_argument(
        "--type", action="append", default=[], choices=TUNNELS, dest="types", help="which tunnels; default: ipip"
    )
    run.add_argument(
        "--port", action="append", default=[], type=number, dest="ports", metavar="N",
        help=f"the UDP port of GUE (default {GUE_PORT}); implies --type gue",
    )  # fmt: skip
    run.add_argument(
        "--vip", action="append", default=[], dest="vips", metavar="ADDR",
        help="unwrap packets to this address; default: to every address of this host",
    )  # fmt: skip
    run.add_argument(
        "--director", action="append", default=[], dest="directors", metavar="ADDR",
        help="unwrap packets from this director; default: from anybody",
    )  # fmt: skip
    run.add_argument(
        "--clamp-mss", type=_segment, metavar="N", dest="mss",
        help="let clients send TCP segments of N bytes at most (auto: as fits); default: as they are told",
    )  # fmt: skip
    status = commands.add_parser(
        "status", help="what is unwrapped, and how much", description=_STATUS,
        examples=[("pylvs realserver status", "")],
    )  # fmt: skip
    status.add_argument("--json", action="store_true", help="one object")
    commands.add_parser(
        "stop", help="unwrap nothing any more", description=_STOP, examples=[("pylvs realserver stop", "")]
    )
    check = commands.add_parser(
        "check", help="what this host still needs", description=_CHECK,
        examples=[("pylvs realserver check --vip 192.168.1.110 --method dr", "")],
        exits={0: "it has what it needs", 1: "something is missing, or refused"},
    )  # fmt: skip
    check.add_argument(
        "--vip", action="append", default=[], dest="vips", metavar="ADDR",
        help="the VIP; default: those of decap, else the addresses on lo",
    )  # fmt: skip
    check.add_argument("--method", choices=("dr", "tun"), help="default: tun if decap runs, else dr")
    return parser


_AUTO = -1


def _segment(text: str) -> int:
    return _AUTO if text == "auto" else number(text)


def parsers() -> list[Parser]:
    """For pylvs.cli.parsing."""
    return [_parser()]


def main(argv: list[str]) -> int:
    arguments = _parser().parse_args(argv)
    if arguments.command == "decap":
        return _decap(arguments)
    if arguments.command == "check":
        return _check(arguments)
    if arguments.command == "stop":
        print("nothing is unwrapped any more" if decap.stop() else "nothing was unwrapped")
        return 0
    return _status(arguments.json)


def _decap(arguments: argparse.Namespace) -> int:
    mtu = min(one.mtu for one in decap.choose(arguments.dev)) if arguments.mss == _AUTO else 0
    mss = None if mtu else arguments.mss
    wanted = decapsulation(arguments.types, arguments.ports, arguments.vips, arguments.directors, mss, mtu)
    with decap.run(wanted, arguments.dev) as running:
        names = host.attached_names(running)
    print(f"{_what(wanted)} on {', '.join(names)}")
    if any(wanted.mss):
        print(f"clients send segments of {_segments(wanted)}")
    for finding in strict(host.look(names), names):
        print(f"warning: {finding.text}\n         {finding.remedy}")
    return 0


def _what(settings: "Decapsulation") -> str:
    types = [name if name != "gue" else f"gue (port {', '.join(map(str, settings.ports))})" for name in settings.types]
    return f"unwraps {', '.join(types) or 'nothing'}"


def _segments(settings: "Decapsulation") -> str:
    ipv4, ipv6 = settings.mss
    return f"{ipv4} bytes at most" if ipv4 == ipv6 else f"{ipv4} bytes at most, over IPv6 {ipv6}"


def _check(arguments: argparse.Namespace) -> int:
    vips = decapsulation(vips=arguments.vips).vips
    running = decap.find()
    attached: tuple[str, ...] = ()
    if running is not None:
        with running:
            vips = vips or running.settings().vips
            attached = host.attached_names(running)
    tunnel = arguments.method == "tun" or (arguments.method is None and running is not None)
    found = findings(host.look(attached), vips or host.lan_vips(), tunnel)
    for finding in found:
        print(f"{'missing' if finding.amiss else 'ok':<8} {finding.text}")
        if finding.remedy:
            print(f"{'':<8} {finding.remedy}")
    return int(any(finding.amiss for finding in found))


def _status(json: bool) -> int:
    running = decap.find()
    if running is None:
        if json:
            print('{"running": false}')
        else:
            print("nothing is unwrapped in this network namespace; pylvs realserver decap begins with it")
        return 0
    with running:
        print(_object(running) if json else "\n".join(_lines(running)))
    return 0


def _lines(running: Decap) -> list[str]:
    settings, counters = running.settings(), running.counters()
    how = running.attached()
    lines = [
        _what(settings),
        f"from      {', '.join(settings.directors) or 'anybody'}",
        f"to        {', '.join(settings.vips) or 'every address of this host'}",
        f"on        {', '.join(host.attached_names(running)) or 'no interface'}"
        + (f" ({'/'.join(sorted(set(how.values())))})" if how else ""),
        *((f"segments  {_segments(settings)}",) if any(settings.mss) else ()),
        f"received  {counters['received']}",
    ]
    if not running.current():
        lines.append("warning: another version of pylvs has started this; pylvs realserver decap renews it")
    rows = [(name, number) for name, number in counters.items() if number and name != "received"]
    return [*lines, *(f"  {number:>10}  {name:<17}  {MEANING[name]}" for name, number in rows)]


def _object(running: Decap) -> str:
    from json import dumps

    settings = running.settings()
    return dumps(
        {
            "running": True,
            "types": settings.types,
            "ports": settings.ports,
            "vips": settings.vips,
            "directors": settings.directors,
            "mss": settings.mss if any(settings.mss) else None,
            "interfaces": host.attached_names(running),
            "counters": running.counters(),
        }
    )
