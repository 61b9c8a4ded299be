"""Counters and rates of services, real servers and the whole director (facts section 8).

The packet path counts per CPU and its timer estimates the rates; here they are summed, and zeroed: `ipvsadm -Z` only
remembers where the counters stood.
"""

from collections.abc import Iterable

from pylvs.datapath.instance import Instance
from pylvs.datapath.layout import COUNTERS
from pylvs.model import Stats

TOTAL = 0


class Statistics:
    """All counters of one director. They are numbered: the total, then the services, then the real servers."""

    def __init__(self, instance: Instance):
        self._instance = instance

    @staticmethod
    def of_service(service: int) -> int:
        """The counter of a service."""
        return 1 + service

    def of_dest(self, dest: int) -> int:
        """The counter of a real server."""
        return 1 + int(self._instance.config.get(0, "max_services")) + dest

    @property
    def estimated(self) -> bool:
        """Do counters and rates that are shown go on (run_estimation, est_cpulist)?"""
        sysctls = self._instance.sysctls
        return bool(sysctls.get(0, "run_estimation") and sysctls.get(0, "est_cpulist"))

    def _published(self, counter: int) -> tuple[int, ...]:
        """What a counter says to those who look: while nothing is estimated, what it said when that stopped."""
        if self.estimated:
            return self._instance.counters.sums(counter)
        last: tuple[int, ...] = COUNTERS.unpack(self._instance.estimates.get(counter, "last"))
        return last

    def read(self, counter: int) -> Stats:
        """What a counter says since it was last zeroed, and its rates per second."""
        zero = COUNTERS.unpack(self._instance.estimates.get(counter, "zero"))
        rate = COUNTERS.unpack(self._instance.estimates.get(counter, "rate"))
        counts = (now - then for now, then in zip(self._published(counter), zero, strict=True))
        return Stats(*counts, *((r + 511) >> 10 for r in rate[:3]), *((r + 15) >> 5 for r in rate[3:]))

    def zero(self, counters: Iterable[int]) -> None:
        """Let counters begin at 0, and their rates."""
        estimates = self._instance.estimates
        for counter in counters:
            now = COUNTERS.pack(**dict(zip(COUNTERS.names, self._published(counter), strict=True)))
            estimates.put(counter, "zero", now)
            estimates.put(counter, "last", now)
            estimates.put(counter, "rate", bytes(COUNTERS.size))

    def publish(self, counters: Iterable[int]) -> None:
        """Let the present counts be those that are shown from now on, when estimation has just been stopped."""
        for counter in counters:
            now = COUNTERS.pack(**dict(zip(COUNTERS.names, self._instance.counters.sums(counter), strict=True)))
            self._instance.estimates.put(counter, "last", now)

    def by_cpu(self, counter: int) -> list[Stats]:
        """What each CPU has counted since the director was loaded: neither zeroed nor held."""
        return [Stats(*row) for row in self._instance.counters.rows(counter)]

    def clear(self, counter: int) -> None:
        """Make a counter as new, for a new owner."""
        self._instance.counters.clear(counter)
        self._instance.estimates.write(counter, bytes(self._instance.estimates.layout.size))
