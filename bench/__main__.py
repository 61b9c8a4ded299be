"""`python -m bench [NAME] [OPTIONS]`: run a benchmark; without a name, the end-to-end one.

e2e      through namespaces, with nginx as the real server, beside other load balancers
startup  what a command costs: `ipvsadm -Ln` beside the bare interpreter
ipvsadm  small and large tables restored, listed and saved, beside the original
packet   nanoseconds per packet in the packet path alone
table    the connection table beside others: nanoseconds, memory, expiry; what docs/performance.md shows
connections  what looking at a million connections costs
schedulers   a new connection with each scheduler, and what changes of its real servers cost
options      what persistence, thresholds and estimation cost a packet and a new connection
tunnels      what tunnels cost a packet beside LVS-DR and LVS-NAT
"""

import importlib
import sys

NAMES = ("e2e", "startup", "ipvsadm", "packet", "table", "connections", "schedulers", "options", "tunnels")


def main(argv: list[str]) -> int:
    """Run the benchmark that the first word names."""
    if argv and argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    name, rest = (argv[0], argv[1:]) if argv and argv[0] in NAMES else ("e2e", argv)
    code: int = importlib.import_module(f"bench.{name}").main(rest)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
