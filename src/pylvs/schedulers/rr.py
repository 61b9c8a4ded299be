"""Round robin: each real server in turn, whatever its weight (unless 0). Facts 4.1."""

from collections.abc import Sequence

from pylvs.schedulers import Head, Places

NAME, NUMBER = "rr", 1


def start(weights: Sequence[int]) -> Head:
    """Begin at the list's head."""
    return Head()


def changed(old: Head, weights: Sequence[int], places: Places) -> Head:
    """Stay at the server that was chosen last; if it is gone, at the one before it."""
    return Head(places(old.state - 1) + 1 if old.state else 0)
