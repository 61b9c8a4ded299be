"""Weighted overflow: the real server with the highest weight, until it has more active connections than that; then
the next. Facts 4.8."""

from pylvs.schedulers import Scheduler

SCHEDULER = Scheduler()
