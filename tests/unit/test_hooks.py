"""What user code raises: isolated, logged once, counted; interrupts come out, nothing is lost."""

from __future__ import annotations

import logging
import selectors
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from netcore import HandlerRoute, Node, RouteRule
from netcore._backend import BackendName
from netcore.hooks import MAX_TRACEBACKS_PER_S
from support.virtual import (
    Cluster,
    Log,
    Reaction,
    Spy,
    check_log,
    cluster_of,
    on,
    until_refused,
)

HOOKS = (
    "started", "stopped", "tick", "check_in", "check_out", "connected", "disconnected", "error",
    "writable", "from_handler", "message", "rpc", "opened", "link_tick", "event", "measured",
    "from_other", "from_behavior", "closed", "post", "later", "done",
)  # fmt: skip


class Oops(Exception):
    """What the hooks of these tests raise."""


@pytest.fixture
def cluster(backend: BackendName) -> Iterator[Cluster]:
    with cluster_of(backend) as made:
        yield made


def once(exc: BaseException) -> Reaction:
    """Return a reaction that raises when it is called first."""
    left = [exc]

    def reaction(*args: object) -> None:
        if left:
            raise left.pop()

    return reaction


def answer(agent: Any, req: Any, res: Any) -> bool:
    res.ok(req.payload)
    return True


def tour(cluster: Cluster, reactions: dict[str, Any]) -> tuple[Log, Node]:
    """Make one node call every hook there is, and close it."""

    def keep(agent: Any) -> None:
        kept.append(agent)
        if "opened" in reactions:
            reactions["opened"](agent)

    kept: list[Any] = []
    log = Log()
    node = cluster.add(
        1,
        Spy(10, log, **(reactions | on("opened", keep))),
        Spy(20, log),
        write_high_bytes=4_096,
        write_low_bytes=1_024,
        tick_ms=100,
    )
    other = cluster.add(2, Spy(10), Spy(20, rpc=answer))
    agent = node.agent(10)
    node.post(log.wrap("post", reactions.get("post")))
    node.connect("/memory/nobody")
    cluster.settle()
    third = cluster.add(3)
    cluster.dial(third, node)
    cluster.dial(node, other)
    cluster.settle()
    conn_id = next(link.conn_id for link in node.connections if link.remote_node_id == 2)
    agent.send_local(b"")
    agent.send_to_handler(HandlerRoute.conn(conn_id), "down")
    kept[-1].send_behavior("up")
    kept[-1].send_to_handler(HandlerRoute.conn(kept[-1].conn_id), "across")
    other.agent(10).send_to_node(1, b"")
    other.agent(10).call(RouteRule.node(1), 10, b"", lambda answer: None)
    agent.call(RouteRule.node(2), 20, b"", log.wrap("done", reactions.get("done")))
    agent.call_later(10, log.wrap("later", reactions.get("later")))
    cluster.advance(2_000)
    fill(cluster, node, other, conn_id)
    agent.close_conn(conn_id)
    cluster.settle()
    try:
        node.close()
    except (KeyboardInterrupt, SystemExit) as exc:
        if cluster.caught is None:
            raise
        cluster.caught.append(exc)
    return log, node


def fill(cluster: Cluster, node: Node, other: Node, conn_id: int) -> None:
    cluster.frozen.add(other)
    until_refused(lambda: send_and_settle(cluster, node, conn_id))
    cluster.frozen.clear()
    cluster.settle()


def send_and_settle(cluster: Cluster, node: Node, conn_id: int) -> None:
    node.agent(10).send_to_conn(conn_id, bytes(4_000))
    cluster.settle()


def calls_of(log: Log, service: int) -> Counter[str]:
    """Count the hooks of a service, save those whose number depends on the rest."""
    depends = ("measured", "check_out")  # the second is not asked after a refusal
    return Counter(e.hook for e in log.entries if e.service == service and e.hook not in depends)


def test_tour_calls_every_hook(cluster: Cluster) -> None:
    log, node = tour(cluster, {})
    assert {entry.hook for entry in log.entries} >= set(HOOKS)
    assert node.stats().hook_errors == 0
    check_log(log, [10, 20])


