"""Connections that are moved to and fro a hundred times, while their packets come as fast as they can, on every CPU.

Each packet must find its connection, wherever that is at the moment. Packets are counted: what was sent is what was
forwarded.
"""

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from pylvs.datapath import _layout, resize, syscall
from pylvs.lab.waiting import wait_for
from support.books import Ledger, audit
from support.harness import CLIENT, INDEX, SERVER, Harness, frame
from support.netns import setns
from support.talk import FAMILIES, Talk

ROUNDS = 60
REPEAT = 200  # each takes one from a packet's TTL
Work = Callable[[int], int]


@pytest.fixture
def lvs() -> Iterator[Harness]:
    with Harness() as harness:
        yield harness


def _cable(lvs: Harness, peer: str) -> socket.socket:
    """The other end of one of the director's cables."""
    setns(lvs._peers)
    try:
        end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        end.bind((peer, 0))
    finally:
        lvs.enter()
    return end


def _send(end: socket.socket, frames: list[bytes]) -> Work:
    def work(_: int) -> int:
        for one in frames:
            end.send(one)
        return len(frames)

    return work


def _replay(frames: list[bytes]) -> Work:
    """By BPF_PROG_TEST_RUN, many times each without leaving the kernel: the packets of LVS-DR stay what they are."""
    context = bytearray(192)
    struct.pack_into("=II", context, 36, INDEX[CLIENT], INDEX[CLIENT])

    def work(program: int) -> int:
        for one in frames:
            syscall.run(program, one, bytes(context), REPEAT)
        return REPEAT * len(frames)

    return work


def test_every_packet_is_forwarded(lvs: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    nat, direct = [], []
    for family in FAMILIES:
        web = Talk(lvs, family).serve(2)
        nat += [web.from_port(sport).opens() for sport in (2000, 2001)]
        straight = Talk(lvs, family, port=443, rport=443).serve(2, "-g")
        for sport in (3000, 3001):
            one = straight.from_port(sport)
            lvs.from_client(one.question("S"), mark=sport)
            assert one.asks("A").forwarded
            direct.append(one)
    ledger = audit(lvs.instance)
    ends = _cable(lvs, "c0"), _cable(lvs, "r0")
    again = [frame(talk.question("A", ttl=255)) for talk in direct]
    kinds: tuple[Work, ...] = (
        _send(ends[0], [frame(talk.question("A"), CLIENT) for talk in nat]),
        _send(ends[1], [frame(talk.answer("A"), SERVER) for talk in nat]),
        _replay(again),
        _replay(again[::-1]),
    )
    before, sent, enough, failed = lvs.reasons(), [0] * len(kinds), threading.Event(), []
    move, moved = resize._move, []

    def hammer(number: int, program: int) -> None:
        try:
            os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[number % len(os.sched_getaffinity(0))]})
            while not enough.is_set():
                sent[number] += kinds[number](program)
        except BaseException as error:
            failed.append(error)
            raise

    def to_and_fro(running: resize.Instance, to: int, program: int, groups: int) -> int:
        other = running.slots.entries // _layout.GROUP_SLOTS, 2 * running.slots.entries // _layout.GROUP_SLOTS
        pinned = running.program("ingress")
        senders = [threading.Thread(target=hammer, args=(number, pinned)) for number in range(len(kinds))]
        for sender in senders:
            sender.start()
        try:
            for _ in range(ROUNDS):
                assert move(running, _layout.RESIZING_TO_NEW, program, other[0]) == 0
                assert move(running, _layout.RESIZING_TO_OLD, program, other[1]) == 0
                moved.append(1)
            return move(running, to, program, groups)
        finally:
            enough.set()
            for sender in senders:
                sender.join()
            os.close(pinned)

    monkeypatch.setattr(resize, "_move", to_and_fro)
    with lvs.instance.locked():
        resize.resize(lvs.instance, 13)
    lvs.reopen()
    assert not failed and len(moved) == ROUNDS and min(sent) > 200, (failed, sent)
    wait_for(lambda: lvs.reasons()["received"] - before["received"] == sum(sent), "the last packets")
    now = lvs.reasons()
    assert {name: now[name] - before[name] for name in now if now[name] != before[name]} == {
        "received": sum(sent),
        "forwarded_nat_request": sent[0],
        "forwarded_nat_reply": sent[1],
        "forwarded_route": sent[2] + sent[3],
    }
    assert audit(lvs.instance) == ledger
    for end in ends:
        end.close()
    lvs.advance(1000)
    assert audit(lvs.instance) == Ledger(0, 0, 0)
