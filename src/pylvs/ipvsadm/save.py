"""Saving and restoring: the rules as command lines (`-S`), and command lines taken apart (`-R`)."""

from _socket import AF_INET6
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pylvs.ipvsadm.names import Names
from pylvs.ipvsadm.numbers import signed32
from pylvs.ipvsadm.order import sorted_destinations, sorted_services
from pylvs.ipvsadm.render import learn, netmask, scheduler_flags
from pylvs.model import (
    MASQ,
    SCTP,
    TUN_CSUM,
    TUN_GRE,
    TUN_GUE,
    TUN_REMCSUM,
    TUNNEL,
    UDP,
    RealServer,
    Service,
    VirtualService,
)

PROGRAM = "ipvsadm"
SHOWN = 200  # letters of a line that a message shows
_SEPARATORS = " \t\r\n"  # and nothing else: no quotes, no comments


def rules(entries: Iterable[Service], names: Names) -> Iterator[str]:
    """One line for every service and real server, in the order of the listing.

    Thresholds are not saved; the original does not save them.
    """
    table = list(entries)
    learn(table, names)
    for entry in sorted_services(table):
        svc = entry.service
        name = service_options(svc, names)
        yield f"-A {name}{service_parameters(svc)}"
        for dest in sorted_destinations(entry.destinations):
            rs = dest.server
            server = names.endpoint(rs.address, rs.port, 0 if svc.fwmark else svc.protocol)
            yield f"-a {name} -r {server} {server_parameters(rs)}"


def service_options(svc: VirtualService, names: Names, signed: bool = True) -> str:
    """The options that name a service. `signed`: a mark as the original writes it, who cannot read back a great one."""
    if svc.fwmark:
        mark = signed32(svc.fwmark) if signed else svc.fwmark
        return f"-f {mark}" + (" -6" if svc.family == AF_INET6 else "")
    option = {UDP: "-u", SCTP: "--sctp-service"}.get(svc.protocol, "-t")
    return f"{option} {names.endpoint(svc.address, svc.port, svc.protocol)}"


def service_parameters(svc: VirtualService) -> str:
    """The options of -A and -E that say what a service is like."""
    text = f" -s {svc.scheduler}"
    if svc.persistent:
        text += f" -p {svc.persistent}"
        mask = netmask(svc)
        if mask:
            text += f" -M {mask}"
    if svc.persistence_engine:
        text += f" --pe {svc.persistence_engine}"
    if svc.one_packet:
        text += " -o"
    if svc.scheduler_flags:
        text += f" -b {scheduler_flags(svc)}"
    return text


def server_parameters(rs: RealServer) -> str:
    """The options of -a and -e that say what a real server is like, without thresholds."""
    text = f"{ {MASQ: '-m', TUNNEL: '-i'}.get(rs.method, '-g') } -w {rs.weight}"
    if rs.method != TUNNEL:
        return text
    checksum = {TUN_CSUM: "--tun-csum", TUN_REMCSUM: "--tun-remcsum"}.get(rs.tun_flags, "--tun-nocsum")
    if rs.tun_type == TUN_GUE:
        return f"{text} --tun-type gue --tun-port {rs.tun_port} {checksum}"
    if rs.tun_type == TUN_GRE:
        return f"{text} --tun-type gre {checksum}"
    return f"{text} --tun-type ipip"


class Line(NamedTuple):
    """A line of a restore.

    Attributes:
        number: which one, from 1 on; those without words count.
        shown: how messages show it.
    """

    number: int
    words: list[str]
    text: str

    @property
    def shown(self) -> str:
        text = self.text.strip(_SEPARATORS)
        text = "".join(letter if letter.isprintable() else "?" for letter in text[:SHOWN])
        return text + ("..." if len(self.text.strip(_SEPARATORS)) > SHOWN else "")


def lines(stream: Iterable[str]) -> Iterator[Line]:
    """The lines of a restore that have words."""
    for number, text in enumerate(stream, 1):
        found = words(text)
        if found:
            yield Line(number, found, text)


def words(line: str) -> list[str]:
    """The words of one line of a restore, without the program's name wherever it stands."""
    for separator in _SEPARATORS[1:]:
        line = line.replace(separator, " ")
    # A word of the original ends at a NUL, but only a blank begins the next.
    return [word for word in (text.partition("\0")[0] for text in line.split(" ") if text) if word != PROGRAM]


def save_command(arguments: Sequence[str]) -> list[str] | None:
    """The command line of ipvsadm behind one of ipvsadm-save; None if that has other options than -n."""
    options = [word for word in arguments if word.startswith("-")]
    if any(word != "-n" for word in options):
        return None
    return ["-S", "-n"] if options else ["-S"]
