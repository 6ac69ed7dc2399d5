"""The event loop, in both twins. Time is a counter of the test; only posts and signals wait."""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import logging
import os
import random
import select
import selectors
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import FrameType, ModuleType
from typing import Any

import pytest

from netcore.errors import LocalError, QueueFullError

READ, WRITE = 1, 2
SELECTORS: list[type[selectors.BaseSelector] | None] = [
    None,
    selectors.SelectSelector,
    selectors.PollSelector,
    selectors.EpollSelector,
]


class Clock:
    """Milliseconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_ms = 1_000

    def __call__(self) -> int:
        return self.now_ms


class Errors(list[tuple[str, BaseException]]):
    def __call__(self, where: str, error: BaseException) -> None:
        self.append((where, error))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def errors() -> Iterator[Errors]:
    """What the loop caught; a test that expects something empties it."""
    found = Errors()
    yield found
    assert found == []


@pytest.fixture
def loop(kernels: ModuleType, clock: Clock, errors: Errors) -> Iterator[Any]:
    loop = kernels.Loop(clock=clock, on_error=errors)
    yield loop
    loop.close()


@pytest.fixture(params=SELECTORS, ids=lambda cls: cls.__name__ if cls else "default")
def any_loop(
    request: pytest.FixtureRequest, kernels: ModuleType, clock: Clock, errors: Errors
) -> Iterator[Any]:
    """A loop over each kind of selector."""
    selector = request.param() if request.param else None
    loop = kernels.Loop(selector, clock=clock, on_error=errors)
    yield loop
    loop.close()
    if selector is not None:
        assert not selector.get_map()  # nothing of the loop is left in it
        selector.close()


class Pairs:
    """Connected sockets that are closed at the end of the test."""

    def __init__(self) -> None:
        self._open: list[socket.socket] = []

    def __call__(self) -> tuple[socket.socket, socket.socket]:
        pair = socket.socketpair()
        for sock in pair:
            sock.setblocking(False)
        self._open += pair
        return pair

    def close(self) -> None:
        for sock in self._open:
            sock.close()


@pytest.fixture
def pairs(loop: Any) -> Iterator[Pairs]:  # the loop is closed before the sockets
    made = Pairs()
    yield made
    made.close()


@pytest.fixture
def sockets() -> Iterator[Pairs]:
    made = Pairs()
    yield made
    made.close()


def is_readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def open_fds() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def flushing(kernels: ModuleType, function: Callable[[], object]) -> Any:
    """Return a source whose flush calls the function."""

    class Flushing(kernels.Source):  # type: ignore[misc,name-defined]
        def flush(self) -> None:
            function()

    return Flushing()


# -- sources -------------------------------------------------------------------------------------


def test_source_with_data_is_told_to_read(any_loop: Any, sockets: Pairs) -> None:
    ours, theirs = sockets()
    seen: list[int] = []
    any_loop.add(any_loop.make_source(seen.append), ours.fileno(), READ)
    theirs.send(b"x")
    assert any_loop.run_once(None) == 1
    assert seen == [READ]


def test_source_with_room_is_told_to_write(any_loop: Any, sockets: Pairs) -> None:
    ours, _ = sockets()
    seen: list[int] = []
    any_loop.add(any_loop.make_source(seen.append), ours.fileno(), WRITE)
    assert any_loop.run_once(None) == 1
    assert seen == [WRITE]


def test_source_with_both_is_told_once(any_loop: Any, sockets: Pairs) -> None:
    ours, theirs = sockets()
    seen: list[int] = []
    any_loop.add(any_loop.make_source(seen.append), ours.fileno(), READ | WRITE)
    theirs.send(b"x")
    assert any_loop.run_once(None) == 1
    assert seen == [READ | WRITE]


def test_source_without_events_is_not_told(any_loop: Any, sockets: Pairs) -> None:
    ours, _ = sockets()
    seen: list[int] = []
    any_loop.add(any_loop.make_source(seen.append), ours.fileno(), READ)
    assert any_loop.run_once(0) == 0
    assert seen == []


@pytest.mark.parametrize("events", [READ, WRITE])
def test_source_of_a_hung_up_socket_is_told_what_it_waits_for(
    any_loop: Any, sockets: Pairs, events: int
) -> None:
    ours, theirs = sockets()
    seen: list[int] = []
    any_loop.add(any_loop.make_source(seen.append), ours.fileno(), events)
    theirs.close()
    assert any_loop.run_once(None) == 1
    assert seen == [events]


def test_source_of_a_hung_up_socket_waiting_for_both_is_told_both(loop: Any, pairs: Pairs) -> None:
    ours, theirs = pairs()
    seen: list[int] = []
    loop.add(loop.make_source(seen.append), ours.fileno(), READ | WRITE)
    ours.shutdown(socket.SHUT_WR)
    theirs.close()
    loop.run_once(None)
    assert seen == [READ | WRITE]


def test_source_that_does_not_read_is_told_again(any_loop: Any, sockets: Pairs) -> None:
    ours, theirs = sockets()
    seen: list[int] = []
    any_loop.add(any_loop.make_source(seen.append), ours.fileno(), READ)
    theirs.send(b"x")
    assert any_loop.run_once(0) + any_loop.run_once(0) == 2


def test_source_subclass_is_called(kernels: ModuleType, loop: Any, pairs: Pairs) -> None:
    class Reader(kernels.Source):  # type: ignore[misc,name-defined]
        def __init__(self, name: str) -> None:  # does not call the base
            self.name = name

        def on_ready(self, events: int) -> None:
            seen.append((self.name, events))

    seen: list[tuple[str, int]] = []
    ours, theirs = pairs()
    source = Reader("a")
    assert source.fd == -1
    loop.add(source, ours.fileno(), READ)
    theirs.send(b"x")
    loop.run_once(None)
    assert seen == [("a", READ)]


def test_source_base_hooks_do_nothing(kernels: ModuleType, loop: Any, pairs: Pairs) -> None:
    ours, _ = pairs()
    source = kernels.Source()
    loop.add(source, ours.fileno(), WRITE)
    loop.mark_dirty(source)
    assert loop.run_once(0) == 1


def test_loop_constants_are_those_of_selectors(kernels: ModuleType) -> None:
    assert (kernels.Loop.READ, kernels.Loop.WRITE) == (READ, WRITE)
    assert (READ, WRITE) == (selectors.EVENT_READ, selectors.EVENT_WRITE)


def test_make_source_gives_a_source_of_the_backend(kernels: ModuleType, loop: Any) -> None:
    seen: list[int] = []
    source = loop.make_source(seen.append)
    source.on_ready(2)
    source.flush()
    assert isinstance(source, kernels.Source)
    assert (source.fd, seen) == (-1, [2])


def test_add_sets_fd_and_remove_resets_it(any_loop: Any, sockets: Pairs) -> None:
    ours, _ = sockets()
    source = any_loop.make_source(print)
    any_loop.add(source, ours.fileno(), READ)
    assert (source.fd, any_loop.sources) == (ours.fileno(), 1)
    any_loop.remove(source)
    assert (source.fd, any_loop.sources) == (-1, 0)


def test_add_keeps_the_source_alive_and_remove_lets_it_go(
    kernels: ModuleType, loop: Any, pairs: Pairs
) -> None:
    ours, _ = pairs()
    source = flushing(kernels, print)
    loop.add(source, ours.fileno(), READ)
    alive = weakref.ref(source)
    del source
    gc.collect()
    assert alive() is not None
    loop.remove(alive())
    gc.collect()
    assert alive() is None


def test_add_of_an_fd_twice_is_a_value_error(any_loop: Any, sockets: Pairs) -> None:
    ours, _ = sockets()
    any_loop.add(any_loop.make_source(print), ours.fileno(), READ)
    with pytest.raises(ValueError, match=rf"^fd {ours.fileno()} is registered already$"):
        any_loop.add(any_loop.make_source(print), ours.fileno(), READ)
    assert any_loop.sources == 1


def test_add_of_a_source_twice_is_a_value_error(any_loop: Any, sockets: Pairs) -> None:
    ours, theirs = sockets()
    source = any_loop.make_source(print)
    any_loop.add(source, ours.fileno(), READ)
    with pytest.raises(ValueError, match=r"^the source is registered already, with fd "):
        any_loop.add(source, theirs.fileno(), READ)
    assert source.fd == ours.fileno()


def test_add_of_an_fd_that_the_selector_has_already_is_a_value_error(
    kernels: ModuleType, sockets: Pairs
) -> None:
    ours, _ = sockets()
    with selectors.DefaultSelector() as selector:
        selector.register(ours, READ, "mine")
        with contextlib.closing(kernels.Loop(selector)) as loop:
            source = loop.make_source(print)
            with pytest.raises(ValueError, match=r"is registered already$"):
                loop.add(source, ours.fileno(), READ)
            assert (source.fd, loop.sources) == (-1, 0)
            loop.remove(source)


def test_add_of_the_loops_own_fd_is_a_value_error(loop: Any) -> None:
    with pytest.raises(ValueError, match=r"is registered already$"):
        loop.add(loop.make_source(print), loop.wakeup_fd, READ)


@pytest.mark.parametrize("events", [0, READ])
def test_add_of_a_closed_fd_is_an_os_error(any_loop: Any, events: int) -> None:
    ours, theirs = socket.socketpair()
    fd = ours.fileno()
    ours.close()
    theirs.close()
    source = any_loop.make_source(print)
    with pytest.raises(OSError, match="Bad file descriptor"):
        any_loop.add(source, fd, events)
    assert (source.fd, any_loop.sources) == (-1, 0)


def test_add_of_a_file_is_an_os_error_and_changes_nothing(loop: Any, tmp_path: Any) -> None:
    source = loop.make_source(print)
    with (tmp_path / "file").open("w") as file:
        with pytest.raises(PermissionError):
            loop.add(source, file.fileno(), READ)
        assert (source.fd, loop.sources) == (-1, 0)
        loop.add(source, file.fileno(), 0)


@pytest.mark.parametrize("fd", [-1, -(1 << 31)])
def test_add_of_a_negative_fd_is_a_value_error(loop: Any, fd: int) -> None:
    with pytest.raises(ValueError, match=f"^fd must be 0 or more, not {fd}$"):
        loop.add(loop.make_source(print), fd, READ)


def test_add_of_no_int_is_a_type_error(loop: Any) -> None:
    with pytest.raises(TypeError, match="'float' object cannot be interpreted as an integer"):
        loop.add(loop.make_source(print), 1.0, READ)


@pytest.mark.parametrize("events", [-1, 4, 1 << 70])
def test_events_out_of_range_are_a_value_error(loop: Any, pairs: Pairs, events: int) -> None:
    ours, _ = pairs()
    source = loop.make_source(print)
    with pytest.raises(ValueError, match=rf"^events must be in 0\.\.3, not {events}$"):
        loop.add(source, ours.fileno(), events)
    loop.add(source, ours.fileno(), READ)
    with pytest.raises(ValueError, match=rf"^events must be in 0\.\.3, not {events}$"):
        loop.modify(source, events)


def test_modify_changes_what_is_told(any_loop: Any, sockets: Pairs) -> None:
    ours, theirs = sockets()
    seen: list[int] = []
    source = any_loop.make_source(seen.append)
    any_loop.add(source, ours.fileno(), READ)
    theirs.send(b"x")
    for events in (WRITE, READ | WRITE, READ | WRITE, 0, READ):
        any_loop.modify(source, events)
        any_loop.run_once(0)
    assert seen == [WRITE, READ | WRITE, READ | WRITE, READ]


def test_source_waiting_for_nothing_is_not_told_of_a_hang_up(any_loop: Any, sockets: Pairs) -> None:
    ours, theirs = sockets()
    seen: list[int] = []
    any_loop.add(any_loop.make_source(seen.append), ours.fileno(), 0)
    theirs.close()
    assert any_loop.run_once(0) == 0
    assert (seen, any_loop.sources) == ([], 1)


def test_modify_of_an_unregistered_source_is_a_value_error(
    kernels: ModuleType, loop: Any, pairs: Pairs
) -> None:
    ours, _ = pairs()
    source = loop.make_source(print)
    with pytest.raises(ValueError, match=r"^the source is not registered$"):
        loop.modify(source, READ)
    loop.add(source, ours.fileno(), READ)
    other = kernels.Loop()
    with (
        contextlib.closing(other),
        pytest.raises(ValueError, match=r"^the source is not registered$"),
    ):
        other.modify(source, WRITE)


def test_modify_of_a_closed_fd_is_an_error(loop: Any) -> None:
    ours, theirs = socket.socketpair()
    source = loop.make_source(print)
    loop.add(source, ours.fileno(), READ)
    ours.close()
    theirs.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        loop.modify(source, WRITE)
    loop.remove(source)


def test_remove_is_idempotent(any_loop: Any, sockets: Pairs) -> None:
    ours, theirs = sockets()
    seen: list[int] = []
    source = any_loop.make_source(seen.append)
    any_loop.remove(source)
    any_loop.add(source, ours.fileno(), READ)
    any_loop.remove(source)
    any_loop.remove(source)
    theirs.send(b"x")
    assert any_loop.run_once(0) == 0


def test_remove_by_another_loop_has_no_effect(kernels: ModuleType, loop: Any, pairs: Pairs) -> None:
    ours, _ = pairs()
    source = loop.make_source(print)
    loop.add(source, ours.fileno(), READ)
    with contextlib.closing(kernels.Loop()) as other:
        other.remove(source)
    assert source.fd == ours.fileno()


def test_remove_after_the_fd_was_closed_is_fine(any_loop: Any) -> None:
    ours, theirs = socket.socketpair()
    source = any_loop.make_source(print)
    any_loop.add(source, ours.fileno(), READ)
    ours.close()
    theirs.close()
    any_loop.remove(source)
    assert any_loop.sources == 0


def test_removed_source_can_be_added_again(any_loop: Any, sockets: Pairs) -> None:
    ours, theirs = sockets()
    seen: list[int] = []
    source = any_loop.make_source(seen.append)
    any_loop.add(source, ours.fileno(), READ)
    any_loop.remove(source)
    any_loop.add(source, ours.fileno(), READ)
    theirs.send(b"x")
    assert any_loop.run_once(0) == 1


def test_add_of_many_sources_serves_each_once(any_loop: Any, sockets: Pairs) -> None:
    seen: list[int] = []
    for number in range(150):
        ours, theirs = sockets()
        theirs.send(b"x")
        source = any_loop.make_source(lambda _, number=number: seen.append(number))
        any_loop.add(source, ours.fileno(), READ)
    served = any_loop.run_once(0)
    assert (served, sorted(seen)) == (150, list(range(150)))


# -- stale events --------------------------------------------------------------------------------


def two_ready(loop: Any, sockets: Pairs, act: Callable[[int], None]) -> list[Any]:
    """Add two ready sources; the one served first calls ``act(number of the other)``."""
    served: list[int] = []

    def on_ready(number: int) -> None:
        served.append(number)
        if len(served) == 1:
            act(1 - number)

    sources = []
    for number in range(2):
        ours, theirs = sockets()
        theirs.send(b"x")
        source = loop.make_source(lambda _, number=number: on_ready(number))
        loop.add(source, ours.fileno(), READ)
        sources.append(source)
    return [sources, served]


def test_event_of_a_removed_source_is_not_delivered(any_loop: Any, sockets: Pairs) -> None:
    sources, served = two_ready(any_loop, sockets, lambda other: any_loop.remove(sources[other]))
    assert any_loop.run_once(0) == 1
    assert len(served) == 1


def test_event_of_a_reused_fd_is_not_delivered(any_loop: Any, sockets: Pairs) -> None:
    seen: list[int] = []
    replacement = any_loop.make_source(seen.append)

    def replace(other: int) -> None:
        fd = sources[other].fd
        any_loop.remove(sources[other])
        fresh, _ = sockets()
        os.dup2(fresh.fileno(), fd)  # the number names another socket from here on
        any_loop.add(replacement, fd, READ)

    sources, _ = two_ready(any_loop, sockets, replace)
    assert any_loop.run_once(0) == 1
    assert seen == []


def test_event_of_the_same_source_added_again_is_not_delivered(
    any_loop: Any, sockets: Pairs
) -> None:
    def again(other: int) -> None:
        fd = sources[other].fd
        any_loop.remove(sources[other])
        fresh, _ = sockets()
        os.dup2(fresh.fileno(), fd)
        any_loop.add(sources[other], fd, READ)

    sources, served = two_ready(any_loop, sockets, again)
    assert any_loop.run_once(0) == 1
    assert len(served) == 1


def test_event_not_waited_for_any_more_is_not_delivered(any_loop: Any, sockets: Pairs) -> None:
    sources, served = two_ready(
        any_loop, sockets, lambda other: any_loop.modify(sources[other], WRITE)
    )
    assert any_loop.run_once(0) == 1
    assert len(served) == 1


def test_event_of_somebody_elses_registration_is_ignored(
    kernels: ModuleType, sockets: Pairs
) -> None:
    ours, _ = sockets()
    with selectors.DefaultSelector() as selector:
        selector.register(ours, WRITE, (None, ours.fileno(), 1))
        with contextlib.closing(kernels.Loop(selector)) as loop:
            assert loop.run_once(None) == 0


def test_source_may_remove_itself_and_be_the_last_reference(loop: Any, pairs: Pairs) -> None:
    ours, theirs = pairs()
    holder: list[Any] = []

    def on_ready(_: int) -> None:
        loop.remove(holder.pop())

    holder.append(loop.make_source(on_ready))
    loop.add(holder[0], ours.fileno(), READ)
    theirs.send(b"x")
    assert loop.run_once(0) == 1
    assert loop.sources == 0


# -- timers --------------------------------------------------------------------------------------


def test_timer_runs_at_its_time_and_not_before(loop: Any, clock: Clock) -> None:
    seen: list[str] = []
    timer = loop.call_at(1_010, seen.append, "x")
    clock.now_ms = 1_009
    assert (loop.run_once(0), seen, timer.active) == (0, [], True)
    clock.now_ms = 1_010
    assert (loop.run_once(0), seen, timer.active) == (1, ["x"], False)
    assert loop.run_once(0) == 0


def test_timers_run_by_time_then_by_creation(loop: Any, clock: Clock) -> None:
    seen: list[str] = []
    for name, when_ms in [("c", 1_002), ("a", 1_001), ("d", 1_002), ("b", 1_001), ("z", 900)]:
        loop.call_at(when_ms, seen.append, name)
    clock.now_ms = 2_000
    assert loop.run_once(None) == 5
    assert "".join(seen) == "zabcd"


@pytest.mark.parametrize("seed", range(5))
def test_timers_in_random_order_run_sorted(loop: Any, clock: Clock, seed: int) -> None:
    rnd = random.Random(seed)
    seen: list[tuple[int, int]] = []
    timers = []
    for number in range(400):
        when_ms = 1_000 + rnd.randrange(100)
        timers.append((when_ms, number, loop.call_at(when_ms, seen.append, (when_ms, number))))
    cancelled = rnd.sample(range(400), 250)
    for number in cancelled:
        timers[number][2].cancel()
    for now_ms in range(1_000, 1_100, 7):
        clock.now_ms = now_ms
        loop.run_once(0)
    clock.now_ms = 1_100
    loop.run_once(0)
    left = sorted(set(range(400)) - set(cancelled))
    assert seen == sorted((timers[number][0], number) for number in left)
    assert loop.timers == 0


def test_timer_cancelled_does_not_run(loop: Any, clock: Clock) -> None:
    seen: list[int] = []
    timer = loop.call_at(1_010, seen.append, 1)
    timer.cancel()
    timer.cancel()
    clock.now_ms = 2_000
    assert (loop.run_once(0), seen, timer.active, loop.timers) == (0, [], False, 0)


def test_timer_cancelled_after_it_ran_has_no_effect(loop: Any) -> None:
    timer = loop.call_at(1_000, int)
    other = loop.call_at(5_000, int)
    loop.run_once(0)
    timer.cancel()
    assert (loop.timers, other.active) == (1, True)


def test_timer_cancelled_by_one_of_the_same_turn_does_not_run(loop: Any) -> None:
    seen: list[int] = []
    loop.call_at(1_000, lambda: timer.cancel())
    timer: Any = loop.call_at(1_000, seen.append, 1)
    assert (loop.run_once(0), seen, loop.timers) == (1, [], 0)


def test_timer_is_not_active_while_it_runs(loop: Any) -> None:
    seen: list[object] = []
    timer: Any = loop.call_at(1_000, lambda: seen.extend((timer.active, loop.timers)))
    loop.run_once(0)
    assert seen == [False, 0]


def test_timer_made_by_a_timer_waits_for_the_next_turn(loop: Any) -> None:
    seen: list[str] = []
    loop.call_at(1_000, lambda: loop.call_at(500, seen.append, "late"))
    loop.call_at(1_000, seen.append, "first")
    assert (loop.run_once(0), seen) == (2, ["first"])
    assert loop.next_deadline_ms() == 0
    assert (loop.run_once(None), seen) == (1, ["first", "late"])


def test_timer_forgets_its_function(loop: Any) -> None:
    class Thing:
        pass

    things = [Thing(), Thing()]
    alive = [weakref.ref(thing) for thing in things]
    timers = [loop.call_at(1_000, id, things.pop()) for _ in range(2)]
    timers[0].cancel()
    loop.run_once(0)
    gc.collect()
    assert [ref() for ref in alive] == [None, None]


def test_timer_when_ms_is_what_was_asked_for(loop: Any) -> None:
    assert loop.call_at(1_234, int).when_ms == 1_234


@pytest.mark.parametrize(
    ("when_ms", "stored"), [(10**30, 1 << 62), (-(10**30), -(1 << 62)), (True, 1)]
)
def test_timer_when_ms_is_clamped(loop: Any, when_ms: int, stored: int) -> None:
    assert loop.call_at(when_ms, int).when_ms == stored


@pytest.mark.parametrize("when_ms", [1.5, None, "1"])
def test_timer_when_ms_of_no_int_is_a_type_error(loop: Any, when_ms: object) -> None:
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        loop.call_at(when_ms, int)


def test_timers_cancelled_do_not_pile_up(loop: Any) -> None:
    class Thing:
        pass

    keep = loop.call_at(9_000, int)
    before = len(gc.get_objects())
    for _ in range(5_000):
        loop.call_at(8_000, id, Thing()).cancel()
    gc.collect()
    assert len(gc.get_objects()) - before < 500
    assert (loop.timers, keep.active) == (1, True)


def test_timers_left_by_a_sweep_still_run(loop: Any, clock: Clock) -> None:
    seen: list[int] = []
    timers = [loop.call_at(2_000 - number, seen.append, number) for number in range(200)]
    for timer in timers[:150]:
        timer.cancel()
    clock.now_ms = 2_000
    assert loop.run_once(0) == 50
    assert seen == list(range(199, 149, -1))


def test_next_deadline_is_the_time_to_the_next_active_timer(loop: Any, clock: Clock) -> None:
    assert loop.next_deadline_ms() is None
    loop.call_at(1_300, int)
    first = loop.call_at(1_200, int)
    clock.now_ms = 1_050
    assert loop.next_deadline_ms() == 150
    first.cancel()
    assert loop.next_deadline_ms() == 250
    clock.now_ms = 5_000
    assert loop.next_deadline_ms() == 0


def test_next_deadline_does_not_move_the_loops_time(loop: Any, clock: Clock) -> None:
    clock.now_ms = 1_050
    loop.next_deadline_ms()
    assert loop.now_ms == 1_000


def test_now_is_refreshed_by_a_turn_and_by_update(loop: Any, clock: Clock) -> None:
    seen: list[int] = []
    loop.post(lambda: seen.append(loop.now_ms))
    clock.now_ms = 1_100
    assert loop.now_ms == 1_000
    loop.run_once(0)
    assert (loop.now_ms, seen) == (1_100, [1_100])
    clock.now_ms = 1_200
    loop.update_now()
    assert loop.now_ms == 1_200


def test_default_clock_is_monotonic_ms(kernels: ModuleType) -> None:
    with contextlib.closing(kernels.Loop()) as loop:
        before = time.monotonic_ns() // 1_000_000
        loop.update_now()
        assert before <= loop.now_ms <= time.monotonic_ns() // 1_000_000


@pytest.mark.parametrize("selector", SELECTORS)
def test_timer_wakes_the_wait_and_never_early(
    kernels: ModuleType, selector: type[selectors.BaseSelector] | None
) -> None:
    made = selector() if selector else None
    with contextlib.closing(kernels.Loop(made)) as loop:
        done: list[int] = []
        for turn in range(20):
            due_ns = time.monotonic_ns() + 2_000_000
            loop.call_at(-(-due_ns // 1_000_000), lambda: done.append(time.monotonic_ns()))
            while len(done) == turn:
                loop.run_once(None)
            assert done[turn] >= due_ns
    if made is not None:
        made.close()


def test_run_once_timeout_shorter_than_the_timer_ends_without_it(loop: Any) -> None:
    loop.call_at(1 << 50, int)
    assert (loop.run_once(1), loop.timers) == (0, 1)


# -- dirty sources -------------------------------------------------------------------------------


def test_dirty_source_is_flushed_once_at_the_end_of_the_turn(
    kernels: ModuleType, loop: Any
) -> None:
    seen: list[str] = []
    source = flushing(kernels, lambda: seen.append("flush"))

    def mark(name: str) -> None:
        seen.append(name)
        loop.mark_dirty(source)
        loop.mark_dirty(source)

    loop.call_at(1_000, mark, "timer")
    loop.post(mark, "post")
    loop.run_once(0)
    assert seen == ["timer", "post", "flush"]


def test_dirty_source_marked_outside_a_turn_is_flushed_before_the_wait(
    kernels: ModuleType, loop: Any
) -> None:
    seen: list[str] = []
    loop.mark_dirty(flushing(kernels, lambda: seen.append("flush")))
    loop.call_at(1_000, seen.append, "timer")
    loop.run_once(None)
    assert seen == ["flush", "timer"]


def test_mark_dirty_outside_a_turn_makes_fileno_readable(kernels: ModuleType, loop: Any) -> None:
    source = flushing(kernels, int)
    assert not is_readable(loop.fileno())
    loop.mark_dirty(source)
    assert is_readable(loop.fileno())
    assert loop.next_deadline_ms() == 0
    loop.run_once(None)
    assert not is_readable(loop.fileno())


def test_mark_dirty_inside_a_turn_leaves_nothing_behind(kernels: ModuleType, loop: Any) -> None:
    loop.call_at(1_000, loop.mark_dirty, flushing(kernels, int))
    loop.run_once(0)
    assert not is_readable(loop.fileno())
    assert loop.next_deadline_ms() is None


def test_sources_marked_by_a_flush_are_flushed_in_the_same_turn(
    kernels: ModuleType, loop: Any
) -> None:
    seen: list[int] = []
    chain: list[Any] = []

    def flush(number: int) -> None:
        seen.append(number)
        if number < 9:
            loop.mark_dirty(chain[number + 1])

    chain += [flushing(kernels, functools.partial(flush, number)) for number in range(10)]
    loop.mark_dirty(chain[0])
    loop.run_once(0)
    assert seen == list(range(10))


def test_flushes_without_end_are_cut_off_and_go_on_next_turn(
    kernels: ModuleType, loop: Any
) -> None:
    seen: list[int] = []

    def flush() -> None:
        seen.append(1)
        loop.mark_dirty(source)

    source = flushing(kernels, flush)
    loop.mark_dirty(source)
    loop.run_once(None)
    assert len(seen) == 2 * 64  # before and after the wait
    assert is_readable(loop.fileno())
    assert loop.next_deadline_ms() == 0
    loop.run_once(None)
    assert len(seen) == 4 * 64


# -- posts ---------------------------------------------------------------------------------------


def test_posts_run_in_order(loop: Any) -> None:
    seen: list[int] = []
    for number in range(5):
        loop.post(seen.append, number)
    assert (loop.run_once(None), seen) == (5, [0, 1, 2, 3, 4])


def test_post_makes_fileno_readable(loop: Any) -> None:
    loop.post(int)
    assert is_readable(loop.fileno())
    assert loop.next_deadline_ms() == 0
    loop.run_once(None)
    assert not is_readable(loop.fileno())


def test_post_made_in_a_turn_waits_for_the_next(loop: Any) -> None:
    seen: list[str] = []
    loop.call_at(1_000, loop.post, seen.append, "by timer")
    loop.post(lambda: loop.post(seen.append, "by post"))
    assert (loop.run_once(0), seen) == (2, [])
    assert (loop.run_once(None), seen) == (2, ["by timer", "by post"])


def test_post_beyond_the_bound_is_refused_and_counted(kernels: ModuleType) -> None:
    with contextlib.closing(kernels.Loop(max_posts=2)) as loop:
        seen: list[int] = []
        loop.post(seen.append, 1)
        loop.post(seen.append, 2)
        with pytest.raises(QueueFullError) as caught:
            loop.post(seen.append, 3)
        assert (caught.value.queue, caught.value.limit) == ("max_posts", 2)
        assert loop.posts_refused == 1
        loop.run_once(0)
        loop.post(seen.append, 4)
        loop.run_once(0)
        assert seen == [1, 2, 4]


@pytest.mark.parametrize("bound", [0, -1])
def test_max_posts_below_one_is_a_value_error(kernels: ModuleType, bound: int) -> None:
    with pytest.raises(ValueError, match=f"^max_posts must be 1 or more, not {bound}$"):
        kernels.Loop(max_posts=bound)


def test_max_posts_of_no_int_is_a_type_error(kernels: ModuleType) -> None:
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        kernels.Loop(max_posts=2.5)


def test_post_from_another_thread_ends_the_wait(any_loop: Any) -> None:
    seen: list[int] = []
    thread = threading.Thread(target=any_loop.post, args=(seen.append, 1))
    any_loop.call_at(1_000, thread.start)
    any_loop.run_once(0)
    while not seen:
        any_loop.run_once(None)
    thread.join()
    assert seen == [1]


def test_posts_from_many_threads_all_run(loop: Any) -> None:
    seen: list[int] = []

    def work(start: int) -> None:
        for number in range(start, start + 500):
            loop.post(seen.append, number)

    threads = [threading.Thread(target=work, args=(500 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    while len(seen) < 2_000:
        loop.run_once(None)
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(2_000))


def test_wake_ends_one_wait_and_serves_nothing(any_loop: Any) -> None:
    any_loop.wake()
    any_loop.wake()
    assert any_loop.run_once(None) == 0
    any_loop.wake()
    assert any_loop.run_once(None) == 0


def test_wake_inside_a_turn_ends_the_next_wait(loop: Any) -> None:
    loop.call_at(1_000, loop.wake)
    assert loop.run_once(None) == 1
    assert loop.run_once(None) == 0


def test_wakeup_fd_takes_bytes_of_others(loop: Any) -> None:
    os.write(loop.wakeup_fd, bytes(5_000))
    assert loop.run_once(None) == 0
    assert not is_readable(loop.fileno())


def test_wakeup_fd_full_does_not_block_wake(loop: Any) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(loop.wakeup_fd, bytes(4_096))
    loop.wake()
    while is_readable(loop.fileno()):
        loop.run_once(None)


# -- errors --------------------------------------------------------------------------------------


def fail(error: BaseException) -> None:
    raise error


def test_exceptions_go_to_on_error_and_the_turn_goes_on(
    kernels: ModuleType, loop: Any, pairs: Pairs, errors: Errors
) -> None:
    boom = ValueError("boom")
    ours, _ = pairs()
    loop.add(loop.make_source(lambda _: fail(boom)), ours.fileno(), WRITE)
    loop.call_at(1_000, fail, boom)
    loop.post(fail, boom)
    loop.mark_dirty(flushing(kernels, lambda: fail(boom)))
    assert loop.run_once(0) == 3
    assert [where for where, _ in errors] == ["flush", "on_ready", "timer", "post"]
    assert all(error is boom for _, error in errors)
    errors.clear()


def test_exceptions_are_logged_by_default(
    kernels: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.closing(kernels.Loop()) as loop:
        loop.post(fail, ValueError("boom"))
        loop.run_once(0)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("netcore.loop", logging.ERROR)
    assert record.getMessage() == "exception in post"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "boom"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupt_in_a_source_leaves_the_others_for_the_next_turn(
    any_loop: Any, sockets: Pairs, error: type[BaseException]
) -> None:
    seen: list[int] = []

    def on_ready(number: int) -> None:
        seen.append(number)
        if len(seen) == 1:
            raise error

    for number in range(3):
        ours, _ = sockets()
        source = any_loop.make_source(lambda _, number=number: on_ready(number))
        any_loop.add(source, ours.fileno(), WRITE)
    with pytest.raises(error):
        any_loop.run_once(0)
    assert any_loop.in_turn is False
    assert any_loop.run_once(0) == 3
    assert sorted(seen[1:]) == [0, 1, 2]


def test_interrupt_in_a_timer_leaves_the_others_for_the_next_turn(loop: Any) -> None:
    seen: list[int] = []
    loop.call_at(1_000, fail, KeyboardInterrupt())
    cancelled = loop.call_at(1_000, seen.append, 1)
    loop.call_at(1_000, seen.append, 2)
    with pytest.raises(KeyboardInterrupt):
        loop.run_once(0)
    assert (seen, loop.timers) == ([], 2)
    cancelled.cancel()
    assert loop.timers == 1
    assert loop.next_deadline_ms() == 0
    assert is_readable(loop.fileno())
    assert (loop.run_once(None), seen, loop.timers) == (1, [2], 0)


def test_interrupt_in_a_post_leaves_the_others_for_the_next_turn(loop: Any) -> None:
    seen: list[int] = []
    loop.post(fail, KeyboardInterrupt())
    loop.post(seen.append, 2)
    with pytest.raises(KeyboardInterrupt):
        loop.run_once(0)
    assert loop.next_deadline_ms() == 0
    assert (loop.run_once(None), seen) == (1, [2])


def test_interrupt_in_a_flush_flushes_again_next_turn(kernels: ModuleType, loop: Any) -> None:
    seen: list[str] = []

    def interrupted() -> None:
        seen.append("interrupted")
        if len(seen) == 1:
            raise KeyboardInterrupt

    loop.mark_dirty(flushing(kernels, interrupted))
    loop.mark_dirty(flushing(kernels, lambda: seen.append("other")))
    with pytest.raises(KeyboardInterrupt):
        loop.run_once(None)
    assert is_readable(loop.fileno())
    loop.run_once(None)
    assert seen == ["interrupted", "interrupted", "other"]


def test_interrupt_in_on_error_leaves_the_loop_usable(kernels: ModuleType) -> None:
    with contextlib.closing(kernels.Loop(on_error=lambda _, error: fail(error))) as loop:
        loop.post(fail, ValueError("boom"))
        with pytest.raises(ValueError, match="boom"):
            loop.run_once(0)
        loop.post(int)
        assert loop.run_once(None) == 1


def test_run_once_inside_a_turn_is_a_runtime_error(loop: Any, errors: Errors) -> None:
    seen: list[bool] = []
    loop.post(lambda: seen.append(loop.in_turn))
    loop.post(loop.run_once, 0)
    assert loop.run_once(0) == 2
    ((where, error),) = errors
    assert (where, type(error)) == ("post", RuntimeError)
    assert "inside a turn" in str(error)
    assert (seen, loop.in_turn) == ([True], False)
    errors.clear()


@pytest.mark.parametrize("timeout", [1.0, "1"])
def test_run_once_timeout_of_no_int_is_a_type_error(loop: Any, timeout: object) -> None:
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        loop.run_once(timeout)
    assert loop.in_turn is False


@pytest.mark.parametrize("timeout", [-5, -(10**30)])
def test_run_once_negative_timeout_does_not_wait(any_loop: Any, timeout: int) -> None:
    assert any_loop.run_once(timeout) == 0


def test_run_once_endless_timeout_is_taken(any_loop: Any) -> None:
    any_loop.wake()
    assert any_loop.run_once(10**30) == 0


# -- signals -------------------------------------------------------------------------------------


@pytest.fixture
def on_alarm() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Call a function in a signal handler, soon, at a moment when the loop waits."""
    old = signal.getsignal(signal.SIGALRM)

    def arm(function: Callable[[], object]) -> None:
        def handler(_number: int, _frame: FrameType | None) -> None:
            function()

        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)  # again: one may come too early

    yield arm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, old)


