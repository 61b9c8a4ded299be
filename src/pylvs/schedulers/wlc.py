"""Weighted least connection: the real server with the least load for its weight. Facts 4.4. The default."""

from pylvs.schedulers import Scheduler

SCHEDULER = Scheduler()
