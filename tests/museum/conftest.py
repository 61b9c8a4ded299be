"""A director for each complaint."""

from support.network import family, lvs, network

__all__ = ["family", "lvs", "network"]
