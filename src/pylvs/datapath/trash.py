"""Real servers that no service has any more, but connections may (facts 1.11).

A deleted real server keeps its number, counters and connections until it has been idle for as long as the kernel keeps
it, and is the same again if it comes back before.
"""

from pylvs.datapath import _layout
from pylvs.datapath.instance import Instance
from pylvs.datapath.records import identity

_TICK = 60 * 10**9
_IDLE = 120 * 10**9
_PAUSE = 10**9


class Trash:
    """What the trash holds, read once."""

    def __init__(self, instance: Instance):
        self._instance, dests = instance, instance.dests
        self._looked = -_PAUSE
        self._numbers = {
            identity(dests.read(number)): number
            for number in range(instance.config.get(0, "dests_high"))
            if dests.get(number, "flags") & (_layout.DEST_USED | _layout.DEST_AVAILABLE) == _layout.DEST_USED
        }

    def find(self, record: bytes) -> int | None:
        """The number of the real server that would come back as this one."""
        return self._numbers.get(identity(record)) if self._numbers else None

    def forget(self, record: bytes) -> None:
        """It has come back."""
        if self._numbers:
            self._numbers.pop(identity(record), None)

    def put(self, dest: int) -> None:
        """It has just gone from its service."""
        dests = self._instance.dests
        dests.put(dest, "deleted", self._instance.now())
        dests.put(dest, "flags", dests.get(dest, "flags") & ~_layout.DEST_AVAILABLE)
        self._numbers[identity(dests.read(dest))] = dest

    def empty(self) -> list[int]:
        """Free those that have been without a connection for as long as the kernel keeps them, and their numbers: a
        tick every 60 s after the deletion sees them idle, and one at least 120 s later frees them. Whom a cache of lblc
        or lblcr names stays. Whoever adds many real servers does not look for each of them."""
        now, loads, freed = self._instance.now(), self._instance.dest_loads, []
        if now - self._looked < _PAUSE:
            return []
        self._looked = now
        for known, dest in list(self._numbers.items()):
            if any(loads.get(dest, user) > 0 for user in ("total", "persistent", "cached")):
                continue
            deleted = self._instance.dests.get(dest, "deleted")
            idle = max(loads.get(dest, "idle") - deleted, 0)
            seen = max(-(-idle // _TICK), 1) * _TICK
            if now - deleted >= seen + _IDLE:
                self._instance.dests.put(dest, "flags", 0)
                del self._numbers[known]
                freed.append(dest)
        return freed
