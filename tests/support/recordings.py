"""The recorded answers of kernel IPVS under tests/golden, and which of them this version cannot be asked yet.

A case that needs a feature of UNPLAYED is not played; tests/golden/README.md has the same list for readers. A feature
that gets built is struck out here, and its cases are played from then on.
"""

import json
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parents[1] / "golden"

SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos")
UNPLAYED = {}

Case = dict[str, Any]


def cases(folder: str) -> list[Case]:
    """All cases of a folder's files."""
    found: list[Case] = []
    for path in sorted((GOLDEN / folder).glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        found += content if isinstance(content, list) else [content]
    return found


def needs(case: Case) -> set[str]:
    """What of UNPLAYED a case needs."""
    return {name for name, value in case.get("sysctl", {}).items() if name in UNPLAYED and value}


def mark_of(case: Case, destination: str) -> int:
    """The firewall mark that netfilter gave to a case's packets to this address."""
    network, mark = case.get("mark") or ("::/0", 0)
    return int(mark) if ip_address(destination) in ip_network(network) else 0


def playable(folder: str) -> list[Case]:
    """The cases of a folder that this version can be asked."""
    return [case for case in cases(folder) if not needs(case)]
