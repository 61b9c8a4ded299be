"""lo's permission to forward, without which the packet path finds no routes.

It asks for routes as the director's own output has them (see bpf/xmit/route.h): that is a lookup "from lo", which the
kernel answers only if lo may forward. Families are bits: 1 is IPv4, 2 is IPv6.
"""

_SYSCTLS = ("/proc/sys/net/ipv4/conf/lo/forwarding", "/proc/sys/net/ipv6/conf/lo/forwarding")


def closed() -> int:
    """The families for which lo may not forward. One that the kernel does not have is none of them."""
    found = 0
    for bit, path in enumerate(_SYSCTLS):
        try:
            with open(path) as file:
                found |= (file.read().strip() == "0") << bit
        except OSError:
            continue
    return found


def _write(families: int, value: str) -> None:
    for bit, path in enumerate(_SYSCTLS):
        if families & 1 << bit:
            with open(path, "w") as file:
                file.write(value)


def open_up(families: int) -> None:
    """Let lo forward."""
    _write(families, "1")


def close(families: int) -> None:
    """Forbid it again."""
    _write(families, "0")
