"""`pylvs lab`: client, router, director and real servers in network namespaces, for a person to try things in."""

import argparse
import os
import sys

import pylvs.lab.namespaces as ns
from pylvs.cli.parsing import Parser, number
from pylvs.lab import state
from pylvs.lab.lab import Lab, LabError, environment, require_root, take_down
from pylvs.lab.processes import is_alive
from pylvs.lab.topologies import TOPOLOGIES, topology
from pylvs.lab.topology import Topology


def main(argv: list[str]) -> int:
    """Run `pylvs lab ARGV...` and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        return code
    except (LabError, ValueError, TimeoutError) as error:
        print(f"pylvs lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


_DESCRIPTION = """\
Client, router, director and real servers, each in a network namespace of its own
on this machine, to try things in: with a web server on the real servers, and the
director's ipvsadm and pylvs at hand. Nothing of it reaches the machine's network.
"""
_EXAMPLES = (
    ("pylvs lab up nat", "client, director, three real servers"),
    ("pylvs lab exec director ipvsadm -A -t 192.168.1.110:80 -s rr", ""),
    ("pylvs lab exec director ipvsadm -a -t 192.168.1.110:80 -r 10.1.1.11 -m", ""),
    ("pylvs lab exec client curl http://192.168.1.110/", ""),
    ("pylvs lab down", "and nothing is left"),
)


def _parser() -> Parser:
    parser = Parser(prog="pylvs lab", description=_DESCRIPTION, examples=_EXAMPLES)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser(
        "up", help="build a lab and leave it up", examples=[("pylvs lab up dr --realservers 5", "")],
        description="Build a lab, and show what to type in it. It stays until pylvs lab down.",
    )  # fmt: skip
    up.add_argument("topology", choices=TOPOLOGIES, help="pylvs lab show draws them")
    up.add_argument("--name", help="of this lab; default: the topology's")
    up.add_argument("--realservers", type=number, metavar="K", help="how many (default 3)")
    up.set_defaults(run=_up)

    execute = commands.add_parser(
        "exec", help="run a command on a host", usage="pylvs lab exec [--name LAB] HOST COMMAND...",
        description="Run a command on a host of a lab; without one, a shell.",
        examples=[("pylvs lab exec director ipvsadm -Ln", "")], exits={0: "the command's own exit code, if it ran"},
    )  # fmt: skip
    execute.add_argument("--name", metavar="LAB", help="which lab, when more than one is up")
    execute.add_argument("host", metavar="HOST", help="client, director, rs1, ...; pylvs lab show names them")
    execute.add_argument("command", metavar="COMMAND", nargs=argparse.REMAINDER, help="and its arguments")
    execute.set_defaults(run=_exec)

    show = commands.add_parser(
        "show", help="draw a topology, or a lab that is up, with its addresses", examples=[("pylvs lab show dr", "")],
        description="Draw a topology, or a lab that is up, with its addresses and processes.",
    )  # fmt: skip
    show.add_argument("name", metavar="NAME", nargs="?", help="a topology or a lab; default: the lab that is up")
    show.set_defaults(run=_show)

    listing = commands.add_parser(
        "list", help="the labs that are up", examples=[("pylvs lab list", "")],
        description="Show which labs are up, and who holds them.",
    )  # fmt: skip
    listing.set_defaults(run=_list)

    down = commands.add_parser(
        "down", help="remove a lab, or what a killed process left of one", examples=[("pylvs lab down --all", "")],
        description="Remove a lab with all its namespaces and processes, or what a killed process left of one.",
    )  # fmt: skip
    down.add_argument("name", metavar="NAME", nargs="?", help="default: the lab that is up")
    down.add_argument("--all", action="store_true", help="every lab, except those that a running process holds")
    down.set_defaults(run=_down)
    return parser


def parsers() -> list[Parser]:
    """For pylvs.cli.parsing."""
    return [_parser()]


def _up(arguments: argparse.Namespace) -> int:
    lab = Lab(arguments.topology, arguments.name or arguments.topology, arguments.realservers, keep=True).up()
    print(lab.topology.drawing)
    print(f"The lab '{lab.name}' is up. Try:")
    method = {"dr": "-g", "tun": "-i"}.get(lab.topology.name, "-m")
    name = f"--name {lab.name} " if len(state.names()) > 1 else ""
    for words in (
        f"director ipvsadm -A -t {lab.vip}:80 -s rr",
        *(f"director ipvsadm -a -t {lab.vip}:80 -r {server.ipv4}:80 {method}" for server in lab.realservers),
        f"client curl http://{lab.vip}/",
    ):
        print(f"  pylvs lab exec {name}{words}")
    print(f"Remove it with: pylvs lab down {lab.name}")
    return 0


def _the_lab(name: str | None) -> str:
    """The lab of that name; without a name the only one that is up."""
    if name is not None:
        return state.load(name).name
    known = state.names()
    if len(known) == 1:
        return known[0]
    if not known:
        raise LabError("no lab is up; build one with: pylvs lab up nat")
    raise LabError(f"which lab? {', '.join(known)}")


def _exec(arguments: argparse.Namespace) -> int:
    require_root()
    lab = Lab.attach(_the_lab(arguments.name))
    try:
        namespace = lab.namespace(arguments.host)
    except KeyError as error:
        raise LabError(error.args[0]) from None
    command = arguments.command or [os.environ.get("SHELL", "/bin/sh")]
    argv = ns.command(namespace, command)
    sys.stdout.flush()
    os.execvpe(argv[0], argv, environment())


def _show(arguments: argparse.Namespace) -> int:
    name = arguments.name
    if name in TOPOLOGIES and name not in state.names():
        _draw(topology(name))
        return 0
    lab = Lab.attach(_the_lab(name))
    _draw(lab.topology)
    print("\nprocesses:")
    for process in lab.processes:
        print(f"  {process.host:<10} {process.what:<10} pid {process.pid}")
    return 0


def _draw(drawn: Topology) -> None:
    print(f"{drawn.name}: {drawn.summary}")
    print(drawn.drawing)
    for host in drawn.hosts:
        rows = [(i.name, i.ipv4, i.ipv6, i.network) for i in host.interfaces]
        if host.vip_on:
            rows.append((host.vip_on, drawn.vip, drawn.vip6, "VIP"))
        for interface, ipv4, ipv6, network in rows:
            print(f"  {host.name:<10} {interface:<6} {ipv4:<16} {ipv6:<16} {network}")


def _list(arguments: argparse.Namespace) -> int:
    for name in state.names():
        record = state.load(name)
        alive = sum(is_alive(process.pid, process.start) for process in record.processes)
        held = "kept up" if record.owner is None else "orphaned" if record.orphaned else f"held by {record.owner[0]}"
        print(f"{name:<24} {record.topology:<12} {record.realservers} real servers, {alive} processes, {held}")
    return 0


def _down(arguments: argparse.Namespace) -> int:
    require_root()
    if arguments.all:
        records = [state.load(name) for name in state.names()]
        records = [record for record in records if record.owner is None or record.orphaned]
    else:
        records = [state.load(_the_lab(arguments.name))]
    for record in records:
        take_down(record)
        print(f"removed {record.name}")
    return 0
