"""The names under /proc/sys/net/ipv4/vs (facts 9.4): what each is by default, what may be written, what it means here.

Rules of this file: it is data, and functions from texts to values and back; no I/O. What may be written to a name, and
what is made of it, is what the kernel's own files make of the same bytes.
"""

import errno
import re
from collections.abc import Mapping
from typing import NamedTuple

from pylvs.errors import InvalidValue, NoSuchSysctl

PREFIX = "net.ipv4.vs."
DIRECTORY = "/proc/sys/net/ipv4/vs"
INT_MIN, INT_MAX = -(1 << 31), (1 << 31) - 1
CPUS_MAX = 1024  # est_cpus of the shared structure has as many bits
_JIFFIES_MAX = INT_MAX // 250  # seconds: the kernel keeps them in ticks, most often 250 a second
_DIGITS_MAX = 21  # the kernel reads a number of at most so many characters, with what stands behind it

Value = int | tuple[int, ...]
Members = Mapping[str, Value]

_MODE = "0 off; 1 automatic, now off; 2 automatic, now on; 3 always on"
_NEEDS_SYNC = "nothing yet: it is kept for the synchronisation of connections"


class Sysctl(NamedTuple):
    """One name.

    Attributes:
        name: as it is called below DIRECTORY.
        default: what it reads in a new director; "" where that depends on the machine.
        low, high: what a number written to it may be.
        unit: of the number; "switch" where only zero and not zero differ.
        meaning: what the kernel does with it.
        here: how pylvs differs from that; "" where it does the same.
        document: where the kernel documents it: "ipvs-sysctl" (its networking documents) or "" (nowhere).
    """

    name: str
    default: str
    low: int
    high: int
    unit: str
    meaning: str
    here: str = ""
    document: str = "ipvs-sysctl"

    @property
    def accepted(self) -> str:
        """What may be written, in words."""
        if self.name in _FORMS:
            return _FORMS[self.name]
        if (self.low, self.high) == (INT_MIN, INT_MAX):
            return "any number of 32 bits"
        return f"{self.low} to {self.high}"


def _switch(name: str, default: int, meaning: str, here: str = "", document: str = "ipvs-sysctl") -> Sysctl:
    return Sysctl(name, str(default), INT_MIN, INT_MAX, "switch", meaning, here, document)


_FORMS = {
    "sync_threshold": "two numbers T P, neither negative, T less than P unless P is 0; one number changes only T",
    "sync_ports": "a power of two: 1, 2, 4, ...",
    "est_cpulist": "a list of CPUs such as 0-3,6; all; or an empty list",
}

