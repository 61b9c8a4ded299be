"""The compiled programs: loading them over one set of maps, and telling one build from another."""

import os
import struct
from collections.abc import Sequence

from pylvs.datapath.maps import possible_cpus
from pylvs.errors import DatapathError
from pylvs.protocols import tcp

NAMES = ("tc", "sweep")


def fingerprint() -> bytes:
    """What tells one build of the programs from another."""
    from hashlib import sha256

    from pylvs.datapath.object import DIRECTORY

    digest = sha256()
    for name in NAMES:
        try:
            with open(os.path.join(DIRECTORY, f"{name}.bpf.o"), "rb") as file:
                digest.update(file.read())
        except FileNotFoundError:
            raise DatapathError("the eBPF objects are missing: pylvs was not built; run make setup") from None
    return digest.digest()


def load(
    sizes: dict[str, int], existing: dict[str, int], groups: int, seeds: Sequence[int]
) -> tuple[dict[str, int], dict[str, int]]:
    """Load both objects over one set of maps.

    Args:
        sizes: map -> entries, for maps that are to be made.
        existing: map -> file descriptor, for maps that are there.
        groups: how many groups of slots the connection table has.
        seeds: of its hash.

    Returns:
        (maps, programs) as file descriptors.
    """
    from pylvs.datapath.object import Object

    constants = {
        "table_groups": struct.pack("=I", groups),
        "table_seeds": struct.pack(f"={len(seeds)}Q", *seeds),
        "tcp_next": tcp.table_bytes(),
        "tcp_active": tcp.active_bytes(),
        "tcp_half_open": tcp.half_open_bytes(),
        "cpus": possible_cpus().to_bytes(4, "little"),
    }
    traffic = Object("tc", sizes, existing, constants)
    # the second object works on the maps that the first one has made
    heartbeat = Object("sweep", sizes, {**traffic.maps, **existing}, constants)
    maps = {**heartbeat.maps, **traffic.maps}
    for name, fd in heartbeat.maps.items():
        if maps[name] != fd:
            os.close(fd)
    for name in [name for name in maps if "." in name]:  # constants belong to their program alone
        os.close(maps.pop(name))
    return maps, {**traffic.programs, **heartbeat.programs}
