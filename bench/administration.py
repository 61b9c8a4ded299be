"""The work that `python -m bench ipvsadm` times, as a file that stands alone: it is also run where the original is.

    administration.py SERVICES SERVERS ROUNDS ipvsadm...

prints {what: [processor seconds, ...]} as JSON. The last words are how ipvsadm is called.
"""

import json
import os
import resource
import subprocess
import sys

EMPTY, SMALL = "nothing to list", "a service with 4 real servers, listed"


def rules(services, servers):
    """Lines of a restore: that many services with that many real servers each."""
    lines = []
    for number in range(services):
        vip = f"10.{128 + (number >> 16)}.{number >> 8 & 255}.{number & 255}:80"
        lines.append(f"-A -t {vip} -s rr\n")
        for server in range(servers):
            lines.append(f"-a -t {vip} -r 10.{server}.{number >> 8 & 255}.{1 + (number & 127)}:80 -m -w 1\n")
    return "".join(lines)


def play(command, line, text=""):
    """Processor seconds that one command takes, the kernel's work for it among them; its input and output in files."""
    with open("restored", "w") as file:
        file.write(text)
    with open("restored") as given, open(os.devnull, "w") as output:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*command, *line.split()], stdin=given, stdout=output, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(command, services, servers, rounds):
    """What each work took in each round; the large table is made once, it takes long enough."""
    large = f"{services:,} services with {servers} real servers each: "
    play(command, "-C")
    taken = {EMPTY: [play(command, "-Ln") for _ in range(rounds)]}
    play(command, "-R", rules(1, 4))
    taken[SMALL] = [play(command, "-Ln") for _ in range(rounds)]
    play(command, "-C")
    taken[large + "restored"] = [play(command, "-R", rules(services, servers))]
    for line, what in (("-Ln", "listed"), ("-Sn", "saved")):
        taken[large + what] = [play(command, line) for _ in range(3)]
    taken[large + "one more real server"] = [play(command, "-a -t 10.128.0.0:80 -r 10.255.0.1 -m")]
    taken[large + "cleared"] = [play(command, "-C")]
    return taken


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[4:], *(int(word) for word in sys.argv[1:4]))))
