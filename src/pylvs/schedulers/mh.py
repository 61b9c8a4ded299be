"""Maglev hashing: whose entry of a table of 4,093 the client's address falls on. Facts 4.12.

When a real server comes or goes, few clients of the others change theirs. Who has weight 0 or too many connections
refuses; with the flag mh-fallback, somebody else is asked. With mh-port the client's port counts, too. A weight of 0
leaves the table as it is: the real server's clients are refused, not spread, until it is deleted.
"""

from collections.abc import Sequence
from math import gcd

from pylvs.errors import InvalidValue
from pylvs.schedulers import NOBODY, Scheduler, Servers, Weighed
from pylvs.schedulers.hashing import MH_LOOKUP, MH_STEP, fold, siphash

SIZE, _BITS = 4093, 6


class Mh(Scheduler):
    def weighs(self, old: Weighed, new: Weighed) -> bool:
        return old.last_weight != new.last_weight

    def table(self, servers: Servers, flags: int) -> Sequence[int]:
        """Each real server takes entries of its own row of them, as many in each round as its weight says.

        Raises:
            InvalidValue: there are more real servers than entries.
        """
        if len(servers) > SIZE:
            raise InvalidValue(f"scheduler mh has room for {SIZE} real servers, and these are {len(servers)}")
        weights = servers.last_weights
        common = gcd(*weights)
        found = [NOBODY] * SIZE
        if not common:
            return found
        shift = max((max(weights) // common).bit_length() - _BITS, 0)
        rows = []
        for place, weight in enumerate(weights):
            if weight:
                address, port = servers.endpoint(place)
                value = fold(address, servers.family) + port & 0xFFFFFFFF
                step = siphash(value, MH_STEP) % (SIZE - 1) + 1
                rows.append([siphash(value, MH_LOOKUP) % SIZE, step, max(weight // common >> shift, 1), place])
        left = SIZE
        while True:
            for row in rows:
                at, step, turns, place = row
                for _ in range(turns):
                    while found[at] != NOBODY:
                        at += step
                        if at >= SIZE:
                            at -= SIZE
                    found[at] = place
                    left -= 1
                    if not left:
                        return found
                row[0] = at


SCHEDULER = Mh()
