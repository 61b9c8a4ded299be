"""The sysctls of a running director: reading and writing what `pylvs.sysctl` describes.

    drop_entry -> struct sysctls, in which every member is one word -> packets

Writing is under the namespace's lock, and a word is one store; where a name has two of them (sync_threshold), the order
is such that in between they fit each other, too.
"""

from collections.abc import Mapping

from pylvs import sysctl
from pylvs.datapath import egress, orphans
from pylvs.datapath.instance import Instance, sysctl_defaults
from pylvs.datapath.maps import possible_cpus
from pylvs.datapath.memory import free_pages_at
from pylvs.datapath.services import ServiceTable
from pylvs.datapath.statistics import TOTAL


def read(running: Instance | None, name: str) -> str:
    """What a short name reads; of a director that is not loaded, what it would begin with."""
    return sysctl.read(name, _members(running, name))


def check(running: Instance | None, texts: Mapping[str, str]) -> list[tuple[str, sysctl.Value]]:
    """What writing these texts to these short names changes: members and values, in the order of storing them.

    Raises:
        InvalidValue
    """
    cpus = possible_cpus()
    return [
        change for name, text in texts.items()
        for change in sysctl.write(name, text, _members(running, name), cpus)
    ]  # fmt: skip


def write(running: Instance, table: ServiceTable, texts: Mapping[str, str]) -> None:
    """Write to all of them, or where one is refused to none. The caller holds the lock.

    Raises:
        InvalidValue
    """
    shared, changes = running.sysctls, check(running, texts)
    estimated = table.statistics.estimated
    changed = {member for member, value in changes if shared.get(0, member) != value}
    if any(member == "conntrack" and value for member, value in changes):
        egress.demand(running, egress.of_stack(running, table.numbers()))  # before packets need it
    defended = any(member in sysctl.DEFENCES and value for member, value in changes)
    if defended and not running.config.get(0, "free_pages_at"):
        running.config.put(0, "free_pages_at", free_pages_at())  # not at load: the kernel takes its time to say it
    for member, value in changes:
        shared.put(0, member, value)
    if "nat_icmp_send" in changed:
        orphans.agree(running, table.numbers())
    if "conntrack" in changed:
        egress.reconsider(running, table.numbers())
    if estimated and not table.statistics.estimated:
        counters = [counter for number in table.numbers() for counter in table.counters(number)]
        table.statistics.publish([TOTAL, *counters])
    if changed.intersection(sysctl.DEFENCES):
        running.run("decide")


def _members(running: Instance | None, name: str) -> dict[str, sysctl.Value]:
    if running is None:
        return sysctl_defaults()
    return {member: running.sysctls.get(0, member) for member in sysctl.members_of(name)}
