"""Locality-based least connection with replication: a destination address has a set of real servers, of whom the least
loaded gets the connection. If that one is too busy, as for lblc, another one joins the set; when the set has not changed
for `lblcr_expiration` seconds, the most loaded one leaves it. Facts 4.14.

A set has 64 real servers at most (the kernel has no limit); then the one that joined first makes room. Else as lblc.
"""

from pylvs.schedulers import Scheduler

SCHEDULER = Scheduler()
