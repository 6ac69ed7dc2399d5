"""A turn that takes long lets out what its first hooks sent, before its last hook has run.

Only a loop on the system's own clock does so: hooks here stay until enough of its time has passed.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from support.sinks import CONN_B, NODE_A, NODE_B, Rig, direct, read_all

MESSAGES = 64
LONG_NS = 100_000  # for a turn to be a long one, twice over
KEY = bytes(range(32))
REPLY = direct(b"reply" * 20)


class RealTimeRig(Rig):
    """One whose loop has the system's clock."""

    def _new_loop(self) -> Any:
        return self.kernels.Loop(on_error=self._on_error)


@pytest.fixture
def rig(kernels: ModuleType) -> Iterator[Rig]:
    with RealTimeRig(kernels) as rig:
        yield rig
        assert rig.errors == []


def take_long() -> None:
    """Stay until what was sent so far is due."""
    start = time.monotonic_ns()
    while time.monotonic_ns() - start < LONG_NS:
        pass


class Answering:
    """A hook that sends one message on a link for each that comes, and sees when they leave."""

    def __init__(self, rig: Rig, out: Any, far: socket.socket) -> None:
        self.seen: list[int] = []  # bytes that had left, when each of the messages came
        self.calls = 0
        self._rig, self._out, self._far = rig, out, far
        self.stream = b""

    def __call__(self, agent: object, message: object) -> None:
        take_long()
        self.stream += read_all(self._far)
        self.seen.append(len(self.stream))
        self._rig.switch.send_on(self._out, b"reply" * 20, 1, 2)


def answer_all(rig: Rig, out: Any, far: socket.socket) -> Answering:
    """Have one turn answer many messages that come in one read."""
    hook = Answering(rig, out, far)
    rig.switch.set_behavior(2, hook)
    _, asker = rig.link()
    rig.turn()
    asker.send(direct(b"?") * MESSAGES)
    rig.turn()
    return hook


def test_long_turn_lets_out_what_was_sent_while_it_runs(rig: Rig) -> None:
    out, far = rig.link(CONN_B, NODE_B)
    hook = answer_all(rig, out, far)
    assert hook.seen[0] == 0
    assert 0 < hook.seen[-1] < MESSAGES * len(REPLY)
    assert hook.stream + read_all(far) == REPLY * MESSAGES


def test_long_turn_on_a_clock_of_the_callers_lets_out_nothing(kernels: ModuleType) -> None:
    with Rig(kernels) as rig:
        out, far = rig.link(CONN_B, NODE_B)
        hook = answer_all(rig, out, far)
        assert hook.seen == [0] * MESSAGES
        assert read_all(far) == REPLY * MESSAGES


def test_links_that_must_not_write_early_wait_for_the_end_of_the_turn(rig: Rig) -> None:
    records = rig.kernels.Records(KEY, KEY)
    sealed, far = rig.link(CONN_B, NODE_B, records=records)
    hook = answer_all(rig, sealed, far)
    assert hook.seen == [0] * MESSAGES
    assert rig.kernels.Records(KEY, KEY).open(read_all(far)) == REPLY * MESSAGES


def test_link_that_its_hook_fails_writes_nothing_more_and_ends_once(rig: Rig) -> None:
    out, far = rig.link(CONN_B, NODE_B)
    hook = Answering(rig, out, far)

    def fail_then_stay(agent: object, message: object) -> None:
        hook(agent, message)
        if len(hook.seen) == MESSAGES // 2:
            out.fail(4, "enough")
            rig.switch.set_behavior(2, lambda *_: take_long())

    rig.switch.set_behavior(2, fail_then_stay)
    _, asker = rig.link()
    rig.turn()
    asker.send(direct(b"?") * MESSAGES)
    rig.turn()
    stream = hook.stream + read_all(far)
    whole = len(stream) // len(REPLY)
    assert 0 < whole < MESSAGES // 2
    assert stream.startswith(REPLY * whole)
    assert [event for event in rig.sink.events if event[0] == "closed"] == [
        ("closed", CONN_B, 4, "enough")
    ]


def test_neighbour_that_is_gone_is_noticed_once_and_by_the_flush(rig: Rig) -> None:
    out, far = rig.link(CONN_B, NODE_B)
    far.close()
    far2 = rig.link(CONN_B + 0x10000, NODE_A + 1)[1]
    hook = answer_all(rig, out, far2)
    assert len(hook.seen) == MESSAGES
    rig.turn()
    assert [event[:2] for event in rig.sink.events if event[0] == "closed"] == [("closed", CONN_B)]


def test_what_a_full_socket_did_not_take_leaves_later_and_in_order(rig: Rig) -> None:
    out, far = rig.link(CONN_B, NODE_B, sndbuf=4_608)
    payload = bytes(range(250)) * 12
    count = 0

    def send_much(agent: object, message: object) -> None:
        nonlocal count
        take_long()
        rig.switch.send_on(out, payload, 1, 2)
        count += 1

    rig.switch.set_behavior(2, send_much)
    _, asker = rig.link()
    rig.turn()
    asker.send(direct(b"?") * MESSAGES)
    rig.turn()
    stream = b""
    while out.queued_bytes:
        stream += read_all(far)
        rig.turn()
    assert count == MESSAGES
    assert stream + read_all(far) == direct(payload) * MESSAGES
