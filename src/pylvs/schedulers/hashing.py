"""What the hashing schedulers compute with (facts 4.9, 4.12); `datapath/bpf/sched/hash.h` computes the same.

Ports and folded addresses are numbers: 10.0.0.1 folds to 0x0A000001, and an IPv6 address to the exclusive or of its
four words.
"""

from _socket import AF_INET
from functools import lru_cache

BUCKETS = 256
MH_LOOKUP, MH_STEP = 2654435761, 2654446892
"""Maglev's two keys: that of offsets and of lookups, and that of steps."""
_64 = 0xFFFFFFFFFFFFFFFF


def fold(address: bytes, family: int = 0) -> int:
    """An address of the packet path as 32 bits. Of a service of family AF_INET only its first word counts."""
    folded = int.from_bytes(address[:4], "big")
    if family != AF_INET:
        for start in (4, 8, 12):
            folded ^= int.from_bytes(address[start : start + 4], "big")
    return folded


def bucket(value: int, bits: int = 8) -> int:
    """The kernel's hash_32: dh, sh, lblc and lblcr."""
    return (value * 0x61C88647 & 0xFFFFFFFF) >> (32 - bits)


@lru_cache(maxsize=1 << 16)
def siphash(value: int, key: int = MH_LOOKUP) -> int:
    """The lower half of SipHash-1-3 over a 32-bit value, with one 64-bit number for both halves of the key."""
    block = 4 << 56 | value & 0xFFFFFFFF
    v0, v1 = key ^ 0x736F6D6570736575, key ^ 0x646F72616E646F6D
    v2, v3 = key ^ 0x6C7967656E657261, key ^ 0x7465646279746573 ^ block
    for rounds in range(4):
        v0 = v0 + v1 & _64
        v1 = (v1 << 13 & _64 | v1 >> 51) ^ v0
        v0 = v0 << 32 & _64 | v0 >> 32
        v2 = v2 + v3 & _64
        v3 = (v3 << 16 & _64 | v3 >> 48) ^ v2
        v0 = v0 + v3 & _64
        v3 = (v3 << 21 & _64 | v3 >> 43) ^ v0
        v2 = v2 + v1 & _64
        v1 = (v1 << 17 & _64 | v1 >> 47) ^ v2
        v2 = v2 << 32 & _64 | v2 >> 32
        if rounds == 0:
            v0 ^= block
            v2 ^= 0xFF
    return (v0 ^ v1 ^ v2 ^ v3) & 0xFFFFFFFF
