"""Source hashing: whose bucket the client's address falls into. Facts 4.11.

Who has weight 0 or too many connections refuses; with the flag sh-fallback, somebody else is asked. With sh-port the
client's port counts, too.
"""

from collections.abc import Sequence

from pylvs.schedulers import Scheduler, Servers, Weighed
from pylvs.schedulers.hashing import BUCKETS


class Sh(Scheduler):
    def weighs(self, old: Weighed, new: Weighed) -> bool:
        return old.weight != new.weight

    def table(self, servers: Servers, flags: int) -> Sequence[int]:
        """Runs of buckets as long as the weights are, newest first, one for who has none; and again."""
        found: list[int] = []
        weights = servers.weights[:BUCKETS]
        while weights and len(found) < BUCKETS:
            for place, weight in enumerate(weights):
                found += [place] * min(max(weight, 1), BUCKETS - len(found))
        return found


SCHEDULER = Sh()