ALL = (
    Sysctl(
        "am_droprate", "10", INT_MIN, INT_MAX, "connections",
        "drop_packet in mode 3 drops every so manieth packet that would create a connection; 1 drops all of them",
    ),
    Sysctl(
        "amemthresh", "1024", INT_MIN, INT_MAX, "pages",
        "below so much free memory the automatic modes of drop_entry, drop_packet and secure_tcp switch on; "
        "0 or less: never",
        "a connection table of which less than 1/16 is free counts as short of memory, too: its memory was taken at "
        "load. Free memory itself counts where the kernel lets it be seen (pylvs status says so)",
    ),
    _switch(
        "backup_only", 0, "while this director is a backup it forwards nothing",
        "it counts from when a backup daemon runs, of which there is none yet",
    ),
    _switch(
        "cache_bypass", 0,
        "packets of a service by mark that no real server takes, a transparent cache's, go on to where the client "
        "wanted to go",
        "a destination that is the director's own, or that no route leads to, is answered with an ICMP error",
    ),
    Sysctl(
        "conn_lfactor", "-4", -8, 8, "binary logarithm",
        "how full the kernel's connection table may be before it grows",
        "nothing: this table has the size that it is given (pylvs load --conn-tab-bits), and serves well until nearly "
        "full", "",
    ),
    Sysctl(
        "conn_max", str(1 << 30), 0, 1 << 30, "connections",
        "no new connection or persistence template while there are so many of both (counted as dropped_conn_max)",
        "looked at before a connection is made: CPUs that make one at the same moment may go past it by one each", "",
    ),
    Sysctl(
        "conn_reuse_mode", "1", INT_MIN, INT_MAX, "bits",
        "a SYN that meets its own old connection: 0 goes where that went; otherwise one in TIME_WAIT or CLOSE is "
        "scheduled anew; bit value 2: one in FIN_WAIT whose replies do not pass here, too",
    ),
    _switch(
        "conntrack", 0, "let the kernel's connection tracking see balanced connections",
        "new connections are then forwarded by the kernel, addressed to their real server: its "
        "FORWARD chain and routing count for them, and ip_forward must be on (pylvs status says if it is not)",
    ),
    Sysctl(
        "debug_level", "0", INT_MIN, INT_MAX, "level", "how much the kernel's IPVS logs, if it was built for that",
        "nothing: pylvs status --drops says what became of every packet",
    ),
    Sysctl(
        "drop_entry", "0", 0, 3, _MODE,
        "each second look at a random 1/32 of the connection table and drop half-open connections, and some of those "
        "that had few packets and have been idle for a minute",
    ),
    Sysctl(
        "drop_packet", "0", 0, 3, _MODE,
        "drop every so manieth packet that would create a connection: amemthresh / (amemthresh - available memory) in "
        "the automatic modes, am_droprate in mode 3",
    ),
    Sysctl(
        "est_cpulist", "", 0, CPUS_MAX - 1, "CPUs", "on which CPUs rates are estimated; an empty list stops that",
        "a list that is not empty changes nothing: a timer in the kernel estimates, on the CPU where it is", "",
    ),
    Sysctl(
        "est_nice", "0", -20, 19, "nice value", "of the kernel's estimating threads",
        "nothing: there are no such threads", "",
    ),
    _switch(
        "expire_nodest_conn", 0,
        "a packet of a connection whose real server was removed ends it, instead of being dropped while it waits for "
        "the real server to come back",
    ),
    _switch(
        "expire_quiescent_template", 0,
        "a persistence template of a real server of weight 0 takes no new connections",
    ),
    _switch(
        "ignore_tunneled", 0, "leave packets alone that came to the director in others (IPIP, GRE and their like)",
        "what comes out of GUE's tunnels, too; Linux 6.1 and 6.12 balance all of them in spite of it", "",
    ),
    Sysctl(
        "lblc_expiration", "86400", -_JIFFIES_MAX, _JIFFIES_MAX, "seconds",
        "scheduler lblc forgets a destination that was not asked for so long", "", "",
    ),
    Sysctl(
        "lblcr_expiration", "86400", -_JIFFIES_MAX, _JIFFIES_MAX, "seconds",
        "scheduler lblcr forgets a destination that was not asked for so long", "", "",
    ),
    _switch(
        "nat_icmp_send", 0, "tell a LVS-NAT real server whose connection is unknown: ICMP port unreachable",
        "only what the director would forward: to its own addresses, its own stack answers",
    ),
    _switch(
        "pmtu_disc", 1, "answer packets that are too big with ICMP fragmentation needed",
        "of tunnels alone, as in the kernel; 0: what does not fit a tunnel's way leaves in fragments", "",
    ),
    _switch(
        "run_estimation", 1, "0: counters and rates that listings show stand still",
        "switched off by command they stand still at that moment, not at what was last shown", "",
    ),
    _switch("schedule_icmp", 0, "an ICMP error may create a connection for what it reports", "", ""),
    Sysctl(
        "secure_tcp", "0", 0, 3, _MODE,
        "use the stricter table of TCP's states: half-open connections are shorter lived, and under LVS-NAT a "
        "connection is established after the whole handshake",
    ),
    _switch("sloppy_sctp", 0, "any SCTP packet may create a connection, not only INIT", "", ""),
    _switch("sloppy_tcp", 0, "any TCP packet but RST may create a connection, not only SYN", "", ""),
    _switch(
        "snat_reroute", 1,
        "replies of LVS-NAT are routed as if the director sent them, from the service's address; 0: as packets from "
        "their real server",
    ),
    Sysctl(
        "svc_lfactor", "-3", -8, 8, "binary logarithm",
        "how full the kernel's table of services may be before it grows",
        "nothing: there is room for as many services as pylvs load --max-services says", "",
    ),
    Sysctl(
        "sync_persist_mode", "0", INT_MIN, INT_MAX, "mode", "1: of persistent services only templates are synchronised",
        _NEEDS_SYNC,
    ),
    Sysctl("sync_ports", "1", 1, INT_MAX, "threads", "over how many ports and threads to synchronise", _NEEDS_SYNC, ""),
    Sysctl(
        "sync_qlen_max", "", 0, (1 << 63) - 1, "messages", "how many messages may wait to be sent", _NEEDS_SYNC, "",
    ),
    Sysctl(
        "sync_refresh_period", "0", -_JIFFIES_MAX, _JIFFIES_MAX, "seconds",
        "synchronise a connection again when its timer moved by so much; 0: by packets, as sync_threshold says",
        _NEEDS_SYNC, "",
    ),
    Sysctl(
        "sync_retries", "0", 0, 3, "messages", "how often each refresh is sent again", _NEEDS_SYNC, "",
    ),
    Sysctl(
        "sync_sock_size", "0", INT_MIN, INT_MAX, "bytes", "of the socket's buffer; 0: the system's", _NEEDS_SYNC, "",
    ),
    Sysctl(
        "sync_threshold", "3\t50", 0, INT_MAX, "packets",
        "a connection is synchronised at its T-th packet, and then every P packets", _NEEDS_SYNC,
    ),
    Sysctl("sync_version", "1", 0, 1, "version", "of the messages that are sent", _NEEDS_SYNC),
)  # fmt: skip

