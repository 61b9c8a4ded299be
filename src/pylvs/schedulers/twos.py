"""The power of two choices: two real servers are drawn, with chances as their weights, and the less loaded of them gets
the connection. Facts 4.15."""

from pylvs.schedulers import Scheduler

SCHEDULER = Scheduler()
