"""pylvs install-alternative: our ipvsadm, ipvsadm-save and ipvsadm-restore in the place of the system's."""

import os
import sysconfig

from pylvs.alternative import AlternativeError, System
from pylvs.cli.parsing import Parser

_DESCRIPTION = """\
Put links to our ipvsadm, ipvsadm-save and ipvsadm-restore, their manual pages and
completions where the system has its own, so that scripts, units and init scripts
that call /sbin/ipvsadm call ours. The originals stay beside them, under names that
end in .pylvs-original, and --remove brings them back as they were, also after an
interruption. On Debian and its kin dpkg-divert keeps upgrades of the package
ipvsadm away from our links.

Nothing else is changed: neither services nor the kernel's IPVS.
"""
_EXAMPLES = (
    ("pylvs install-alternative --dry-run", "what would be done"),
    ("pylvs install-alternative", "do it"),
    ("pylvs install-alternative --status", "who has each name"),
    ("pylvs install-alternative --remove", "as it was"),
    ("pylvs install-alternative --root /mnt/image", "in an image"),
)


def parsers() -> list[Parser]:
    """For pylvs.cli.parsing."""
    parser = Parser(prog="pylvs install-alternative", description=_DESCRIPTION, examples=_EXAMPLES)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--remove", action="store_true", help="give the names back to the originals")
    what.add_argument("--status", action="store_true", help="say who has each name, and change nothing")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument(
        "--root", metavar="DIR", default="/", help="do it below DIR, where an image is (default %(default)s)"
    )
    parser.add_argument(
        "--prefix", metavar="DIR",
        help="where pylvs is, as seen from --root, with DIR/bin/ipvsadm and so on; default: where this one is",
    )  # fmt: skip
    return [parser]


def main(argv: list[str]) -> int:
    (parser,) = parsers()
    arguments = parser.parse_args(argv)
    root = os.path.realpath(arguments.root)
    if arguments.prefix and not arguments.prefix.startswith("/"):
        parser.error(f"--prefix is where links point to, and begins with a slash: /opt/pylvs, not {arguments.prefix}")
    prefix = arguments.prefix or _below(root, sysconfig.get_path("data"))
    system = System(root, prefix, dry=arguments.dry_run)
    if arguments.status:
        print("\n".join(system.status()))
        return 0
    if os.geteuid() and root == "/" and not arguments.dry_run:
        raise AlternativeError("the system's programs are root's: run it as root, or see --dry-run")
    if arguments.remove:
        system.remove()
    else:
        system.install()
    return 0


def _below(root: str, path: str) -> str:
    """A path as seen from a root that it may be below of."""
    return path.removeprefix(root) if root != "/" and path.startswith(root + "/") else path