def test_signal_handler_may_post(
    any_loop: Any, on_alarm: Callable[[Callable[[], object]], None]
) -> None:
    seen: list[int] = []
    on_alarm(lambda: any_loop.post(seen.append, 1))
    while not seen:
        any_loop.run_once(None)
    assert seen[0] == 1


def test_signal_handler_that_raises_ends_the_wait(
    any_loop: Any, on_alarm: Callable[[Callable[[], object]], None]
) -> None:
    def interrupt() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise KeyboardInterrupt

    on_alarm(interrupt)
    with pytest.raises(KeyboardInterrupt):
        any_loop.run_once(None)
    assert any_loop.in_turn is False
    any_loop.post(int)
    assert any_loop.run_once(None) == 1


def test_signal_handler_runs_before_a_timeout_ends(
    any_loop: Any, on_alarm: Callable[[Callable[[], object]], None]
) -> None:
    seen: list[int] = []
    on_alarm(lambda: seen.append(1))
    while not seen:
        assert any_loop.run_once(50) == 0
    assert seen[0] == 1


def test_signal_handler_may_close_the_loop(
    loop: Any, on_alarm: Callable[[Callable[[], object]], None]
) -> None:
    def close() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        loop.wake()
        loop.post(loop.close)

    on_alarm(close)
    turns = iter(lambda: loop.run_once(None), -1)
    with pytest.raises(LocalError, match=r"^the loop is closed$"):
        list(turns)


