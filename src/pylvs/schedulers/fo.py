"""Weighted failover: the real server with the highest weight, as long as it may have connections. Facts 4.7."""

from pylvs.schedulers import Scheduler

SCHEDULER = Scheduler()
