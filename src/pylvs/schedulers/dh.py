"""Destination hashing: whose turn it is in the bucket that the packet's destination address falls into. Facts 4.10.

Weights do not count, but who has weight 0 or too many connections refuses. For clusters of caches, with services by
firewall mark.
"""

from collections.abc import Sequence
from itertools import cycle, islice

from pylvs.schedulers import Scheduler, Servers
from pylvs.schedulers.hashing import BUCKETS


class Dh(Scheduler):
    def table(self, servers: Servers, flags: int) -> Sequence[int]:
        """The buckets in turn to the real servers, newest first."""
        return list(islice(cycle(range(min(len(servers), BUCKETS))), BUCKETS))


SCHEDULER = Dh()
