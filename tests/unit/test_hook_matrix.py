"""Every hook and callback, found by reflection, raises everything and calls everything."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Iterator
from typing import Any

import pytest

from netcore import NetcoreError
from netcore._backend import BackendName
from support.hooktour import (
    ENDINGS,
    PLACES,
    Reaction,
    Tour,
    call_method,
    methods,
)
from support.virtual import Cluster, Spy, check_log, cluster_of

ERRORS = (Exception, MemoryError, RecursionError, StopIteration)
INTERRUPTS = (SystemExit, KeyboardInterrupt)

#: Of each backend: how often the hooks of service 20 run when nothing goes wrong.
undisturbed: dict[str, Any] = {}


@pytest.fixture
def cluster(backend: BackendName) -> Iterator[Cluster]:
    with cluster_of(backend) as made:
        if backend not in undisturbed:
            with cluster_of(backend) as other:
                undisturbed[backend] = Tour(other).go().counts(20)
        yield made


def raising(exc: BaseException) -> Reaction:
    def reaction(tour: Tour, given: dict[str, Any]) -> None:
        raise exc

    return reaction


def test_tour_causes_every_hook_and_callback(cluster: Cluster) -> None:
    tour = Tour(cluster).go()
    missing = set(PLACES) - {ran.place for ran in tour.ran}
    assert not missing, f"support.hooktour.Tour does not cause {sorted(missing)}: teach it to"
    assert cluster.total("hook_errors") == 0
    tour.check()


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("place", PLACES)
def test_error_in_any_hook_is_logged_once_counted_and_hurts_nobody(
    cluster: Cluster, place: str, kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    exc = kind("oops")
    tour = Tour(cluster, {place: raising(exc)}).go()
    lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [(line.name, line.levelname) for line in lines] == [("netcore.plane", "ERROR")]
    assert lines[0].exc_info is not None
    assert lines[0].exc_info[1] is exc
    assert [node.stats().hook_errors for node in cluster.nodes] == [1, 0, 0]
    check_others(tour, place)


@pytest.mark.parametrize("kind", INTERRUPTS)
@pytest.mark.parametrize("place", PLACES)
def test_interrupt_in_any_hook_comes_out_of_poll_once_and_hurts_nobody(
    cluster: Cluster, place: str, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    exc = kind("oops")
    cluster.caught = []
    tour = Tour(cluster, {place: raising(exc)}).go()
    assert cluster.caught == [exc]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert cluster.total("hook_errors") == 0
    check_others(tour, place)


def check_others(tour: Tour, place: str) -> None:
    tour.check()
    if "check_" not in place:  # there is a link less then
        assert tour.counts(20) == undisturbed[tour.node.backend]


# -- what hooks may call -------------------------------------------------------------------------


def calling(owner: type, name: str, problems: list[str]) -> Reaction:
    def reaction(tour: Tour, given: dict[str, Any]) -> None:
        try:
            call_method(tour, owner, name)
        except Exception as exc:
            problems.append(f"{tour.ran[-1].place}: {owner.__name__}.{name}: {exc!r}")

    return reaction


SOFT = [(owner, name) for owner, name in methods() if name not in ENDINGS]
HARD = [(owner, name) for owner, name in methods() if name in ENDINGS]


def named(method: tuple[type, str]) -> str:
    return f"{method[0].__name__}.{method[1]}"


@pytest.mark.parametrize("method", SOFT, ids=named)
def test_any_method_can_be_called_in_every_hook(cluster: Cluster, method: tuple[type, str]) -> None:
    problems: list[str] = []
    tour = Tour(cluster, dict.fromkeys(PLACES, calling(*method, problems))).go()
    assert not problems
    assert tour.node.stats().hook_errors == 0
    tour.check()


@pytest.mark.parametrize("method", HARD, ids=named)
@pytest.mark.parametrize("place", PLACES)
def test_links_and_nodes_can_be_closed_in_any_hook(
    cluster: Cluster, place: str, method: tuple[type, str]
) -> None:
    problems: list[str] = []
    tour = Tour(cluster, {place: calling(*method, problems)}).go()
    assert not problems
    assert tour.node.stats().hook_errors == 0
    tour.check()


# -- collections that change while they are gone through -----------------------------------------


class Churn:
    """Adds and removes links, kept addresses and services: one of them in each hook.

    Args:
        seed: Of the choice.
    """

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._left = 300

    def __call__(self, tour: Tour, given: dict[str, Any]) -> None:
        if self._left == 0:
            return
        self._left -= 1
        node, agent = tour.node, tour.node.agent(self._rng.choice((10, 20)))
        ends = [link.conn_id for link in node.connections]
        far = self._rng.choice((tour.other, tour.third)).addrs[0]
        steps: list[Any] = [
            lambda: agent.connect_to(far, parallel=True),
            lambda: agent.connect_to(far, parallel=self._rng.random() < 0.5, keep=True),
            lambda: agent.forget(far),
            agent.register_service,
            agent.unregister_service,
            lambda: node.listen(f"/memory/churn-{self._left}"),
            lambda: agent.call_later(0, lambda: self(tour, {})),
            lambda: node.post(self, tour, {}),
        ]
        if ends:
            steps += [lambda: agent.close_conn(self._rng.choice(ends))] * 3
        if self._rng.random() < 0.02:
            steps = [lambda: agent.close_node(2)]
        with contextlib.suppress(NetcoreError):  # the node closes
            self._rng.choice(steps)()


@pytest.mark.parametrize("seed", range(8))
def test_links_services_and_addresses_change_in_every_hook(cluster: Cluster, seed: int) -> None:
    tour = Tour(cluster, every=Churn(seed))
    for _ in range(3):
        cluster.dial(tour.node, tour.other, parallel=True)
        cluster.dial(tour.third, tour.node, parallel=True)
    tour.go()
    assert tour.node.stats().hook_errors == 0
    tour.check()


def test_handlers_of_a_link_that_an_earlier_one_closes_hear_nothing_after_closed(
    cluster: Cluster,
) -> None:
    """Every handler closes every link in the tick, while the links are gone through."""

    def close_all(agent: Any, *args: object) -> None:
        for link in node.connections:
            agent.close_conn(link.conn_id)

    node = cluster.add(1, spy := Spy(10, link_tick=close_all), Spy(20, spy.log), tick_ms=100)
    for number in (2, 3, 4):
        cluster.join(node, cluster.add(number))
    cluster.advance(1_000)
    node.close(0)
    check_log(spy.log, [10, 20])
    assert spy.log.of("link_tick")


# -- what is told of hooks -----------------------------------------------------------------------


class Rude(logging.Handler):
    """A handler of the application's log that raises."""

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("the disk is full")


