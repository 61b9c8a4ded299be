"""One module per scheduler: its name and documentation, and what it computes when a service's real servers change.

A scheduler's module has:

    NAME     as `ipvsadm -s` knows it
    NUMBER   enum scheduler of the packet path
    start(weights) -> Head                   when a service is bound to it
    changed(old, weights, places) -> Head    when real servers were added, edited or removed

`weights` are the real servers' in list order (newest first). `places` maps each former place to its present one;
a removed server's place maps to the place before it, -1 for the list's head. `Head` is what the packet path finds at
the head of the pool; `Head.state` belongs to the scheduler, and the packet path moves it with every choice.

The choosing itself is `datapath/bpf/sched/<name>.h`.
"""

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple

from pylvs.errors import NoSuchScheduler

NAMES = ("rr", "wrr", "lc", "wlc")
LVS_NAMES = (*NAMES, "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos")


class Head(NamedTuple):
    """What the packet path's pool_head holds for a scheduler."""

    state: int = 0
    step: int = 0
    top: int = 0


Places = Callable[[int], int]


def find(name: str) -> ModuleType:
    """The module of a scheduler.

    Raises:
        NoSuchScheduler: nobody knows it; or LVS does but this version of pylvs does not yet.
    """
    if name in NAMES:
        return importlib.import_module(f"pylvs.schedulers.{name}")
    if name in LVS_NAMES:
        raise NoSuchScheduler(f"scheduler {name} is not supported yet; there are {', '.join(NAMES)}")
    raise NoSuchScheduler(f"there is no scheduler '{name}'; there are {', '.join(NAMES)}")


def name_of(number: int) -> str:
    """The name of a scheduler by its number in the packet path."""
    return ("none", *NAMES)[number]


class Stateless:
    """For schedulers that look at nothing but the present load."""

    @staticmethod
    def start(weights: Sequence[int]) -> Head:
        return Head()

    @staticmethod
    def changed(old: Head, weights: Sequence[int], places: Places) -> Head:
        return Head()


__all__ = ["LVS_NAMES", "NAMES", "Head", "Places", "Stateless", "find", "name_of"]
