"""pylvs attach: the packet path on interfaces that came after it, by name, all of them, or as they come."""

import select
import signal
import sys
from _socket import socket

from pylvs.cli.parsing import Parser
from pylvs.datapath import instance, interfaces, netlink, resize
from pylvs.datapath.markrules import MarkTable
from pylvs.errors import DatapathError, LVSError, Unloaded

_DESCRIPTION = """\
Put the packet path on an interface that appeared after it was loaded, or that was
detached. Each ipvsadm command that changes something does that for newcomers, but
for those that were detached by hand; --all does it at once, and --watch, in the
foreground, whenever one comes.
"""
_EXAMPLES = (
    ("pylvs attach eth1", "this one, though it was detached"),
    ("pylvs attach --all", "whatever has come"),
    ("pylvs attach --watch", "and whatever will, until SIGTERM"),
)
_NOT_LOADED = "no director is loaded in this network namespace: pylvs load, or ipvsadm -A"


def parsers() -> list[Parser]:
    """For pylvs.cli.parsing."""
    parser = Parser(prog="pylvs attach", description=_DESCRIPTION, examples=_EXAMPLES)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("interface", nargs="?", metavar="IFACE", help="its name, as ip link shows it")
    which.add_argument(
        "--all", action="store_true", help="every interface that it is not on, but for those that were detached"
    )
    which.add_argument(
        "--watch",
        action="store_true",
        help="stay, and attach interfaces as they appear; the director may be loaded and unloaded meanwhile. Their "
        "addresses, from which ICMP errors and tunnels come, are learned, too. Ends with 0 at SIGINT or SIGTERM",
    )
    return [parser]


def main(argv: list[str]) -> int:
    (parser,) = parsers()
    arguments = parser.parse_args(argv)
    if arguments.watch:
        return _watch()
    running = instance.find()
    if running is None:
        raise DatapathError(_NOT_LOADED)
    if arguments.all:
        names = _look_around(running)
        if not names:
            print(f"nothing to attach to{_left_out(running)}")
        return 0
    interface = interfaces.find(arguments.interface)
    with running.locked():
        resize.finish(running)  # or an interface would get programs that are about to go
        running.attach(interface)
        print(f"attached to {interface.name} ({running.attached()[interface.ifindex]})")
    return 0


def _look_around(running: instance.Instance) -> list[str]:
    """Attach newcomers and learn addresses; says which, and returns their names."""
    with running.locked():
        resize.finish(running)
        found = running.attach_newcomers()
        running.learn_addresses()
        MarkTable(running).look_around()
        how = running.attached() if found else {}
    for interface in found:
        print(f"attached to {interface.name} ({how.get(interface.ifindex, 'it has gone')})", flush=True)
    return [interface.name for interface in found]


def _left_out(running: instance.Instance) -> str:
    """Why the packet path is not on the interfaces that it is not on."""
    there, on = netlink.interfaces(), running.attached()
    why = [
        f"{interface.name} ({interfaces.unfit(interface, there) or 'detached'})"
        for interface in there
        if interface.ifindex not in on
    ]
    return f"; left alone: {', '.join(why)}" if why else ""


# ---- watching -------------------------------------------------------------------------------------------------------


def _watch() -> int:
    """Look around whenever the kernel tells of an interface or an address, until a signal comes."""
    instance.permit()
    news, (stop, stopped) = netlink.listen(), _signals()
    try:
        told = ""
        _say("watching interfaces")
        while True:
            told = _once(told)
            if stop in select.select([news, stop], [], [])[0]:
                _say("stopped")
                return 0
            netlink.drain(news)
    finally:
        signal.set_wakeup_fd(-1)
        for one in (news, stop, stopped):
            one.close()


def _signals() -> tuple[socket, socket]:
    """(what is readable when a signal has come, what the signal writes to): a change under way is finished first."""
    from socket import socketpair

    stop, stopped = socketpair()
    stopped.setblocking(False)
    signal.set_wakeup_fd(stopped.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    return stop, stopped


def _once(told: str) -> str:
    """Look around if a director is loaded now. What goes wrong is said once, and the next news is another try."""
    try:
        running = instance.find()
        if running is None:
            return told  # whoever loads one attaches it to all that is there
        try:
            _look_around(running)
        finally:
            running.close()
    except Unloaded:
        return told
    except LVSError as error:
        if str(error) != told:
            print(f"pylvs: {error}", file=sys.stderr, flush=True)
        return str(error)
    return ""


def _say(line: str) -> None:
    print(line, flush=True)
