"""What connections ask of a real server beside its pool: whether it is there, its weight, its thresholds, its tunnel.

The truth about all but the first is in the pool. These are copies, which follow it.
"""

from pylvs.datapath import _layout
from pylvs.datapath.instance import Instance
from pylvs.datapath.pools import Member


def make_available(instance: Instance, dest: int, local: bool) -> None:
    """It is in its service's pool. `local`: it is the director itself."""
    flags = _layout.DEST_USED | _layout.DEST_AVAILABLE | (_layout.DEST_LOCAL if local else 0)
    if instance.dests.get(dest, "flags") != flags:
        instance.dests.put(dest, "flags", flags)


def put(instance: Instance, member: Member, again: bool = False) -> None:
    """Copy what the pool says, and decide what new thresholds make of the connections that there are (facts 1.9):
    between the two a real server stays overloaded, or not. `again`: the thresholds may be there, but not the decision.
    """
    loads, dest = instance.dest_loads, member.dest
    if instance.dests.get(dest, "tunnel") != member.tunnel:
        instance.dests.put(dest, "tunnel", member.tunnel)
    loads.put(dest, "weight", member.weight)
    loads.put(dest, "flags", member.flags)
    upper, lower = member.upper, member.lower
    if (loads.get(dest, "upper"), loads.get(dest, "lower")) == (upper, lower) and not again:
        return
    loads.put(dest, "upper", upper)
    loads.put(dest, "lower", lower)
    total = loads.get(dest, "total")
    if upper and total >= upper:
        loads.put(dest, "overload", 1)
    elif total < (lower or upper - upper // 4) or not upper:
        loads.put(dest, "overload", 0)
