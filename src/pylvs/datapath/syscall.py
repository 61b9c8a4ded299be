"""bpf(2) and nothing else: plain functions on file descriptors and bytes.

Every function raises OSError with the kernel's errno; lookups answer None for a key that is not there.
libbpf is only needed to load objects (`object.py`); a command that finds a running director never needs it.
"""

import ctypes
import os
import struct
import time

_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280, "ppc64le": 361, "s390x": 351}
_NUMBER = _NUMBERS.get(os.uname().machine, 280)
_MEMBARRIERS = {"x86_64": 324, "ppc64le": 365, "s390x": 356}
_MEMBARRIER = _MEMBARRIERS.get(os.uname().machine, 283)
_libc = ctypes.CDLL(None, use_errno=True)

(_CREATE, _LOOKUP, _UPDATE, _DELETE, _NEXT_KEY) = (0, 1, 2, 3, 4)
(_PIN, _GET, _RUN, _INFO) = (6, 7, 10, 15)
(_LINK_CREATE, _LINK_UPDATE, _LINK_DETACH) = (28, 29, 34)
TCX_INGRESS, TCX_EGRESS = 46, 47
NOEXIST = 1


def _bpf(command: int, attributes: ctypes.Array, path: str | None = None) -> int:
    result: int = _libc.syscall(_NUMBER, command, attributes, len(attributes))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def _buffer(data: bytes) -> ctypes.Array:
    return ctypes.create_string_buffer(data, len(data))


def _address(buffer: ctypes.Array | None) -> int:
    return ctypes.addressof(buffer) if buffer is not None else 0


def map_create(value_size: int, entries: int) -> int:
    """A new array map that can be mapped into memory; its file descriptor."""
    mappable = 1 << 10
    return _bpf(_CREATE, _buffer(struct.pack("=IIIII", 2, 4, value_size, entries, mappable)))


def map_lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    """The value under a key, or None. `value_size` of a per-CPU map is that of all CPUs' values."""
    k, v = _buffer(key), ctypes.create_string_buffer(value_size)
    try:
        _bpf(_LOOKUP, _buffer(struct.pack("=I4xQQQ", fd, _address(k), _address(v), 0)))
    except FileNotFoundError:
        return None
    return v.raw


def map_update(fd: int, key: bytes, value: bytes, flags: int = 0) -> None:
    """Put a value under a key; `flags` may be NOEXIST."""
    k, v = _buffer(key), _buffer(value)
    _bpf(_UPDATE, _buffer(struct.pack("=I4xQQQ", fd, _address(k), _address(v), flags)))


def map_delete(fd: int, key: bytes) -> bool:
    """Remove a key; False if it was not there."""
    k = _buffer(key)
    try:
        _bpf(_DELETE, _buffer(struct.pack("=I4xQQQ", fd, _address(k), 0, 0)))
    except FileNotFoundError:
        return False
    return True


def map_keys(fd: int, key_size: int) -> list[bytes]:
    """All keys of a hash map."""
    keys: list[bytes] = []
    following = ctypes.create_string_buffer(key_size)
    current: ctypes.Array | None = None
    while True:
        try:
            _bpf(_NEXT_KEY, _buffer(struct.pack("=I4xQQQ", fd, _address(current), _address(following), 0)))
        except FileNotFoundError:
            return keys
        keys.append(following.raw)
        current = _buffer(following.raw)


def pin(fd: int, path: str) -> None:
    """Give a map, program or link a name in bpffs."""
    name = _buffer(path.encode() + b"\0")
    _bpf(_PIN, _buffer(struct.pack("=QII", _address(name), fd, 0)), path)


def get(path: str) -> int:
    """A file descriptor for what is pinned at `path`."""
    name = _buffer(path.encode() + b"\0")
    return _bpf(_GET, _buffer(struct.pack("=QII", _address(name), 0, 0)), path)


def info(fd: int, size: int = 128) -> bytes:
    """The kernel's description of a map, program or link (struct bpf_map_info, bpf_prog_info, bpf_link_info)."""
    buffer = ctypes.create_string_buffer(size)
    _bpf(_INFO, _buffer(struct.pack("=IIQ", fd, size, _address(buffer))))
    return buffer.raw


def map_size(fd: int) -> tuple[int, int, int]:
    """(key size, value size, entries) of a map."""
    _, _, key, value, entries = struct.unpack_from("=IIIII", info(fd))
    return key, value, entries


def map_id(fd: int) -> int:
    """The kernel's number of a map."""
    return int(struct.unpack_from("=I", info(fd), 4)[0])


def link_create(program: int, ifindex: int, where: int = TCX_INGRESS) -> int:
    """Attach a program to an interface's TC ingress or egress by a tcx link (Linux 6.6); EINVAL on older kernels."""
    return _bpf(_LINK_CREATE, _buffer(struct.pack("=IIII48x", program, ifindex, where, 0)))


def link_update(link: int, program: int) -> None:
    """Replace a link's program in one step; no packet sees an interface without one."""
    _bpf(_LINK_UPDATE, _buffer(struct.pack("=IIII", link, program, 0, 0)))


def link_detach(link: int) -> None:
    """Take a link's program off its interface, now; the link itself goes with its last descriptor and pin."""
    _bpf(_LINK_DETACH, _buffer(struct.pack("=I", link)))


def link_ifindex(link: int) -> int:
    """The interface that a tcx link is attached to; 0 when the interface is gone."""
    return int(struct.unpack_from("=I", info(link), 16)[0])


def link_program(link: int) -> int:
    """The id of the program that a link runs."""
    return int(struct.unpack_from("=I", info(link), 8)[0])


def program_id(program: int) -> int:
    return int(struct.unpack_from("=I", info(program, 232), 4)[0])


def run(
    program: int, packet: bytes, context: bytes = b"", repeat: int = 1, room: int = 0, flags: int = 0
) -> tuple[int, bytes, int, bytes]:
    """Run a TC program on a packet (BPF_PROG_TEST_RUN).

    Args:
        packet: the frame, from the Ethernet header on; at least 14 bytes.
        context: a struct __sk_buff; only the fields that the kernel allows may be set.
        room: how many bytes the packet may grow.
        flags: BPF_F_TEST_...: what else the kernel is to do.

    Returns:
        (the program's answer, the packet after it, nanoseconds per run, the context after it)
    """
    before, after = _buffer(packet), ctypes.create_string_buffer(len(packet) + room)
    ctx = _buffer(context) if context else None
    ctx_after = ctypes.create_string_buffer(max(len(context), 1))
    attributes = _buffer(
        struct.pack(
            "=IIIIQQIIIIQQIII4x",
            program, 0, len(packet), len(after), _address(before), _address(after), repeat, 0,
            len(context), len(context), _address(ctx), _address(ctx_after) if context else 0, flags, 0, 0,
        )
    )  # fmt: skip
    _bpf(_RUN, attributes)
    _, answer, _, length, _, _, _, duration = struct.unpack_from("=IiIIQQII", attributes.raw)
    return answer, after.raw[:length], duration, ctx_after.raw if context else b""


def wait_for_packets() -> None:
    """Wait until every packet that is on its way through a program now has left it."""
    # membarrier's "global" command is the kernel's own wait for all who may still see the past
    if _libc.syscall(_MEMBARRIER, 1, 0, 0):
        time.sleep(0.1)  # refused on machines with tickless CPUs: far longer than a packet takes
