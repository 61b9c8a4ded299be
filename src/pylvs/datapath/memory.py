"""Where the kernel counts its free memory, for defences that switch on when there is little left (facts 9.4)."""

import os

_SYMBOL = b" vm_zone_stat\n"  # its first word is the number of free pages
_CAPABILITIES = 1 << 38 | 1 << 21  # CAP_PERFMON, which is part of CAP_SYS_ADMIN
_PIECE = 1 << 20
_MODULES = b"\t["  # behind the kernel's own symbols come those of modules, each with its module's name


def free_pages_at() -> int:
    """The address of the kernel's count of free pages; 0 if the kernel does not name it, or lets nobody read there.

    It is named if the kernel was built with CONFIG_KALLSYMS_ALL, kernel.kptr_restrict does not hide it, and the kernel
    is not locked down. Asking takes some hundredths of a second, for which the kernel lists its symbols.
    """
    return _address() if _readable() else 0


def _readable() -> bool:
    try:
        with open("/sys/kernel/security/lockdown", encoding="ascii") as file:
            if "[confidentiality]" in file.read():
                return False
    except OSError:
        pass  # the kernel knows no lockdown
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) & _CAPABILITIES)
    return False


def _address(path: str = "/proc/kallsyms") -> int:
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return 0
    try:
        before = b""
        while piece := os.read(fd, _PIECE):
            text = before + piece
            found = text.find(_SYMBOL)
            if found >= 0:
                line = text[text.rfind(b"\n", 0, found) + 1 : found]
                return int(line.split()[0], 16)
            if _MODULES in piece:
                return 0
            before = text[-100:]
        return 0
    finally:
        os.close(fd)
