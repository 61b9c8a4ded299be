"""Weighted round robin: in each cycle a real server gets as many connections as its weight says. Facts 4.2.

The cycle goes down through the weights in steps of their greatest common divisor: everybody whose weight is at least
the current weight is chosen once per pass.
"""

from collections.abc import Sequence
from math import gcd

from pylvs.schedulers import Head, Places

NAME, NUMBER = "wrr", 2


def _step_and_top(weights: Sequence[int]) -> tuple[int, int]:
    step = gcd(*weights) or 1  # a weight of 0 divides nothing
    return step, max(max(weights, default=0) - (step - 1), 0)


def start(weights: Sequence[int]) -> Head:
    """At the list's head, with the highest current weight."""
    step, top = _step_and_top(weights)
    return Head(top << 32, step, top)


def changed(old: Head, weights: Sequence[int], places: Places) -> Head:
    """Back to the list's head; the current weight stays if it still can be one."""
    step, top = _step_and_top(weights)
    current = old.state >> 32
    if current > top or current == 0:
        current = top
    elif step > 1:
        current = current // step * step + 1
    return Head(current << 32, step, top)