def test_signal_wakeup_fd_ends_the_wait(loop: Any) -> None:
    old_handler = signal.signal(signal.SIGUSR1, lambda *_: None)
    old_fd = signal.set_wakeup_fd(loop.wakeup_fd)
    try:
        loop.post(os.kill, os.getpid(), signal.SIGUSR1)
        loop.run_once(None)
        assert loop.run_once(None) == 0
    finally:
        signal.set_wakeup_fd(old_fd)
        signal.signal(signal.SIGUSR1, old_handler)


# -- fileno, close -------------------------------------------------------------------------------


def test_fileno_is_that_of_the_selector(kernels: ModuleType) -> None:
    with (
        selectors.EpollSelector() as selector,
        contextlib.closing(kernels.Loop(selector)) as loop,
    ):
        assert loop.fileno() == selector.fileno()


def test_fileno_is_readable_when_a_source_is_ready(loop: Any, pairs: Pairs) -> None:
    ours, theirs = pairs()
    loop.add(loop.make_source(lambda _: ours.recv(9)), ours.fileno(), READ)
    theirs.send(b"x")
    assert is_readable(loop.fileno())
    loop.run_once(0)
    assert not is_readable(loop.fileno())


def test_fileno_of_a_selector_without_one_is_a_local_error(kernels: ModuleType) -> None:
    loop = kernels.Loop(selectors.SelectSelector())
    with pytest.raises(LocalError, match=r"^SelectSelector has no file descriptor"):
        loop.fileno()
    loop.close()


