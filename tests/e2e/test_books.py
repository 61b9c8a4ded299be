"""The books balance: after thousands of connections on all CPUs, under a configuration that never rests.

    client -- director -- rs1 rs2 rs3          (the lab "nat")

Connections come and go while weights, schedulers and real servers change as fast as Python can change them. Then every
number must agree with every other: packets with their reasons, real servers' loads with the table, the table with its
tags and counts; and when all time is over, nothing may be left.
"""

import random
import subprocess

from pylvs import MASQ, Director, real_server, virtual_service
from pylvs.datapath.instance import Instance
from pylvs.datapath.table import usage
from pylvs.lab import Lab
from support.books import books

REQUESTS = 3000
LONG = 1000 * 10**9  # ns: longer than any timeout


def _active(running: Instance) -> int:
    return sum(running.dest_loads.get(dest, "active") for dest in range(running.config.get(0, "dests_high")))


def test_the_books_balance(nat: Lab) -> None:
    choose = random.Random(1)
    nat.ipvsadm(["-A", "-t", f"{nat.vip}:80", "-s", "wlc"])
    urls = [f"http://{nat.vip}/?[1-{REQUESTS}]"]
    silent = ["-s", "-o", "/dev/null", "-H", "Connection: close"]
    with nat.enter("director"), Director() as director:
        web = virtual_service(nat.vip, 80)
        servers = [real_server(server.ipv4, 80, method=MASQ) for server in nat.realservers]
        for server in servers:
            director.add_destination(web, server)
        client = nat.popen("client", ["curl", "--parallel", "--parallel-max", "16", *silent, *urls],
                           stderr=subprocess.DEVNULL)  # fmt: skip
        changes = 0
        while client.poll() is None:
            changes += 1
            server = choose.choice(servers)
            director.edit_destination(web, server._replace(weight=choose.randint(1, 5)))
            if changes % 7 == 0:
                scheduler = choose.choice(("rr", "wrr", "lc", "wlc"))
                director.edit_service(web._replace(scheduler=scheduler))
        assert client.returncode == 0
        assert changes > 100
        running = director.instance
        assert running is not None
        nat.wait_for(lambda: not _active(running), "the last packets to arrive")
        live, active = books(running)
        assert live >= REQUESTS / 2  # client ports come again, and then take over their old connection
        assert active == 0
        running.config.put(0, "clock_offset", running.config.get(0, "clock_offset") + LONG)
        running.run("catch_up")
        assert books(running) == (0, 0)
        assert usage(running).used == 0
