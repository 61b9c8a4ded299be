"""What looking at a large connection table costs: seconds and memory of each command.

    python -m bench connections [--conn-bits N] [--flows N]

The table is filled by replaying SYNs through the real program (bench/packet.py). Memory is what a command has of its
own (anonymous), at its most; the table itself is mapped, and is everybody's.
"""

import argparse
import ctypes
import os
import subprocess
import sys
import time
import traceback

from bench.packet import Bench
from bench.replay import DR, NAT_REQUEST
from pylvs.datapath import loading

COMMANDS = (
    "pylvs status",
    "pylvs conns --count",
    "pylvs conns --count --state ESTABLISHED",
    "pylvs conns --count --client 10.1.0.0/24 --service tcp/10.99.0.1:80",
    "pylvs conns --by rip",
    "pylvs conns --by client",
    "pylvs conns --client 10.1.0.7",
    "pylvs conns",
    "pylvs conns --json",
    "ipvsadm -Lnc",
    "pylvs conns flush --dry-run --all",
    "pylvs conns flush --client 10.1.0.0/28",
)
_RUN = """import resource, sys
sys.argv = {words!r}
from pylvs.{module} import main
try:
    code = main()
except SystemExit as end:
    code = end.code
sys.stdout.flush()
own = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("RssAnon"))
print(own, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def measure(conn_bits: int, flows: int) -> None:
    """Fill a table and run every command on it."""
    bench = Bench(conn_bits)
    for case in (DR, NAT_REQUEST):
        bench.open(case, flows // 2)
    print(f"{bench.conns()} connections in a table of 2^{conn_bits} slots")
    print(f"{'command':<70} {'seconds':>8} {'own MB':>8} {'with the mapped table':>22}")
    for command in COMMANDS:
        words = command.split()
        module = "ipvsadm" if words[0] == "ipvsadm" else "cli"
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", _RUN.format(words=words, module=module)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        seconds = time.monotonic() - start
        own, most = (int(number) / 1024 for number in done.stderr.split()[-2:])
        print(f"{command:<70} {seconds:>8.2f} {own:>8.1f} {most:>22.1f}", flush=True)
    print(f"{bench.conns()} connections left")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench connections", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--conn-bits", type=int, default=21)
    parser.add_argument("--flows", type=int, default=1 << 20, help="connections, a power of two; half of them LVS-NAT")
    arguments = parser.parse_args(argv)
    child = os.fork()
    if child == 0:
        if ctypes.CDLL(None, use_errno=True).unshare(0x40000000):
            os._exit(1)
        status = 1
        try:
            measure(arguments.conn_bits, arguments.flows)
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            loading.unload()
            sys.stdout.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