def test_close_removes_everything(any_loop: Any, sockets: Pairs, errors: Errors) -> None:
    ours, _ = sockets()
    source = any_loop.make_source(print)
    any_loop.add(source, ours.fileno(), READ)
    timer = any_loop.call_at(2_000, int)
    any_loop.post(errors.append, ("post ran", ValueError()))
    any_loop.mark_dirty(source)
    any_loop.close()
    any_loop.close()
    assert (source.fd, timer.active) == (-1, False)
    assert (any_loop.sources, any_loop.timers, any_loop.wakeup_fd) == (0, 0, -1)
    assert any_loop.next_deadline_ms() is None


def test_closed_loop_refuses_work(loop: Any, pairs: Pairs) -> None:
    ours, _ = pairs()
    source = loop.make_source(print)
    loop.close()
    calls: list[Callable[[], object]] = [
        lambda: loop.run_once(0),
        lambda: loop.call_at(0, int),
        lambda: loop.add(source, ours.fileno(), READ),
        loop.fileno,
    ]
    for call in calls:
        with pytest.raises(LocalError, match=r"^the loop is closed$"):
            call()


def test_closed_loop_ignores_the_rest(loop: Any) -> None:
    source = loop.make_source(print)
    timer = loop.call_at(2_000, int)
    loop.close()
    loop.post(int)
    loop.wake()
    loop.mark_dirty(source)
    loop.remove(source)
    timer.cancel()
    assert loop.next_deadline_ms() is None


