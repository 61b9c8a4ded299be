"""Least connection: the real server with the least load, an active connection counting 256 times an inactive one.
Facts 4.3."""

from pylvs.schedulers import Stateless

NAME, NUMBER = "lc", 3
start, changed = Stateless.start, Stateless.changed
