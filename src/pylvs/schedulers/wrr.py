"""Weighted round robin: in each cycle a real server gets as many connections as its weight says. Facts 4.2.

The cycle goes down through the weights in steps of their greatest common divisor: everybody whose weight is at least
the current weight is chosen once per pass.
"""

from collections.abc import Sequence
from math import gcd

from pylvs.schedulers import STATE_PLACE_BITS, Head, Places, Scheduler, Servers, Weighed


def _step_and_top(weights: Sequence[int]) -> tuple[int, int]:
    step = gcd(*weights) or 1  # a weight of 0 divides nothing
    return step, max(max(weights, default=0) - (step - 1), 0)


class Wrr(Scheduler):
    """State: the current weight, and 1 + the place that was chosen last."""

    def weighs(self, old: Weighed, new: Weighed) -> bool:
        return True

    def start(self, servers: Servers) -> Head:
        """At the list's head, with the highest current weight."""
        step, top = _step_and_top(servers.weights)
        return Head(top << STATE_PLACE_BITS, step, top)

    def changed(self, old: Head, servers: Servers, places: Places) -> Head:
        """Back to the list's head; the current weight stays if it still can be one."""
        step, top = _step_and_top(servers.weights)
        current = old.state >> STATE_PLACE_BITS
        if current > top or current == 0:
            current = top
        elif step > 1:
            current = current // step * step + 1
        return Head(current << STATE_PLACE_BITS, step, top)


SCHEDULER = Wrr()