NAMES = {sysctl.name: sysctl for sysctl in ALL}
DEFENCES = ("drop_entry", "drop_packet", "secure_tcp")


def find(name: str) -> Sysctl:
    """One name: "drop_entry", "net.ipv4.vs.drop_entry", or with slashes.

    Raises:
        NoSuchSysctl
    """
    short = name.replace("/", ".").removeprefix(PREFIX)
    if short not in NAMES:
        raise NoSuchSysctl(f"there is no {PREFIX}{short}; pylvs sysctl -aN lists what there is")
    return NAMES[short]


# ---- from members to texts ------------------------------------------------------------------------------------------


def defaults(cpus: int, pages: int) -> dict[str, Value]:
    """The members of a new director's shared structure.

    Args:
        cpus: how many CPUs the machine may have.
        pages: its memory.
    """
    members: dict[str, Value] = {
        sysctl.name: int(sysctl.default) for sysctl in ALL if sysctl.default and "\t" not in sysctl.default
    }
    members |= {"sync_threshold": 3, "sync_period": 50, "sync_qlen_max": pages // 32}
    return members | _cpu_members(range(min(cpus, CPUS_MAX)))


def read(name: str, members: Members) -> str:
    """What a name's file holds, without the newline.

    Args:
        name: the short name.
        members: those of the shared structure, at least the name's.
    """
    if name == "sync_threshold":
        return f"{members['sync_threshold']}\t{members['sync_period']}"
    if name == "est_cpulist":
        return _cpu_list(members["est_cpus"])
    return str(members[name])


def members_of(name: str) -> tuple[str, ...]:
    """The members of the shared structure behind a name."""
    return {"sync_threshold": ("sync_threshold", "sync_period"), "est_cpulist": ("est_cpulist", "est_cpus")}.get(
        name, (name,)
    )


def _cpu_list(words: Value) -> str:
    assert isinstance(words, tuple)
    bits = sum(word << 64 * place for place, word in enumerate(words))
    ranges, cpu = [], 0
    while bits >> cpu:
        if bits >> cpu & 1:
            first = cpu
            while bits >> cpu + 1 & 1:
                cpu += 1
            ranges.append(str(first) if first == cpu else f"{first}-{cpu}")
        cpu += 1
    return ",".join(ranges)


# ---- from texts to members ------------------------------------------------------------------------------------------


def write(name: str, text: str, present: Members, cpus: int) -> list[tuple[str, Value]]:
    """What writing `text` to a name's file changes: members and their new values, in the order in which to store them.

    The order is such that what holds before and after holds in between, too (sync_threshold: T below P).

    Args:
        name: the short name.
        text: what is written; nothing at all changes nothing.
        present: the name's members as they are.
        cpus: how many CPUs the machine may have.

    Raises:
        InvalidValue: with the kernel's errno, EINVAL or ERANGE.
    """
    sysctl = NAMES[name]
    if not text:
        return []
    if name == "est_cpulist":
        return list(_cpu_members(_cpus(text, cpus)).items())
    if name == "sync_threshold":
        return _threshold(sysctl, text, present)
    (value,) = _numbers(sysctl, text, 1)
    if not sysctl.low <= value <= sysctl.high or (name == "sync_ports" and value & value - 1):
        raise _wrong(sysctl, text)
    return [(name, value)]


def _wrong(sysctl: Sysctl, text: str, number: int = errno.EINVAL) -> InvalidValue:
    return InvalidValue(f"{PREFIX}{sysctl.name} cannot be '{text.strip()}'; it may be {sysctl.accepted}", number)


def _numbers(sysctl: Sysctl, text: str, most: int) -> list[int]:
    """The first numbers of a text; what stands behind them is nobody's."""
    numbers: list[int] = []
    rest = text.lstrip(" \t\n\v\f\r")
    while rest and len(numbers) < most:
        found = re.match(r"-?(?:0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)", rest)
        # a number ends at white space: "3,50" is none
        if not found or len(found[0]) >= _DIGITS_MAX or rest[found.end() :][:1] not in ("", " ", "\t", "\n"):
            raise _wrong(sysctl, text)
        word = found[0]
        digits = word.removeprefix("-")
        base = 16 if digits[:2] in ("0x", "0X") else 8 if digits[0] == "0" else 10
        numbers.append(int(word, base))
        rest = rest[found.end() :].lstrip(" \t\n\v\f\r")
    if not numbers or not all(min(sysctl.low, INT_MIN) <= number <= max(sysctl.high, INT_MAX) for number in numbers):
        raise _wrong(sysctl, text)
    return numbers


def _threshold(sysctl: Sysctl, text: str, present: Members) -> list[tuple[str, Value]]:
    old = present["sync_period"]
    assert isinstance(old, int)
    numbers = _numbers(sysctl, text, 2)
    threshold, period = numbers[0], numbers[1] if len(numbers) > 1 else old
    if threshold < 0 or period < 0 or (period and threshold >= period):
        raise _wrong(sysctl, text)
    both: list[tuple[str, Value]] = [("sync_threshold", threshold), ("sync_period", period)]
    # the wider period first on the way up, last on the way down; 0 is the widest
    return both[::-1] if not period or (old and period >= old) else both


def _cpu_members(cpus: range | set[int]) -> dict[str, Value]:
    words = [0] * (CPUS_MAX // 64)
    for cpu in cpus:
        words[cpu // 64] |= 1 << cpu % 64
    return {"est_cpus": tuple(words), "est_cpulist": len(cpus)}


def _cpus(text: str, cpus: int) -> set[int]:
    """A CPU list in the kernel's form: ranges, each of them all or with :used/group, N for the last CPU, all."""
    sysctl = NAMES["est_cpulist"]
    chosen: set[int] = set()
    for region in re.split(r"[\s,]+", text.strip(" \t\n\v\f\r,")):
        if not region:
            continue
        found = re.fullmatch(r"(?i:(all))?(\d+|N)?(?:-(\d+|N))?(?::(\d+)/(\d+))?", region)
        if not found or bool(found[1]) == bool(found[2]) or (found[1] and found[3]):
            raise _wrong(sysctl, text)
        if found[4] and not (found[1] or found[3]):
            raise _wrong(sysctl, text)  # a pattern is one of a range
        first = 0 if found[1] else _cpu(found[2], cpus)
        last = cpus - 1 if found[1] else _cpu(found[3] or found[2], cpus)
        group = int(found[5]) if found[4] else 1
        used = int(found[4]) if found[4] else 1
        if first > last or not group or used > group:
            raise _wrong(sysctl, text)
        if last >= min(cpus, CPUS_MAX):
            raise InvalidValue(
                f"{PREFIX}est_cpulist cannot be '{text.strip()}': the last CPU is number {cpus - 1}", errno.ERANGE
            )
        chosen |= {cpu for cpu in range(first, last + 1) if (cpu - first) % group < used}
    return chosen


def _cpu(word: str, cpus: int) -> int:
    if word != "N" and int(word) >= 1 << 32:
        raise InvalidValue(f"{PREFIX}est_cpulist cannot name a CPU {word}", errno.EOVERFLOW)
    return cpus - 1 if word == "N" else int(word)
