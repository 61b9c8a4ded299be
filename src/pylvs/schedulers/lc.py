"""Least connection: the real server with the least load, an active connection counting 257 times an inactive one.
Facts 4.3."""

from pylvs.schedulers import Scheduler

SCHEDULER = Scheduler()
