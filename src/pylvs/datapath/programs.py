"""The compiled programs: loading them over one set of maps, and telling one build from another."""

import os
import struct
from collections.abc import Collection, Mapping, Sequence

from pylvs.datapath import _layout, syscall
from pylvs.datapath.maps import possible_cpus
from pylvs.errors import DatapathError
from pylvs.helpers import sip
from pylvs.protocols import sctp, tcp, timeouts

RESIZING = "_resizing"
PARITY = 1 << 25  # in the number of a group, of table.h
STEPS = "steps"
"""The array of programs that `ingress` passes packets on to. The kernel empties it when its last descriptor and pin are
gone, so it is handled, and pinned, like the programs."""
LINKLESS = "_linkless"
"""Behind the names of those programs that work on interfaces without link-layer headers."""
SHARES = (("ingress",), ("related", "orphan"), ("ftp", "complaint"))
"""Programs that are verified beside each other; all others are a share, too. Each is about as much work as the next."""
NAMES = ("tc", "sweep", f"tc{RESIZING}", f"sweep{RESIZING}", f"tc{LINKLESS}", f"tc{LINKLESS}{RESIZING}")


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
    sizes: Mapping[str, int],
    existing: Mapping[str, int],
    constants: Mapping[str, bytes],
    kind: str = "",
    linkless: bool = False,
) -> tuple[dict[str, int], dict[str, int]]:
    """Load the objects over one set of maps.

    Args:
        sizes: map -> entries, for maps that are to be made.
        existing: map -> file descriptor, for maps that are there; for RESIZING all of them.
        constants: of this director (`table_constants`).
        kind: "" for the usual programs, RESIZING for those that work on two connection tables.
        linkless: those for interfaces without link-layer headers, too.

    Returns:
        (maps, programs) as file descriptors. Among the programs are their arrays, STEPS.
    """
    every = {**constants, **_constants()}
    maps, traffic = _load(f"tc{kind}", sizes, existing, every, {f"sweep{kind}"})
    steps = _steps(maps, traffic)
    for name in [name for name in maps if "." in name]:  # constants belong to their program alone
        os.close(maps.pop(name))
    loaded = {**traffic, STEPS: steps}
    if linkless:
        loaded |= load_linkless(maps, constants, kind)
    return maps, loaded


def load_linkless(maps: Mapping[str, int], constants: Mapping[str, bytes], kind: str = "") -> dict[str, int]:
    """Load the packet path for interfaces without link-layer headers over the maps of a director: its programs."""
    taken, traffic = _load(f"tc{LINKLESS}{kind}", {}, maps, {**constants, **_constants()})
    loaded = {f"{name}{LINKLESS}": fd for name, fd in traffic.items()}
    loaded[f"{STEPS}{LINKLESS}"] = _steps(taken, traffic)
    for fd in taken.values():
        os.close(fd)
    return loaded


def _load(
    name: str,
    sizes: Mapping[str, int],
    existing: Mapping[str, int],
    constants: Mapping[str, bytes],
    others: Collection[str] = (),
) -> tuple[dict[str, int], dict[str, int]]:
    """Load an object, and others that work on its maps. Returns all maps and programs.

    It is the kernel's verifier that takes time, for each program by itself. So first the maps are made, and then
    threads load a share of the programs each, on as many CPUs as there are.
    """
    from concurrent.futures import ThreadPoolExecutor

    from pylvs.datapath.object import Object

    cpus = len(os.sched_getaffinity(0))
    shares = SHARES if cpus > 1 else ()  # an object has to be read for each
    named = {title for share in shares for title in share}
    made = Object(name, sizes, existing, constants, wanted=lambda _: False)
    shared = {**existing, **{title: fd for title, fd in made.maps.items() if "." not in title}}
    parts, failed = [made], None
    with ThreadPoolExecutor(cpus) as pool:
        jobs = [pool.submit(Object, name, {}, shared, constants, wanted=share.__contains__) for share in shares]
        jobs.append(pool.submit(Object, name, {}, shared, constants, wanted=lambda title: title not in named))
        jobs += [pool.submit(Object, other, sizes, shared, constants) for other in others]
    for job in jobs:
        error = job.exception()
        if error is None:
            parts.append(job.result())
        failed = failed or error
    if failed:
        for part in parts:
            part.close()
        raise failed
    maps: dict[str, int] = {}
    loaded: dict[str, int] = {}
    for part in parts:
        loaded |= part.programs
        for title, fd in part.maps.items():
            if title in maps:
                os.close(fd)
            else:
                maps[title] = fd
    return maps, loaded


def _steps(maps: dict[str, int], loaded: Mapping[str, int]) -> int:
    """Take an object's array of programs out of its maps, and fill it."""
    steps = maps.pop(STEPS)
    titles = {value: name for name, value in vars(_layout).items() if name.startswith("STEP_")}
    for number in range(_layout.STEPS):
        program = loaded[titles[number].removeprefix("STEP_").lower()]
        syscall.map_update(steps, struct.pack("=I", number), struct.pack("=I", program))
    return steps


def pin_name(name: str, fd: int) -> str:
    """What one of load's programs is pinned as: an array has a number, for two of them must live for a moment."""
    return f"{name}_{syscall.map_id(fd)}" if name.startswith(STEPS) else name


def _constants() -> dict[str, bytes]:
    """What the programs know of protocols and of the machine."""
    return {
        "tcp_next": tcp.table_bytes(),
        "tcp_active": tcp.active_bytes(),
        "tcp_half_open": tcp.half_open_bytes(),
        **_sip_constants(),
        "sctp_next": sctp.table_bytes(),
        "sctp_events": sctp.chunk_bytes(),
        "sctp_active": sctp.active_bytes(),
        "sctp_half_open": sctp.half_open_bytes(),
        "sctp_shift": sctp.shift_bytes(),
        "tcp_thinned": tcp.thinned_bytes(),
        "sctp_thinned": sctp.thinned_bytes(),
        "cpus": possible_cpus().to_bytes(4, "little"),
    }


def _sip_constants() -> dict[str, bytes]:
    marks = {f"sip_{name.lower()}": sip.STATES.index(name) for name in ("VALUE", "WORD", "NOTHING", "FOUND", "FAILED")}
    numbers = {name: struct.pack("=I", number) for name, number in marks.items()}
    return {"sip_class": sip.classes_bytes(), "sip_table": sip.table_bytes(), **numbers}


def timeouts_ms() -> tuple[int, ...]:
    """The default timeouts in the packet path's order, in milliseconds."""
    return timeouts.DEFAULTS_MS


def table_constants(number: int, groups: int, seeds: Sequence[int], old_groups: int = 0) -> dict[str, bytes]:
    """What the programs know of the connection table: which one it is, its size in groups of slots, that of the one
    that it takes over from, and the secrets of its hash."""
    return {
        "table_parity": struct.pack("=I", PARITY if number % 2 else 0),
        "table_groups": struct.pack("=I", groups),
        "old_table_groups": struct.pack("=I", old_groups),
        "table_seeds": struct.pack(f"={len(seeds)}Q", *seeds),
    }
