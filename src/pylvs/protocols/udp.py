"""UDP as IPVS sees it (facts 3.2): one state, and a timeout that every packet of either direction sets anew."""

STATES = ("UDP",)
TIMEOUT = 300
