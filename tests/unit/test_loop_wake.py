"""A loop with a wake function: no descriptor, for simulated time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from netcore import LocalError


class Host:
    """Owns the time, and counts how often it was woken."""

    def __init__(self) -> None:
        self.now_ms = 100
        self.wakes = 0

    def clock(self) -> int:
        return self.now_ms

    def wake(self) -> None:
        self.wakes += 1


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def loop(kernels: ModuleType, host: Host) -> Iterator[Any]:
    loop = kernels.Loop(clock=host.clock, wake=host.wake)
    yield loop
    loop.close()


def test_post_wakes_the_host_once_until_the_next_turn(loop: Any, host: Host) -> None:
    done: list[int] = []
    loop.post(done.append, 1)
    loop.post(done.append, 2)
    assert host.wakes == 1
    assert loop.run_once(None) == 2
    loop.post(done.append, 3)

    assert host.wakes == 2
    assert done == [1, 2]


def test_wait_without_end_returns_at_once(loop: Any) -> None:
    loop.call_at(1_000_000, print)

    assert loop.run_once(None) == 0
    assert loop.next_deadline_ms() == 999_900


def test_timer_runs_when_the_clock_says_so(loop: Any, host: Host) -> None:
    done: list[int] = []
    loop.call_at(150, done.append, 1)
    loop.run_once(0)
    host.now_ms = 150
    loop.run_once(0)

    assert done == [1]


def test_dirty_source_outside_a_turn_wakes_the_host(
    kernels: ModuleType, loop: Any, host: Host
) -> None:
    source = kernels.Source()
    loop.mark_dirty(source)

    assert host.wakes == 1
    assert loop.next_deadline_ms() == 0


def test_descriptors_are_refused(kernels: ModuleType, loop: Any) -> None:
    read, write = os.pipe()
    try:
        with pytest.raises(LocalError, match="a loop in simulated time has no file descriptors"):
            loop.add(kernels.Source(), read, loop.READ)
        with pytest.raises(LocalError, match="a loop in simulated time has no file descriptors"):
            loop.fileno()
    finally:
        os.close(read)
        os.close(write)
    assert loop.wakeup_fd == -1
    assert loop.sources == 0


def test_loop_opens_no_descriptor(kernels: ModuleType, host: Host) -> None:
    before = os.listdir("/proc/self/fd")
    loops = [kernels.Loop(clock=host.clock, wake=host.wake) for _ in range(10)]

    assert len(os.listdir("/proc/self/fd")) == len(before)
    for loop in loops:
        loop.close()


def test_closed_loop_wakes_nobody_and_closes_again(loop: Any, host: Host) -> None:
    loop.close()
    loop.close()
    loop.post(print)
    loop.wake()

    assert host.wakes == 0
    with pytest.raises(LocalError, match="closed"):
        loop.run_once(0)


def test_wake_needs_a_clock_and_no_selector(kernels: ModuleType, host: Host) -> None:
    import selectors

    with pytest.raises(ValueError, match="a clock and no selector"):
        kernels.Loop(wake=host.wake)
    with (
        selectors.DefaultSelector() as selector,
        pytest.raises(ValueError, match="a clock and no selector"),
    ):
        kernels.Loop(selector, clock=host.clock, wake=host.wake)
