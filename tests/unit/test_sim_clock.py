"""Virtual time, and the trace."""

from __future__ import annotations

import pytest

from netcore import LocalError
from netcore.sim import SimulationError
from netcore.sim.clock import VirtualTime
from netcore.sim.trace import BATCH, Trace


class Talker:
    """Gets turns as long as it likes."""

    def __init__(self, time: VirtualTime, turns: int) -> None:
        self.time = time
        self.turns = turns

    def turn(self) -> None:
        self.turns -= 1
        if self.turns:
            self.time.ready.append(self)


def test_events_come_in_order_of_time_then_of_calls() -> None:
    time = VirtualTime()
    seen: list[tuple[int, str]] = []
    for when_ms, name in [(5, "b"), (3, "a"), (5, "c"), (9, "d")]:
        time.call_at(when_ms, lambda name=name: seen.append((time.now_ms, name)))  # type: ignore[misc]
    time.run_until(8)

    assert seen == [(3, "a"), (5, "b"), (5, "c")]
    assert time.now_ms == 8
    assert time.next_ms() == 9


def test_time_does_not_go_back() -> None:
    time = VirtualTime()
    time.run_until(10)
    seen: list[int] = []
    time.call_at(3, lambda: seen.append(time.now_ms))
    time.run_until(5)

    assert time.now_ms == 10
    assert seen == [] or seen == [10]
    time.run_until(10)
    assert seen == [10]


def test_endless_turns_of_one_moment_are_an_error() -> None:
    time = VirtualTime()
    time.ready.append(Talker(time, 1 << 30))

    with pytest.raises(SimulationError, match="no end of turns at 0 ms"):
        time.run_until(1)


def test_time_cannot_pass_inside_an_event() -> None:
    time = VirtualTime()
    time.call_at(1, lambda: time.run_until(5))

    with pytest.raises(LocalError, match="passes already"):
        time.run_until(2)


def test_hash_does_not_depend_on_when_it_is_read() -> None:
    one, two = Trace(), Trace()
    for number in range(3 * BATCH):
        one.add((number, "x", 1))
        two.add((number, "x", 1))
        if number % 100 == 0:
            assert two.hash
    assert one.hash == two.hash
    two.add((1, "y"))
    assert one.hash != two.hash


def test_trace_keeps_the_latest_events_and_counts_all() -> None:
    trace = Trace(keep=10)
    for number in range(25):
        trace.add((number, "even" if number % 2 == 0 else "odd"))

    assert [event[0] for event in trace] == list(range(15, 25))
    assert trace.of("even") == [(number, "even") for number in (16, 18, 20, 22, 24)]
    assert len(trace) == 25


def test_observer_sees_events_at_once() -> None:
    trace = Trace()
    seen: list[object] = []
    trace.watch(seen.append)
    trace.add((1, "x"))

    assert seen == [(1, "x")]
