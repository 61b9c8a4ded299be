"""pylvs load, unload, detach, prune: the packet path's coming and going."""

import argparse

from pylvs.cli.parsing import Parser, number
from pylvs.datapath import instance, interfaces, loading, resize
from pylvs.errors import DatapathError, InvalidValue

_LOAD = """\
Load the packet path into this network namespace and attach it to every interface.
If it is loaded already, its programs are replaced by this version's, without
losing a connection. ipvsadm does the first by itself when something is configured.
"""
_LOAD_EXAMPLES = (
    ("pylvs load", "load, or put this version in force"),
    ("pylvs load --conn-tab-bits 21", "a table of 2^21 slots; connections stay"),
)
_UNLOAD = """\
Remove the packet path from this network namespace, with all services, connections
and counters. Packets then take the stack's own way.
"""
_UNLOAD_EXAMPLES = (("ipvsadm-save -n > /etc/ipvsadm.rules; pylvs unload", "keep the rules, forget the rest"),)
_DETACH = """\
Take the packet path off an interface: its packets take the stack's own way.
"""
_PRUNE = """\
Remove what is pinned for network namespaces that no longer exist. Those that do
are left alone.
"""


def _parser() -> Parser:
    parser = Parser(prog="pylvs", add_help=False)
    commands = parser.add_subparsers(dest="command", required=True)
    load = commands.add_parser("load", description=_LOAD, examples=_LOAD_EXAMPLES)
    load.add_argument(
        "--conn-tab-bits",
        type=number,
        metavar="N",
        help="size of the connection table: 2^N slots (12 to 26); default: by the machine's memory. An IPv4 connection "
        "takes one slot, under LVS-NAT two. Changed while packets pass if the packet path is loaded already",
    )
    load.add_argument(
        "--max-services",
        type=number,
        metavar="N",
        help="room for N virtual services; default: by the machine's memory, 4096 to 16384",
    )
    load.add_argument(
        "--max-dests",
        type=number,
        metavar="N",
        help="room for N real servers; default: by the machine's memory, 16384 to 131072",
    )
    commands.add_parser("unload", description=_UNLOAD, examples=_UNLOAD_EXAMPLES)
    detach = commands.add_parser("detach", description=_DETACH, examples=[("pylvs detach eth1", "")])
    detach.add_argument("interface", metavar="IFACE", help="its name, as ip link shows it")
    commands.add_parser("prune", description=_PRUNE, examples=[("pylvs prune", "")])
    return parser


def parsers() -> list[Parser]:
    """For pylvs.cli.parsing."""
    return list(_parser().subcommands().values())


def main(argv: list[str]) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command == "load":
        try:
            return _load(arguments)
        except InvalidValue as error:  # a size that cannot be, whatever there is
            parser.subcommands()["load"].error(str(error))
    if arguments.command == "unload":
        print("unloaded" if loading.unload() else "nothing was loaded")
        return 0
    if arguments.command == "prune":
        gone = loading.prune()
        print(f"removed {len(gone)}: {', '.join(gone)}" if gone else "nothing to remove")
        return 0
    running = instance.find()
    if running is None:
        raise DatapathError("no director is loaded in this network namespace: pylvs load, or ipvsadm -A")
    interface = interfaces.find(arguments.interface)
    with running.locked():
        resize.finish(running)  # it would be attached again
        if running.detach(interface):
            print(f"detached from {interface.name}")
        else:
            print(f"was not attached to {interface.name}")
    return 0


def _load(arguments: argparse.Namespace) -> int:
    running = instance.find()
    if running is None:
        running = loading.load(arguments.conn_tab_bits, arguments.max_services, arguments.max_dests)
        print(
            f"loaded: connection table of {running.config.get(0, 'conn_slots')} slots, "
            f"attached to {len(running.attached())} interfaces"
        )
        return 0
    with running.locked():
        resize.finish(running)
        if running.outdated():
            running.replace_programs()
            print("programs replaced; connections and configuration are as they were")
        elif arguments.conn_tab_bits is None:
            print("loaded already, by this version")
        if arguments.conn_tab_bits is not None:
            before = running.config.get(0, "conn_slots")
            resize.resize(running, arguments.conn_tab_bits)
            after = running.config.get(0, "conn_slots")
            same = before == after
            print(f"the connection table has {after} slots" + (" already" if same else f"; it had {before}"))
    return 0
