"""pylvs ftp-ports: where the FTP helper reads along."""

import argparse
import sys

from pylvs.datapath import ftpports
from pylvs.director import Director
from pylvs.errors import InvalidValue

NONE, DEFAULT = "none", "default"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="pylvs ftp-ports",
        description="The ports on which the FTP helper reads along with LVS-NAT connections: what `modprobe ip_vs_ftp "
        "ports=21,2121` says to the kernel. Without ports: those in force. With some: these, and no others, from the "
        "next connection on.",
    )
    parser.add_argument("ports", nargs="*", metavar="PORT", help=f"up to {ftpports.MOST} of them, or: none, default")
    arguments = parser.parse_args(argv)
    try:
        ports = _ports(arguments.ports)
    except InvalidValue as error:
        print(f"pylvs ftp-ports: {error}", file=sys.stderr)
        return 2
    with Director() as director:
        if ports is not None:
            director.set_ftp_ports(ports)
            return 0
        print(*director.ftp_ports() or (NONE,))
    return 0


def _ports(words: list[str]) -> tuple[int, ...] | None:
    if not words:
        return None
    if words == [NONE]:
        return ()
    if words == [DEFAULT]:
        return ftpports.DEFAULT
    for word in words:
        if not (word.isascii() and word.isdigit()):
            raise InvalidValue(f"'{word}' is no port; ports are numbers, or: none, default")
    return ftpports.checked(int(word) for word in words)
