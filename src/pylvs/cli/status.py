"""pylvs status: the state of this network namespace's director, its connection table, and every packet's reason."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from pylvs.cli.parsing import Parser
from pylvs.datapath import _layout, instance, interfaces, loading, netlink, table
from pylvs.datapath.instance import Instance
from pylvs.datapath.journal import JournaledTable
from pylvs.datapath.layout import REASONS
from pylvs.sysctl import DEFENCES

# reason -> what a person needs to know of it
MEANING = {
    "forwarded_nat_request": "LVS-NAT, client to real server",
    "forwarded_nat_reply": "LVS-NAT, real server to client",
    "forwarded_local": "translated, for a real server or a client that is the director itself",
    "forwarded_by_stack": "translated, for the stack to forward (net.ipv4.vs.conntrack)",
    "forwarded_route": "LVS-DR, client to real server",
    "forwarded_bypass": "past the real servers, to where the client wanted to go (cache_bypass)",
    "forwarded_tunnel": "LVS-TUN, client to real server",
    "forwarded_related": "ICMP errors about connections, to that side whose packet they quote",
    "up_not_ip": "neither IPv4 nor IPv6: ARP and the like",
    "up_other_host": "sent to another machine's link-layer address, or to all",
    "up_vlan": "of a VLAN; it comes again, without its tag, on the VLAN's own interface",
    "up_malformed": "broken or truncated IP header; the stack drops and counts it",
    "up_martian": "from an address that nobody can have",
    "up_protocol": "neither TCP, UDP, SCTP, AH, ESP nor an ICMP error",
    "up_fragment": "a fragment of what is handed up; those without ports follow their first one",
    "up_no_service": "no virtual service and no connection",
    "up_no_connection": "TCP to a service, without a connection and no SYN; the stack answers RST",
    "up_just_ended": "its connection ended while the packet was at it",
    "up_client_port_20": "from client port 20, which is never balanced",
    "up_ftp_data": "to a port where data of an FTP service might come, but not of one that is known",
    "up_local_real_server": "the chosen real server is the director itself",
    "up_tunnelled": "out of a tunnel, where nothing is balanced again (net.ipv4.vs.ignore_tunneled)",
    "up_backup": "this director is a backup that balances nothing (net.ipv4.vs.backup_only)",
    "up_reply_unchanged": "a reply of LVS-DR that passed through the director",
    "up_reply_ttl": "a reply whose TTL is over; the stack tells the real server",
    "up_reply_for_stack": "replies that the stack forwards (net.ipv4.vs.conntrack)",
    "up_reply_translated": "replies to the director's own requests, on their last steps",
    "up_reply_too_big": "a reply too big for the way to the client; the stack tells the real server",
    "up_reply_not_routed": "a reply without a route to its client",
    "up_related_unknown": "ICMP errors about what is no connection's packet",
    "dropped_truncated": "TCP or UDP header cut off",
    "dropped_no_destination": "no real server to take it; answered with ICMP port unreachable",
    "dropped_destination_gone": "its real server was removed; the connection waits for it",
    "dropped_table_full": "the connection table is full",
    "dropped_conn_max": "as many connections as net.ipv4.vs.conn_max allows",
    "dropped_by_defence": "one of those that net.ipv4.vs.drop_packet drops",
    "dropped_contended": "another CPU was making the same connection",
    "dropped_loopback": "from the network to a real server whose address is loopback's",
    "dropped_no_route": "no route to the real server; answered with ICMP host unreachable",
    "dropped_ttl_exceeded": "TTL over; answered with ICMP time exceeded",
    "dropped_too_big": "too big for the way; answered with ICMP fragmentation needed",
    "dropped_needs_fragments": "too big for the way and may be fragmented, but could not be cut",
    "dropped_tunnel_too_narrow": "the way to the real server is too narrow for any packet in a tunnel",
    "dropped_rewrite_failed": "its headers could not be rewritten",
    "dropped_wrong_checksum": "ICMP errors or FTP of LVS-NAT with a wrong checksum, which nobody could tell any more",
    "dropped_by_helper": "of an FTP control connection, and not to be rewritten now; it is sent again",
    "dropped_tunnel_error": "ICMP errors about our tunnels' packets: what they say is remembered, or told on",
    "dropped_orphan": "from a LVS-NAT real server, of no connection (net.ipv4.vs.nat_icmp_send)",
    "held_fragment": "fragments that wait for their datagram's first one now",
    "dropped_fragment": "a fragment of what was dropped, or one that would overlap another",
    "dropped_first_lost": "a fragment whose first one did not come within a second",
    "dropped_hold_full": "a fragment before its first one, and no room to let it wait",
    "answered_icmp": "ICMP errors sent",
    "answered_icmp_limited": "ICMP errors not sent, for the rate limit",
    "sent_reply": "replies that the stack sends, in the service's name",
    "sent_request": "requests that the stack forwards, to the service's address",
    "sent_to_lo": "the director's own requests to services, made to come in",
    "sent_failed": "what the stack has had in its hands and could not be made right as it left: dropped",
}

NEARLY_FULL = 80  # % of the slots: from here on there is a warning
_FILL_ROWS = ((0, 0), (1, 7), (8, 15), (16, 23), (24, 31), (32, 39), (40, 47), (48, 55), (56, 63), (64, 64))
_BAR = 40  # characters for all of something
_ROW = " " * 14

_DESCRIPTION = """\
Show the state of this network namespace's director: where it is attached, how
full its connection table is, and how well that serves.