def test_source_of_a_closed_loop_can_join_another(
    kernels: ModuleType, loop: Any, pairs: Pairs
) -> None:
    ours, _ = pairs()
    seen: list[int] = []
    source = flushing(kernels, lambda: seen.append(1))
    loop.add(source, ours.fileno(), WRITE)
    loop.mark_dirty(source)
    loop.close()
    with contextlib.closing(kernels.Loop()) as other:
        other.add(source, ours.fileno(), WRITE)
        other.mark_dirty(source)
        assert (other.run_once(0), seen) == (1, [1])


@pytest.mark.parametrize("where", ["source", "timer", "post", "flush", "early flush"])
def test_close_inside_a_turn_ends_it(
    kernels: ModuleType, any_loop: Any, sockets: Pairs, where: str
) -> None:
    seen: list[str] = []

    def act(name: str) -> None:
        seen.append(name)
        if name == where:
            any_loop.close()

    def mark(name: str) -> None:
        for _ in range(2):
            any_loop.mark_dirty(flushing(kernels, lambda: act(name)))

    for _ in range(2):
        ours, _ = sockets()
        any_loop.add(any_loop.make_source(lambda _: act("source")), ours.fileno(), WRITE)
        any_loop.call_at(1_000, act, "timer")
        any_loop.post(act, "post")
    any_loop.post(mark, "flush")
    mark("early flush")
    any_loop.run_once(0)
    order = ["early flush", "source", "timer", "post", "flush"]
    before = [name for name in order[: order.index(where)] for _ in range(2)]
    assert seen == [*before, where]


