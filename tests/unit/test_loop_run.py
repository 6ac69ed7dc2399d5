"""Many turns in one call, and waiting without sleeping."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from support.hosts import open_fds


@pytest.fixture(params=["epoll", "selector"])
def loop(kernels: ModuleType, request: pytest.FixtureRequest) -> Iterator[Any]:
    selector = selectors.DefaultSelector() if request.param == "selector" else None
    loop = kernels.Loop(selector, busy_poll_us=200)
    yield loop
    loop.close()
    if selector is not None:
        selector.close()


def test_run_makes_turns_until_somebody_leaves(loop: Any) -> None:
    seen: list[int] = []

    def again(left: int) -> None:
        seen.append(left)
        if left:
            loop.post(again, left - 1)
        else:
            loop.leave()

    loop.post(again, 3)
    loop.run()
    assert seen == [3, 2, 1, 0]


def test_run_finishes_the_turn_in_which_it_was_left(loop: Any) -> None:
    seen: list[str] = []
    loop.post(loop.leave)
    loop.post(seen.append, "behind")
    loop.run()
    assert seen == ["behind"]


def test_leave_before_run_makes_it_return_once(loop: Any) -> None:
    loop.leave()
    loop.run()
    seen: list[str] = []
    loop.post(seen.append, "later")
    loop.post(loop.leave)
    loop.run()
    assert seen == ["later"]


def test_leave_from_another_thread_ends_the_wait(loop: Any) -> None:
    thread = threading.Thread(target=loop.leave)
    thread.start()
    loop.run()
    thread.join()


def test_run_ends_when_the_loop_is_closed(loop: Any) -> None:
    loop.post(loop.close)
    loop.run()
    assert loop.sources == 0


def test_run_inside_a_turn_is_refused(loop: Any) -> None:
    errors: list[BaseException] = []

    def nested() -> None:
        try:
            loop.run()
        except RuntimeError as exc:
            errors.append(exc)
        loop.leave()

    loop.post(nested)
    loop.run()
    assert str(errors[0]) == "run was called from inside a turn of the same loop"


def test_interrupt_comes_out_of_run_and_it_can_go_on(loop: Any) -> None:
    seen: list[str] = []

    def interrupt() -> None:
        raise KeyboardInterrupt

    loop.post(interrupt)
    loop.post(seen.append, "behind")
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    loop.post(loop.leave)
    loop.run()
    assert seen == ["behind"]


def test_busy_poll_finds_what_is_ready_and_what_comes_later(loop: Any) -> None:
    ours, theirs = socket.socketpair()
    seen: list[bytes] = []

    def on_ready(events: int) -> None:
        seen.append(ours.recv(10))
        if len(seen) == 2:
            loop.leave()

    source = loop.make_source(on_ready)
    loop.add(source, ours.fileno(), loop.READ)
    theirs.send(b"first")
    thread = threading.Timer(0.01, theirs.send, (b"second",))  # later than it polls
    thread.start()
    loop.run()
    thread.join()
    assert seen == [b"first", b"second"]
    loop.remove(source)
    ours.close()
    theirs.close()


def test_busy_poll_keeps_timers_on_time(loop: Any) -> None:
    start = loop.now_ms
    loop.call_at(start + 5, loop.leave)
    loop.run()
    assert loop.now_ms >= start + 5


def test_simulated_time_does_not_wait_busily(kernels: ModuleType) -> None:
    loop = kernels.Loop(clock=lambda: 5, busy_poll_us=1_000_000)
    loop.post(loop.leave)
    loop.run()
    assert loop.run_once(0) == 0
    loop.close()


def test_timers_of_any_order_end_waits_without_a_timeout(kernels: ModuleType) -> None:
    loop = kernels.Loop()
    seen: list[tuple[str, bool]] = []
    start = loop.now_ms

    def at(name: str, ms: int) -> None:
        loop.call_at(start + ms, lambda: seen.append((name, loop.now_ms >= start + ms)))

    late = loop.call_at(start + 3, seen.append, ("cancelled", True))
    at("third", 12)
    at("second", 8)
    at("first", 4)
    late.cancel()
    loop.call_at(start + 12, at, "a day later", 86_400_000 * 3)
    while len(seen) < 3:
        loop.run_once(None)
    assert seen == [("first", True), ("second", True), ("third", True)]
    loop.call_at(loop.now_ms + 2, loop.leave)
    loop.run()
    loop.close()


def test_loop_that_waited_for_timers_gives_its_descriptors_back(kernels: ModuleType) -> None:
    before = open_fds()
    loop = kernels.Loop()
    loop.call_at(loop.now_ms + 1, loop.leave)
    loop.run()
    loop.close()
    assert open_fds() == before
