"""pylvs status: the state of this network namespace's director, and every packet's reason."""

import argparse
from datetime import datetime

from pylvs.datapath import instance, netlink
from pylvs.datapath.instance import Instance
from pylvs.datapath.layout import REASONS
from pylvs.datapath.services import ServiceTable

# reason -> what a person needs to know of it
MEANING = {
    "forwarded_nat_request": "LVS-NAT, client to real server",
    "forwarded_nat_reply": "LVS-NAT, real server to client",
    "forwarded_route": "LVS-DR, client to real server",
    "up_not_ip": "neither IPv4 nor IPv6: ARP and the like",
    "up_other_host": "sent to another machine's link-layer address, or to all",
    "up_vlan": "VLAN-tagged; it comes again on the VLAN's own interface",
    "up_malformed": "broken or truncated IP header; the stack drops and counts it",
    "up_martian": "from an address that nobody can have",
    "up_protocol": "neither TCP nor UDP",
    "up_fragment": "a fragment",
    "up_no_service": "no virtual service and no connection",
    "up_no_connection": "TCP to a service, without a connection and no SYN; the stack answers RST",
    "up_just_ended": "its connection ended while the packet was at it",
    "up_client_port_20": "from client port 20, which is never balanced",
    "up_local_real_server": "the chosen real server is the director itself",
    "up_reply_unchanged": "a reply of LVS-DR that passed through the director",
    "up_reply_ttl": "a reply whose TTL is over; the stack tells the real server",
    "up_reply_too_big": "a reply too big for the way to the client; the stack tells the real server",
    "up_reply_not_routed": "a reply without a route to its client",
    "dropped_truncated": "TCP or UDP header cut off",
    "dropped_no_destination": "no real server to take it; answered with ICMP port unreachable",
    "dropped_destination_gone": "its real server was removed; the connection waits for it",
    "dropped_table_full": "the connection table is full",
    "dropped_contended": "another CPU was making the same connection",
    "dropped_no_route": "no route to the real server; answered with ICMP host unreachable",
    "dropped_ttl_exceeded": "TTL over; answered with ICMP time exceeded",
    "dropped_too_big": "too big for the way; answered with ICMP fragmentation needed",
    "dropped_needs_fragments": "too big for the way and may be fragmented, which is not supported yet",
    "dropped_rewrite_failed": "its headers could not be rewritten",
    "answered_icmp": "ICMP errors sent",
    "answered_icmp_limited": "ICMP errors not sent, for the rate limit",
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="pylvs status", description="Show the state of this network namespace's director."
    )
    parser.add_argument(
        "--drops",
        action="store_true",
        help="every packet's reason: received = forwarded + handed up to the stack + dropped",
    )
    arguments = parser.parse_args(argv)
    running = instance.find()
    if running is None:
        print("no director is loaded in this network namespace; the first ipvsadm -A loads one")
        return 0
    if arguments.drops:
        _drops(running)
    else:
        _status(running)
    return 0


def _status(running: Instance) -> None:
    capacity, used = running.config.get(0, "conn_slots"), running.runtime.get(0, "conns")
    loaded = datetime.fromtimestamp(running.config.get(0, "loaded")).strftime("%Y-%m-%d %H:%M:%S")
    table = ServiceTable(running)
    services = list(table.numbers())
    names = {interface.ifindex: interface for interface in netlink.interfaces()}
    attached = running.attached()
    where = ", ".join(f"{names[index].name} ({how})" for index, how in sorted(attached.items()) if index in names)
    rest = ", ".join(i.name + ("" if i.ethernet else " (no Ethernet)")
                     for index, i in sorted(names.items()) if index not in attached)  # fmt: skip
    refused = running.reasons.sums(REASONS.index("dropped_table_full"))[0]
    age = (running.now() - running.runtime.get(0, "swept")) / 1e9
    other = ", not this version: pylvs load replaces them" if running.outdated() else ""
    print(f"programs      loaded {loaded}{other}")
    print(f"attached      {where or 'nowhere'}")
    if rest:
        print(f"not attached  {rest}")
    print(f"connections   {used} of {capacity} ({100 * used / capacity:.1f} %), {refused} refused")
    if used * 10 >= capacity * 9:
        print("              nearly full: unload and load with a larger --conn-tab-bits")
    print(
        f"services      {len(services)} of {running.config.get(0, 'max_services')}, real servers "
        f"{sum(len(table.members(number)) for number in services)} of {running.config.get(0, 'max_dests')}"
    )
    error = running.runtime.get(0, "timer_error")
    if error:
        print(f"sweep         the timer did not start (error {error}): passing packets carry the sweep")
    else:
        print(f"sweep         {running.runtime.get(0, 'sweeps')} rounds, the last {age:.2f} s ago")


def _drops(running: Instance) -> None:
    counts = {name: running.reasons.sums(number)[0] for number, name in enumerate(REASONS)}
    print(f"{counts['received']:>12} received")
    for prefix, title in (("forwarded", "forwarded"), ("up", "handed up to the stack"), ("dropped", "dropped")):
        names = [name for name in REASONS if name.startswith(prefix + "_")]
        print(f"{sum(counts[name] for name in names):>12} {title}")
        for name in names:
            if counts[name]:
                print(f"{counts[name]:>12}   {name:<26} {MEANING[name]}")
    for name in REASONS:
        if name.startswith("answered_") and counts[name]:
            print(f"{counts[name]:>12} {name:<28} {MEANING[name]}")
