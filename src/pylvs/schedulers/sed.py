"""Shortest expected delay: the least active connections, the new one counted, for its weight. Facts 4.5."""

from pylvs.schedulers import Scheduler

SCHEDULER = Scheduler()