def test_close_leaves_a_selector_of_the_caller_open(kernels: ModuleType) -> None:
    with selectors.DefaultSelector() as selector:
        kernels.Loop(selector).close()
        assert selector.select(0) == []


def test_abandon_forgets_everything_and_closes_its_fds(kernels: ModuleType, sockets: Pairs) -> None:
    ours, _ = sockets()
    kernels.Loop().close()
    before = open_fds()
    loop = kernels.Loop()
    source = flushing(kernels, int)
    loop.add(source, ours.fileno(), READ)
    timer = loop.call_at(0, int)
    loop.mark_dirty(source)
    loop.abandon()
    loop.abandon()
    loop.close()
    assert (source.fd, timer.active, loop.sources) == (-1, False, 0)
    assert open_fds() == before


def test_abandon_unregisters_nothing(kernels: ModuleType, sockets: Pairs) -> None:
    ours, _ = sockets()
    with selectors.DefaultSelector() as selector:
        loop = kernels.Loop(selector)
        loop.add(loop.make_source(print), ours.fileno(), READ)
        loop.abandon()
        assert ours.fileno() in selector.get_map()


def test_abandon_in_a_forked_child_leaves_the_parents_loop_working(loop: Any, pairs: Pairs) -> None:
    ours, theirs = pairs()
    seen: list[int] = []
    loop.add(loop.make_source(seen.append), ours.fileno(), READ)
    child = os.fork()
    if child == 0:
        loop.abandon()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    theirs.send(b"x")
    assert (loop.run_once(0), seen) == (1, [READ])


