"""Round robin: each real server in turn, whatever its weight (unless 0). Facts 4.1."""

from pylvs.schedulers import Head, Places, Scheduler, Servers


class Rr(Scheduler):
    """State: 1 + the place that was chosen last."""

    def changed(self, old: Head, servers: Servers, places: Places) -> Head:
        """Stay at the server that was chosen last; if it is gone, at the one before it."""
        return Head(places(old.state - 1) + 1 if old.state else 0)


SCHEDULER = Rr()
