"""pylvs ftp-ports: where the FTP helper reads along."""

from pylvs.cli.parsing import Parser
from pylvs.datapath import ftpports
from pylvs.director import Director
from pylvs.errors import InvalidValue

NONE, DEFAULT = "none", "default"
_DESCRIPTION = """\
The ports on which the FTP helper reads along with LVS-NAT connections, and makes
way for their connections for data: what `modprobe ip_vs_ftp ports=21,2121` says to
the kernel. Without ports: those in force. With some: these, and no others, from
the next connection on.
"""
_EXAMPLES = (
    ("pylvs ftp-ports", "those in force"),
    ("pylvs ftp-ports 21 2121", "these two"),
    ("pylvs ftp-ports none", "no helper"),
    ("pylvs ftp-ports default", "21"),
)


def parsers() -> list[Parser]:
    """For pylvs.cli.parsing."""
    parser = Parser(prog="pylvs ftp-ports", description=_DESCRIPTION, examples=_EXAMPLES)
    parser.add_argument("ports", nargs="*", metavar="PORT", help=f"up to {ftpports.MOST} of them, or: none, default")
    return [parser]


def main(argv: list[str]) -> int:
    (parser,) = parsers()
    arguments = parser.parse_args(argv)
    try:
        ports = _ports(arguments.ports)
    except InvalidValue as error:
        parser.error(str(error))
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