A connection takes one slot of the table, a LVS-NAT connection two. The slots
stand in groups of 64; a connection's addresses and ports say to which of two
groups it may belong, so the table serves well until nearly all groups are
nearly full. A new connection that finds no room is refused, unless a half-open
one gives way. From 80 % on it is time for a larger table (pylvs load).
"""
_EXAMPLES = (
    ("pylvs status", "the director and its table"),
    ("pylvs status --drops", "what became of every packet"),
    ("pylvs status --json", "for a program"),
    ("pylvs load --conn-tab-bits 22", "a table of 2^22 slots; connections stay"),
)


def parsers() -> list[Parser]:
    """For pylvs.cli.parsing."""
    parser = Parser(
        prog="pylvs status", description=_DESCRIPTION, examples=_EXAMPLES,
        exits={0: "done, also if no director is loaded"},
    )  # fmt: skip
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--drops",
        action="store_true",
        help="every packet's reason: received = forwarded + handed up to the stack + dropped, and the fragments that "
        "wait for their first one",
    )
    form.add_argument("--json", action="store_true", help="all numbers, the packets' reasons too, as one object")
    form.add_argument(
        "--proc",
        action="store_true",
        help="the lines of the kernel's /proc/net/ip_vs_status that mean something here; "
        "a bucket is eight slots, where looking for a connection begins",
    )
    return [parser]


def main(argv: list[str]) -> int:
    (parser,) = parsers()
    arguments = parser.parse_args(argv)
    running = instance.find()
    if running is None:
        print("{}" if arguments.json else "no director is loaded in this network namespace; "
              "the first ipvsadm -A loads one")  # fmt: skip
        return 0
    if arguments.drops:
        _drops(running)
        return 0
    if arguments.proc:
        lines = _proc(running)
    elif arguments.json:
        import json

        lines = iter([json.dumps(_numbers(running))])
    else:
        lines = _status(_numbers(running))
    for line in lines:
        print(line)
    return 0


def _reasons(running: Instance) -> dict[str, int]:
    return {name: running.reasons.sums(number)[0] for number, name in enumerate(REASONS)}


def _numbers(running: Instance) -> dict[str, Any]:
    """All that is to be said, as `--json` says it."""
    config, runtime = running.config, running.runtime
    services = JournaledTable(running)
    with services.settled():
        numbers = list(services.numbers())
    there = netlink.interfaces()
    names = {interface.ifindex: interface for interface in there}
    attached = running.attached()
    usage, probes, reasons = table.usage(running), table.probes(running), _reasons(running)
    return {
        "loaded": config.get(0, "loaded"),
        "outdated": running.outdated(),
        "attached": {names[index].name: how for index, how in sorted(attached.items()) if index in names},
        "not_attached": {i.name: interfaces.unfit(i, there) for i in sorted(there) if i.ifindex not in attached},
        "table": {
            "slots": usage.slots,
            "bits": usage.slots.bit_length() - 1,
            "bytes": usage.size,
            "used": usage.used,
            "connections": usage.connections,
            "refused": reasons["dropped_table_full"],
            "gave_way": runtime.get(0, "gave_way"),
            "groups_by_used_slots": usage.fill,
            "spilled": usage.spilled,
            "groups": probes.groups[1],
            "groups_sampled": probes.groups[0],
            "slots_by_lookup_words": probes.found,
            "slots_not_found": probes.lost,
        },
        "services": len(numbers),
        "max_services": config.get(0, "max_services"),
        "real_servers": sum(len(services.members(number)) for number in numbers),
        "max_dests": config.get(0, "max_dests"),
        "sweep_rounds": runtime.get(0, "sweeps"),
        "sweep_age_ms": (running.now() - runtime.get(0, "swept")) // 1_000_000,
        "timer_error": runtime.get(0, "timer_error"),
        "defences": {
            **{name: running.sysctls.get(0, name) for name in DEFENCES},
            "secure": bool(runtime.get(0, "secure")),
            "dropping_entries": bool(runtime.get(0, "drop_entry")),
            "drop_rate": runtime.get(0, "drop_rate"),
            "entries_dropped": runtime.get(0, "entries_dropped"),
            "packets_dropped": reasons["dropped_by_defence"],
            "free_pages": runtime.get(0, "memory") if runtime.get(0, "memory") >= 0 else None,
            "available_pages": runtime.get(0, "available"),
            "amemthresh": running.sysctls.get(0, "amemthresh"),
            "conn_max": running.sysctls.get(0, "conn_max"),
            "refused_by_conn_max": reasons["dropped_conn_max"],
        },
        "egress": _egress(running),
        "not_forwarding": _not_forwarding(running),
        "packets": reasons,
    }


def _egress(running: Instance) -> list[str]:
    """What the egress program is there for."""
    needs = running.config.get(0, "egress")
    names = {
        _layout.EGRESS_OWN: "the director's own requests",
        _layout.EGRESS_LOCAL: "real servers on the director",
        _layout.EGRESS_STACK: "conntrack",
        _layout.EGRESS_OTHER: "tunnels to real servers of the other family",
    }
    return [name for bit, name in names.items() if needs & bit]


def _not_forwarding(running: Instance) -> list[str]:
    """Switches without which the stack does not forward what conntrack=1 leaves to it."""
    if not running.sysctls.get(0, "conntrack"):
        return []
    families = running.config.get(0, "families")
    wanted = {
        "net.ipv4.ip_forward": families & _layout.SERVES_IPV4,
        "net.ipv6.conf.all.forwarding": families & _layout.SERVES_IPV6,
    }
    return [name for name, serves in wanted.items() if serves and not _is_on(name)]


def _is_on(name: str) -> bool:
    try:
        with open(f"/proc/sys/{name.replace('.', '/')}", encoding="ascii") as file:
            return file.read().strip() != "0"
    except FileNotFoundError:
        return False


def _status(numbers: dict[str, Any]) -> Iterator[str]:
    loaded = datetime.fromtimestamp(numbers["loaded"]).strftime("%Y-%m-%d %H:%M:%S")
    other = ", not this version: pylvs load replaces them" if numbers["outdated"] else ""
    yield f"programs      loaded {loaded}{other}"
    where = ", ".join(f"{name} ({how})" for name, how in numbers["attached"].items())
    yield f"attached      {where or 'nowhere'}"
    if numbers["not_attached"]:
        rest = ", ".join(f"{name} ({why})" if why else name for name, why in numbers["not_attached"].items())
        yield f"not attached  {rest}"
    if numbers["egress"]:
        yield f"egress        a program there, too, for {', '.join(numbers['egress'])}"
    if numbers["not_forwarding"]:
        yield f"WARNING       conntrack is on, and balanced packets need {' and '.join(numbers['not_forwarding'])} = 1"
    yield from _table(numbers["table"])
    yield (
        f"services      {numbers['services']} of {numbers['max_services']}, "
        f"real servers {numbers['real_servers']} of {numbers['max_dests']}"
    )
    if numbers["timer_error"]:
        yield f"sweep         the timer did not start (error {numbers['timer_error']}): passing packets carry the sweep"
    else:
        yield f"sweep         {numbers['sweep_rounds']} rounds, the last {numbers['sweep_age_ms'] / 1000:.2f} s ago"
    yield from _defences(numbers["defences"])


def _defences(numbers: dict[str, Any]) -> Iterator[str]:
    """Nothing of those that are switched off and have never done anything."""
    rate = numbers["drop_rate"]
    details = {
        "secure_tcp": ("", numbers["secure"]),
        "drop_entry": (f"; so far {numbers['entries_dropped']} connections dropped", numbers["dropping_entries"]),
        "drop_packet": (f"; so far {numbers['packets_dropped']} packets dropped", rate != 0),
    }
    title = "defences"
    for name, (done, on) in details.items():
        mode = numbers[name]
        if mode or on:
            every = f", one of {rate} new connections" if name == "drop_packet" and on else ""
            when = "automatic, " if mode in (1, 2) else ""
            yield f"{title:<14}{name:<11} {when}{'ON' if on else 'off'}{every}{done}"
            title = ""
    if any(numbers[name] in (1, 2) for name in details):
        free = numbers["free_pages"]
        seen = "not to be seen on this kernel: only the table's fill counts" if free is None else f"{free} pages"
        low = "short" if numbers["available_pages"] < numbers["amemthresh"] else "enough"
        yield f"{_ROW}memory      {low} (free memory {seen}; amemthresh {numbers['amemthresh']} pages)"
    if numbers["refused_by_conn_max"]:
        yield (f"{_ROW}conn_max    {numbers['refused_by_conn_max']} connections refused beyond {numbers['conn_max']}")


def _table(numbers: dict[str, Any]) -> Iterator[str]:
    slots, used, bits = numbers["slots"], numbers["used"], numbers["bits"]
    yield (
        f"connections   {numbers['connections']}; so far {numbers['refused']} refused for want of room, "
        f"{numbers['gave_way']} half-open ones gave way"
    )
    yield f"table         {slots} slots (2^{bits}, {numbers['bytes'] / 1e6:.1f} MB), {used} used ({_part(used, slots)})"
    if used * 100 >= slots * NEARLY_FULL:
        if bits < loading.CONN_BITS[-1]:
            yield f"{_ROW}nearly full: pylvs load --conn-tab-bits {bits + 1} makes it twice as large"
        else:
            yield f"{_ROW}nearly full, and as large as it can be"
    fill, groups = numbers["groups_by_used_slots"], numbers["groups"]
    yield f"fill          of {groups} groups of 64 slots, how many have how many used:"
    for low, high in _FILL_ROWS:
        count = sum(fill[low : high + 1])
        if count:
            yield _bar(f"{low}-{high}" if low != high else str(low), count, groups)
    if numbers["spilled"]:
        yield f"{_ROW}{numbers['spilled']} slots are in their second group, because the first was crowded"
    found, sampled = numbers["slots_by_lookup_words"], numbers["groups_sampled"]
    total = sum(found)
    if total:
        of = "all groups" if sampled == groups else f"a sample of {sampled} of {groups} groups"
        yield f"lookups       words of 8 tags to look at until a connection is found, by {of}"
        yield f"{_ROW}(1 to 8 are of its first group, 9 to 16 of its second):"
        for words, count in enumerate(found, 1):
            if count:
                yield _bar(str(words), count, total)
    if numbers["slots_not_found"]:
        yield f"{_ROW}{numbers['slots_not_found']} changed while we looked"


def _part(count: int, total: int) -> str:
    return f"{100 * count / total:.1f} %"


def _bar(name: str, count: int, total: int) -> str:
    return f"{_ROW}{name:>5} {count:>9} {_part(count, total):>8}  {'#' * -(-_BAR * count // total)}"


def _proc(running: Instance) -> Iterator[str]:
    from pylvs.director import Director
    from pylvs.proc import lines

    with Director() as director:
        yield from (line.decode() for line in lines(director, "net/ip_vs_status"))


def _drops(running: Instance) -> None:
    counts = _reasons(running)
    print(f"{counts['received']:>12} received")
    for prefix, title in (("forwarded", "forwarded"), ("up", "handed up to the stack"), ("dropped", "dropped")):
        names = [name for name in REASONS if name.startswith(prefix + "_")]
        print(f"{sum(counts[name] for name in names):>12} {title}")
        for name in names:
            if counts[name]:
                print(f"{counts[name]:>12}   {name:<26} {MEANING[name]}")
    for name in REASONS:
        if name.startswith(("held_", "answered_", "sent_")) and counts[name]:
            print(f"{counts[name]:>12} {name:<28} {MEANING[name]}")