def test_loops_closed_leave_no_fd_open(kernels: ModuleType, sockets: Pairs) -> None:
    ours, _ = sockets()
    kernels.Loop().close()
    before = open_fds()
    for _ in range(20):
        loop = kernels.Loop()
        loop.add(loop.make_source(print), ours.fileno(), WRITE)
        loop.close()
    assert open_fds() == before


def test_loop_given_up_is_collected_with_its_sources(kernels: ModuleType) -> None:
    class Thing:
        pass

    def make() -> weakref.ref[Thing]:
        thing = Thing()
        loop = kernels.Loop()
        source = flushing(kernels, lambda: (loop, thing))
        loop.add(source, 0, 0)
        loop.call_at(5, lambda: (loop, thing))
        loop.post(lambda: (loop, thing))
        loop.close()
        loop = kernels.Loop(clock=lambda: id(thing) * 0)
        loop.mark_dirty(source)
        loop.call_at(5, lambda: (loop, thing))
        loop.close()
        return weakref.ref(thing)

    alive = make()
    gc.collect()
    assert alive() is None


def test_add_far_beyond_the_open_fds_is_an_os_error(loop: Any) -> None:
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        loop.add(loop.make_source(print), (1 << 31) - 1, READ)
    assert caught.value.errno == errno.EBADF


