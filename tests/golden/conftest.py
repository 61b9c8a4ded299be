"""A director in the topology in which the real one was recorded, with nothing known yet in each case."""

from support.network import lvs, network

__all__ = ["lvs", "network"]
