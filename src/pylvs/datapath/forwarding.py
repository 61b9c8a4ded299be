"""What lo is permitted as long as a director is loaded: to forward, without which the packet path finds no routes, and
to bring home replies that have an address of the director's own as their source (see bpf/forward.h).

It asks for routes as the director's own output has them (see bpf/xmit/route.h): that is a lookup "from lo", which the
kernel answers only if lo may forward. Permissions are bits: 1 is to forward IPv4, 2 IPv6, 4 accept_local.
"""

_SYSCTLS = (
    "/proc/sys/net/ipv4/conf/lo/forwarding",
    "/proc/sys/net/ipv6/conf/lo/forwarding",
    "/proc/sys/net/ipv4/conf/lo/accept_local",
)


def closed() -> int:
    """What lo may not. What the kernel does not have is none of it."""
    found = 0
    for bit, path in enumerate(_SYSCTLS):
        try:
            with open(path) as file:
                found |= (file.read().strip() == "0") << bit
        except OSError:
            continue
    return found


def _write(permissions: int, value: str) -> None:
    for bit, path in enumerate(_SYSCTLS):
        if permissions & 1 << bit:
            with open(path, "w") as file:
                file.write(value)


def open_up(permissions: int) -> None:
    """Permit it."""
    _write(permissions, "1")


def close(permissions: int) -> None:
    """Forbid it again."""
    _write(permissions, "0")