# -- waits that fail -----------------------------------------------------------------------------


class FailingSelector(selectors.SelectSelector):
    """Refuses to wait while it has errors left."""

    def __init__(self) -> None:
        super().__init__()
        self.codes: list[int] = []

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.codes:
            raise OSError(self.codes.pop(), "from the test")
        return super().select(timeout)


@pytest.fixture
def failing(kernels: ModuleType, errors: Errors) -> Iterator[tuple[Any, FailingSelector]]:
    with FailingSelector() as selector:
        loop = kernels.Loop(selector, clock=Clock(), on_error=errors)
        yield loop, selector
        loop.close()


def test_wait_that_fails_is_told_and_made_again(
    failing: tuple[Any, FailingSelector], errors: Errors
) -> None:
    loop, selector = failing
    done: list[int] = []
    selector.codes = [errno.ENOMEM, errno.EPERM]
    loop.call_at(0, done.append, 1)
    assert loop.run_once(0) == 1  # what needs no wait is done all the same
    loop.post(done.append, 2)
    assert loop.run_once(None) == 1
    assert loop.run_once(0) == 0
    assert (done, loop.waits_failed) == ([1, 2], 2)
    found = [(where, getattr(error, "errno", None)) for where, error in errors]
    assert found == [("wait", errno.EPERM), ("wait", errno.ENOMEM)]
    errors.clear()


def test_wait_that_fails_for_good_comes_out(
    failing: tuple[Any, FailingSelector], errors: Errors, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, selector = failing
    selector.codes = [errno.EINVAL] * 100
    for _ in range(101):
        loop.run_once(0)  # the last one waits well: the count begins anew
    selector.codes = [errno.EBADF] * 101
    for _ in range(100):
        loop.run_once(0)
    with pytest.raises(OSError, match="from the test"):
        loop.run_once(0)
    assert (len(errors), loop.waits_failed) == (200, 201)
    errors.clear()


@pytest.mark.parametrize("own_poller", [True, False])
def test_wake_up_pair_that_cannot_be_read_does_not_spin(
    kernels: ModuleType, errors: Errors, own_poller: bool
) -> None:
    with selectors.DefaultSelector() as selector:
        loop = kernels.Loop(selector if own_poller else None, on_error=errors)
        # Somebody ended it: it is readable from now on, and nothing comes out of it.
        with socket.socket(fileno=os.dup(loop.wakeup_fd)) as ours:
            ours.shutdown(socket.SHUT_RDWR)
        done: list[int] = []
        begun = time.monotonic()
        for _ in range(5):
            assert loop.run_once(None) == 0
        assert time.monotonic() - begun >= 5 * 0.009  # each rests for 10 ms
        loop.post(done.append, 1)
        assert loop.run_once(None) == 1
        assert (done, loop.waits_failed) == ([1], 6)
        assert [(where, getattr(error, "errno", None)) for where, error in errors] == [
            ("wait", errno.EPIPE)
        ] * 6
        errors.clear()
        loop.close()
