"""A director whose stack forwards (net.ipv4.vs.conntrack), for tests that are written for one that does so itself.

    lvs = ByStack(lvs)
    lvs.from_client(packet).reason == "forwarded_nat_request"

What the packet path leaves to the stack to forward makes a hop here, and leaves; what comes of that is told in the
words for the other way: so the two can be held to the same.
"""

from collections.abc import Mapping
from typing import Any, cast

import pytest

from support.harness import CLIENT, REDIRECT, SERVER, Harness, Result
from support.packets import ICMP, ICMP6, dissect, resum_ipv4


def hop(packet: bytes) -> bytes:
    """The packet after a router."""
    raw = bytearray(packet)
    if raw[0] >> 4 == 6:
        raw[7] -= 1
        return bytes(raw)
    raw[8] -= 1
    return resum_ipv4(bytes(raw))


@pytest.fixture(params=[False, True], ids=["", "by the stack"])
def either(request: pytest.FixtureRequest, lvs: Harness) -> Harness:
    """A director that forwards by itself, and one whose stack does."""
    return cast(Harness, ByStack(lvs)) if request.param else lvs


class ByStack:
    """A harness's director with conntrack on; all that is not here is the harness's own.

    Args:
        hardware: of the real servers on the director's own network, as the stack would address frames to them.
    """

    def __init__(self, lvs: Harness, hardware: Mapping[str, bytes] | None = None):
        self._lvs = lvs
        self._hardware = hardware or {}
        lvs.director.set_sysctl("conntrack", 1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lvs, name)

    def reset(self) -> None:
        self._lvs.reset()
        self._lvs.director.set_sysctl("conntrack", 1)

    def from_client(self, packet: bytes, **context: int) -> Result:
        return self._left(self._lvs.from_client(packet, **context), CLIENT, SERVER, context)

    def from_server(self, packet: bytes, **context: int) -> Result:
        return self._left(self._lvs.from_server(packet, **context), SERVER, CLIENT, context)

    def _left(self, came: Result, here: str, there: str, context: Mapping[str, int]) -> Result:
        """What becomes of what came here."""
        reply = came.reason in ("up_reply_for_stack", "up_fragment") and here == SERVER
        if not reply and came.reason != "forwarded_by_stack":
            return came
        between = dissect(came.frame[14:])
        if between.ttl <= 1:
            assert reply, "what the stack would refuse is refused before"
            return came._replace(reason="up_reply_ttl")
        of_gso = {name: context[name] for name in ("gso_size", "gso_segs") if name in context}
        sent = self._lvs.leave_by(there, hop(between.raw), came_in=here, **of_gso)
        if came.reason == "up_fragment" and not sent.reason:
            return came
        if sent.reason == "sent_failed":
            return came._replace(reason=sent.reason, verdict=sent.verdict)
        tunnelled, frame = sent.verdict == REDIRECT and not reply, sent.frame
        if not reply and not tunnelled:
            frame = self._hardware.get(between.dst, frame[:6]) + frame[6:]
        if between.protocol in (ICMP, ICMP6):
            reason = "forwarded_related"
        elif reply:
            assert sent.reason == "sent_reply"
            reason = "forwarded_nat_reply"
        else:
            reason = "forwarded_tunnel" if tunnelled else "forwarded_route" if sent.reason else "forwarded_nat_request"
        return Result(REDIRECT, frame, reason, came.answers)