def test_log_handler_that_raises_changes_nothing(cluster: Cluster) -> None:
    """Regression: what it raised came out of the hook's report, and hooks behind it were lost."""
    rude = Rude()
    logging.getLogger("netcore").addHandler(rude)
    try:
        place = "NetworkBehavior.on_outgoing_connection_connected"
        tour = Tour(cluster, {place: raising(Exception())}).go()
    finally:
        logging.getLogger("netcore").removeHandler(rude)
    assert tour.node.stats().hook_errors == 1
    check_others(tour, place)


def test_observer_that_raises_when_told_of_a_hook_is_counted(cluster: Cluster) -> None:
    """Regression: what an observer raised came out of the hook's report."""

    def fail(*args: object) -> None:
        raise Exception("observer")

    tour = Tour(cluster, {"NetworkBehavior.on_message": raising(Exception())})
    tour.observer.hook_failed = fail
    tour.go()
    assert tour.node.stats().hook_errors == 2
    check_others(tour, "NetworkBehavior.on_message")


def test_hook_whose_repr_raises_is_told_of(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: the report of a callback without a name raised what its repr raised."""

    class Nameless:
        def __call__(self) -> None:
            raise ValueError

        def __repr__(self) -> str:
            raise RuntimeError

    node = cluster.add(1)
    node.post(Nameless())
    cluster.settle()
    assert node.stats().hook_errors == 1
    assert "Nameless raised" in caplog.text
