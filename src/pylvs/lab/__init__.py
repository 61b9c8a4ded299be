"""Labs for the director: client, router, director and real servers in network namespaces, on one machine."""

from pylvs.lab.lab import Lab
from pylvs.lab.namespaces import LabError
from pylvs.lab.topologies import TOPOLOGIES
from pylvs.lab.waiting import wait_for

__all__ = ["TOPOLOGIES", "Lab", "LabError", "wait_for"]