@pytest.mark.parametrize("hook", HOOKS)
def test_exception_in_a_hook_is_logged_once_counted_and_isolated(
    backend: BackendName, hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    with cluster_of(backend) as cluster:
        undisturbed, _ = tour(cluster, {})
    caplog.clear()
    with cluster_of(backend) as cluster:
        log, node = tour(cluster, {hook: once(Oops("text"))})
        cluster.assert_nothing_lost()
    records = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [(r.name, r.levelno) for r in records] == [("netcore.plane", logging.ERROR)]
    assert records[0].exc_info is not None
    assert isinstance(records[0].exc_info[1], Oops)
    assert records[0].exc_info[2] is not None
    assert node.stats().hook_errors == 1
    if hook != "check_in":  # that one refused a link
        assert calls_of(log, 20) == calls_of(undisturbed, 20)
    assert log.deepest == 1
    assert len(log.of("stopped")) == 2


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("hook", HOOKS)
def test_interrupt_in_a_hook_comes_out_of_poll_and_nothing_is_lost(
    backend: BackendName, hook: str, interrupt: type[BaseException]
) -> None:
    with cluster_of(backend) as cluster:
        undisturbed, _ = tour(cluster, {})
    with cluster_of(backend) as cluster:
        cluster.caught = []
        log, node = tour(cluster, {hook: once(interrupt())})
        cluster.assert_nothing_lost()
        assert [type(exc) for exc in cluster.caught] == [interrupt]
    assert node.stats().hook_errors == 0
    if hook != "check_in":
        assert calls_of(log, 20) == calls_of(undisturbed, 20)
    assert log.deepest == 1


@pytest.mark.parametrize("service", ["message", "event"])
def test_frames_behind_an_interrupted_one_are_delivered(backend: BackendName, service: str) -> None:
    with cluster_of(backend) as cluster:
        cluster.caught = []
        spy = Spy(
            handlers="all" if service == "event" else None,
            **on(service, once(KeyboardInterrupt())),
        )
        node, sender = cluster.add(1, spy), cluster.add(2, Spy())
        cluster.join(node, sender)
        for number in range(50):
            sender.agent(10).send_to_node(1, b"%d" % number)
        cluster.settle()
        assert spy.log.details(service) == [b"%d" % number for number in range(50)]
        assert len(cluster.caught) == 1


class Impatient(selectors.DefaultSelector):
    """Raises where another selector would wait."""

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        assert ready or (timeout is not None and timeout <= 0)
        return ready


def test_interrupt_is_raised_before_the_loop_waits(backend: BackendName) -> None:
    def interrupt(node: int | None, conn_id: int) -> None:
        raise KeyboardInterrupt

    with Impatient() as selector:
        spy = Spy(check_out=interrupt)
        with Node(
            1, [spy], transports=[], backend=backend, selector=selector, clock_ms=lambda: 0
        ) as node:
            node.poll(0)
            node.connect("/memory/nobody")
            with pytest.raises(KeyboardInterrupt):
                node.poll(None)  # the next tick is up to a second away


def test_interrupt_while_closing_is_raised_when_the_node_is_closed(cluster: Cluster) -> None:
    log = Log()
    node = cluster.add(1, Spy(10, log, closed=once(KeyboardInterrupt())), Spy(20, log))
    cluster.join(node, cluster.add(2))
    with pytest.raises(KeyboardInterrupt):
        node.close()
    assert node.closed
    check_log(log, [10, 20])


def test_interrupted_started_does_not_keep_the_others_from_starting(cluster: Cluster) -> None:
    log = Log()
    node = cluster.add(1, Spy(10, log, started=once(KeyboardInterrupt())), Spy(20, log))
    with pytest.raises(KeyboardInterrupt):
        node.poll(0)
    cluster.advance(1_000)
    assert log.order() == [("started", 10), ("started", 20)]
    assert log.of("tick", service=20)


def test_many_exceptions_are_all_counted_but_not_all_logged(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(agent: Any, message: Any) -> None:
        raise Oops

    node = cluster.add(1, Spy(message=fail))
    for _ in range(100):
        node.agent(10).send_local(b"")
    cluster.settle()
    assert node.stats().hook_errors == 100
    assert len(caplog.records) == MAX_TRACEBACKS_PER_S + 1
    assert "only counted" in caplog.records[-1].message


def test_exception_log_names_the_node_and_the_hook(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.add(77, Spy(started=once(Oops())))
    cluster.settle()
    assert "node 77" in caplog.text
    assert "Spy.on_started" in caplog.text


def test_raising_router_is_counted_and_the_node_lives(cluster: Cluster) -> None:
    class Broken:
        def path_to(self, rule: RouteRule, service_id: int) -> Any:
            raise Oops

        def register_service(self, service_id: int) -> None:
            pass

    there = Spy()
    node = cluster.add(1, there, router=Broken())  # type: ignore[arg-type]
    sender = cluster.add(2, Spy())
    cluster.join(sender, node)
    sender.agent(10).send_to_conn(sender.connections[0].conn_id, b"direct needs no router")
    sender.agent(10).send_to_node(1, b"this one does")
    cluster.settle()
    assert there.log.details("event") == [b"direct needs no router"]
    assert node.stats().dropped_router_error == 1
    assert node.stats().hook_errors == 1
    assert len(node.connections) == 1
