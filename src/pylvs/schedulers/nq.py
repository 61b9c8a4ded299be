"""Never queue: the newest real server that is idle; if none is, as sed. Facts 4.6."""

from pylvs.schedulers import Scheduler

SCHEDULER = Scheduler()
