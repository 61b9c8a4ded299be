"""Locality-based least connection: a destination address keeps its real server, unless that one has more active
connections than its weight says while another one has less than half of its own. Facts 4.13.

For clusters of caches, with services by firewall mark. What addresses had is remembered by the packet path, 24,576 of a
service at most and 65,536 of all; when there is no room, newcomers are chosen like wlc's, each time anew. One that was
not used for `lblc_expiration` seconds is forgotten, within half an hour.
"""

from pylvs.schedulers import Scheduler

SCHEDULER = Scheduler()
