"""Hooks that take too long: counted, named, told of once a second; on the clock of the test."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from netcore import NetworkBehavior, Node
from netcore._backend import BackendName
from netcore.sim import Network
from netcore.slowhooks import describe_hook
from support.hooktour import PLACES, Reaction, Tour
from support.virtual import Cluster, Spy, cluster_of


@pytest.fixture
def cluster(backend: BackendName) -> Iterator[Cluster]:
    with cluster_of(backend) as made:
        yield made


def slow_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "slow_hook_ms" in r.getMessage()]


def taking(cluster: Cluster, ms: int) -> Reaction:
    def reaction(tour: Tour, given: dict[str, Any]) -> None:
        cluster.now_ms += ms

    return reaction


# -- in a node -----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_slow_hook_is_counted_and_named_the_first_time(
    cluster: Cluster, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    tour = Tour(cluster, {place: taking(cluster, 80)}).go()
    assert tour.node.stats().slow_hooks == 1
    (line,) = slow_lines(caplog)
    name = place.partition("(")[0].rpartition(".")[2] if "." in place else "callback"
    if place == "call.on_done":
        name = "callback"
    assert "node 1: " in line
    assert name in line or "<lambda>" in line, line
    assert "hooktour.py:" in line
    assert "took 80 ms; slow_hook_ms is 50" in line
    assert tour.node.stats().hook_errors == 0


@pytest.mark.parametrize(("limit", "slow"), [(79, 1), (80, 0), (0, 0)])
def test_limit_is_what_the_setting_says(cluster: Cluster, limit: int, slow: int) -> None:
    def wait(agent: Any, message: Any) -> None:
        cluster.now_ms += 80

    node = cluster.add(1, Spy(message=wait), slow_hook_ms=limit)
    node.agent(10).send_local(b"")
    cluster.settle()
    assert node.stats().slow_hooks == slow


def test_slow_hook_that_raises_is_both_slow_and_an_error(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    def wait(agent: Any, message: Any) -> None:
        cluster.now_ms += 80
        raise ValueError

    node = cluster.add(1, Spy(message=wait))
    node.agent(10).send_local(b"")
    cluster.settle()
    assert (node.stats().slow_hooks, node.stats().hook_errors) == (1, 1)
    assert len(slow_lines(caplog)) == 1


def test_line_a_second_says_how_many_there_were_between(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    def wait(agent: Any, message: Any) -> None:
        cluster.now_ms += 100

    node = cluster.add(1, Spy(message=wait))
    for _ in range(25):
        node.agent(10).send_local(b"")
    cluster.settle()
    assert node.stats().slow_hooks == 25
    lines = slow_lines(caplog)
    assert [line.partition("; slow_hook_ms is 50")[2] for line in lines] == [
        "",
        "; 9 slow hooks since the last line",
        "; 9 slow hooks since the last line",
    ]


def test_hooks_that_are_quick_in_sum_slow_are_not_told_of(cluster: Cluster) -> None:
    def work(agent: Any, message: Any) -> None:
        cluster.now_ms += 4

    sender, node = cluster.add(2, Spy()), cluster.add(1, Spy(handlers=None, message=work))
    cluster.join(sender, node)
    for _ in range(500):
        sender.agent(10).send_to_node(1, b"")
    cluster.settle()
    assert node.stats().messages_delivered == 500
    assert node.stats().slow_hooks == 0


def test_slow_hook_among_quick_ones_of_a_batch_is_found(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    def work(agent: Any, message: Any) -> None:
        cluster.now_ms += 80 * (message.payload == b"heavy")

    sender, node = cluster.add(2, Spy()), cluster.add(1, Spy(handlers=None, message=work))
    cluster.join(sender, node)
    for number in range(200):
        sender.agent(10).send_to_node(1, b"heavy" if number == 150 else b"light")
    cluster.settle()
    assert node.stats().slow_hooks == 1
    (line,) = slow_lines(caplog)
    assert "Spy.on_message" in line
    # How many calls are looked at together is the same in both twins.
    assert "took 80 ms in 16 calls" in line


def test_time_of_the_report_of_an_error_is_not_the_hook_s(cluster: Cluster) -> None:
    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            cluster.now_ms += 80

    def fail(agent: Any, message: Any) -> None:
        raise ValueError

    handler = Slow()
    logging.getLogger("netcore").addHandler(handler)
    try:
        node = cluster.add(1, Spy(message=fail))
        node.agent(10).send_local(b"")
        cluster.settle()
    finally:
        logging.getLogger("netcore").removeHandler(handler)
    assert (node.stats().slow_hooks, node.stats().hook_errors) == (0, 1)


def test_simulated_time_has_no_slow_hooks() -> None:
    with Network(seed=1) as net:
        net.topology.line(2, [Spy], latency_ms=1)
        net.settle()
        assert net.total("slow_hooks") == 0


@pytest.mark.parametrize("limit", [5, 25], ids=["fine clock", "coarse clock"])
def test_hook_that_takes_real_time_is_found(backend: BackendName, limit: int) -> None:
    import time

    class Busy(NetworkBehavior):
        service_id = 10

        def on_message(self, agent: Any, message: Any) -> None:
            end = time.monotonic() + 0.06
            while time.monotonic() < end:
                pass

    with Node(1, [Busy()], backend=backend, slow_hook_ms=limit) as node:
        node.agent(10).send_local(b"")
        node.poll(0)
        assert node.stats().slow_hooks >= 1


# -- the kernel's part ---------------------------------------------------------------------------


class Clock:
    """A clock that counts how often it is looked at."""

    now_ms = looks = 0

    def __call__(self) -> int:
        self.looks += 1
        return self.now_ms


def test_quick_hooks_are_looked_at_one_time_in_sixteen(kernels: ModuleType) -> None:
    clock, told = Clock(), []
    loop = kernels.Loop(clock=clock, slow_hook_ms=50, on_slow=lambda *args: told.append(args))
    hook = object()
    clock.looks = 0
    for _ in range(16 * 100):
        loop.enter_hook(hook)
    loop.leave_hook()
    assert 100 <= clock.looks <= 106
    for _ in range(100):
        loop.enter_hook(object())
        loop.leave_hook()
    assert told == []
    loop.close()


def test_loop_without_a_limit_never_looks(kernels: ModuleType) -> None:
    clock = Clock()
    loop = kernels.Loop(clock=clock, on_slow=lambda *args: None)
    clock.looks = 0
    for _ in range(100):
        loop.enter_hook(None)
        loop.leave_hook()
    assert clock.looks == 0
    loop.close()


def test_what_the_loop_waits_counts_for_no_hook(kernels: ModuleType) -> None:
    clock, told = Clock(), []
    loop = kernels.Loop(clock=clock, slow_hook_ms=50, on_slow=lambda *args: told.append(args))
    loop.post(loop.enter_hook, "left open")
    loop.run_once(0)
    clock.now_ms += 1_000
    loop.enter_hook("left open")
    loop.leave_hook()
    assert told == []
    loop.close()


def test_loop_holds_no_hook_between_turns(kernels: ModuleType) -> None:
    import weakref

    class Hook:
        pass

    loop = kernels.Loop(slow_hook_ms=50, on_slow=lambda *args: None)
    hook = Hook()
    gone = weakref.ref(hook)
    loop.enter_hook(hook)
    loop.leave_hook()
    del hook
    assert gone() is None
    loop.close()


# -- names ---------------------------------------------------------------------------------------


class Base(NetworkBehavior):
    service_id = 10

    def on_message(self, agent: Any, message: Any) -> None:
        pass


class Derived(Base):
    pass


class Callable_:
    def __call__(self) -> None:
        pass


class Odd:
    def __getattr__(self, name: str) -> Any:
        if name == "__wrapped__":
            return self
        raise AttributeError(name)

    def __call__(self) -> None:
        pass


def wrapped() -> Any:
    @functools.wraps(Base.on_message)
    def wrapper(*args: Any) -> None:
        pass

    return wrapper


@pytest.mark.parametrize(
    ("hook", "name"),
    [
        (Derived().on_message, "Derived.on_message"),
        (wrapped(), "Base.on_message"),
        (functools.partial(Derived().on_message, 1), "Derived.on_message"),
        (Callable_(), "Callable_"),
        (Odd(), "Odd"),
        (slow_lines, "slow_lines"),
    ],
)
def test_name_of_a_hook_has_its_class_its_file_and_its_line(hook: Any, name: str) -> None:
    text = describe_hook(hook)
    assert text.startswith(f"{name} (")
    assert text.partition("test_slow_hooks.py:")[2].rstrip(")").isdigit()


def test_name_of_what_has_no_source_is_its_name() -> None:
    assert describe_hook([].append) == "list.append"
    assert describe_hook(print) == "builtin print" or "print" in describe_hook(print)
