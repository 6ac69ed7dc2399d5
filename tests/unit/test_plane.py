"""The order of hooks, events and ticks, on both backends."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from netcore import (
    BehaviorRejected,
    ConnectionRejected,
    ConnectionSender,
    HandlerRoute,
    LocalError,
    NetworkBehavior,
    Node,
    NoRouteError,
    OutgoingConnectionError,
    RemoteRejected,
)
from netcore._backend import BackendName
from support.virtual import Cluster, Log, Spy, check_log, cluster_of, on, until_refused


@pytest.fixture
def cluster(backend: BackendName) -> Iterator[Cluster]:
    with cluster_of(backend) as made:
        yield made


def refuse(reason: str) -> Any:
    def check(node: int | None, conn_id: int) -> None:
        raise ConnectionRejected(reason)

    return check


# -- start and stop ------------------------------------------------------------------------------


def test_started_comes_first_and_in_ascending_service_order(cluster: Cluster) -> None:
    log = Log()
    node = cluster.add(1, Spy(30, log), Spy(10, log), Spy(20, log))
    node.agent(20).send_local(b"early")
    node.post(log.wrap("post"))
    node.connect("/memory/nobody")
    cluster.settle()
    assert log.order()[:3] == [("started", 10), ("started", 20), ("started", 30)]
    assert {hook for hook, _ in log.order()[3:]} == {"message", "post", "check_out", "error"}


def test_started_is_called_once(cluster: Cluster) -> None:
    spy = Spy()
    cluster.add(1, spy)
    cluster.advance(10_000)
    assert len(spy.log.of("started")) == 1


def test_stopped_comes_last_and_in_ascending_service_order(cluster: Cluster) -> None:
    log = Log()
    node, other = cluster.add(1, Spy(20, log), Spy(10, log)), cluster.add(2)
    cluster.join(node, other)
    node.close()
    assert log.order()[-4:] == [
        ("disconnected", 10),
        ("disconnected", 20),
        ("stopped", 10),
        ("stopped", 20),
    ]


def test_stopped_is_not_called_when_the_node_never_started(cluster: Cluster) -> None:
    spy = Spy()
    cluster.add(1, spy).close()
    assert spy.log.entries == []


def test_nothing_is_called_after_stopped(cluster: Cluster) -> None:
    def on_stopped(agent: Any) -> None:
        agent.call_later(1, log.wrap("later"))
        agent.send_local(b"to nobody")
        agent.close_node(2)

    log = Log()
    node = cluster.add(1, Spy(10, log, stopped=on_stopped))
    other = cluster.add(2, Spy())
    cluster.join(node, other)
    node.post(log.wrap("post"))
    node.close()
    cluster.advance(20_000)
    assert log.entries[-1].hook == "stopped"
    assert not log.of("later", "message")


def test_close_twice_calls_stopped_once(cluster: Cluster) -> None:
    spy = Spy()
    node = cluster.add(1, spy)
    cluster.settle()
    node.close()
    node.close()
    assert len(spy.log.of("stopped")) == 1


def test_close_inside_a_hook_happens_after_the_turn(cluster: Cluster) -> None:
    def on_message(agent: Any, message: Any) -> None:
        node.close()
        assert not node.closed

    log = Log()
    node = cluster.add(1, Spy(10, log, message=on_message))
    node.agent(10).send_local(b"")
    cluster.settle()
    assert node.closed
    check_log(log, [10])


def test_close_inside_on_started_happens_after_every_on_started(cluster: Cluster) -> None:
    log = Log()
    node = cluster.add(1, Spy(10, log, started=lambda agent: node.close()), Spy(20, log))
    cluster.settle()
    assert node.closed
    check_log(log, [10, 20])


@pytest.mark.parametrize("hook", ["started", "message", "tick", "connected", "opened", "event"])
def test_poll_inside_a_hook_raises(cluster: Cluster, hook: str) -> None:
    def again(*args: object) -> None:
        with pytest.raises(RuntimeError, match="inside a hook"):
            node.poll(0)
        refused.append(hook)

    refused: list[str] = []
    node = cluster.add(1, Spy(**on(hook, again)))
    other = cluster.add(2, Spy())
    cluster.join(node, other)
    node.agent(10).send_local(b"")
    other.agent(10).send_to_node(1, b"")
    cluster.advance(1_000)
    assert refused
    assert node.stats().hook_errors == 0


# -- the life of a link --------------------------------------------------------------------------


def test_link_calls_every_hook_in_order_at_both_ends(cluster: Cluster) -> None:
    logs = Log(), Log()
    nodes = [
        cluster.add(node_id, Spy(20, log), Spy(10, log))
        for node_id, log in zip((1, 2), logs, strict=True)
    ]
    conn_id = cluster.join(*nodes)
    nodes[0].agent(20).send_to_node(2, b"hello")
    cluster.settle()
    nodes[0].agent(10).close_conn(conn_id)
    cluster.settle()
    up = [("connected", 10), ("connected", 20), ("opened", 10), ("opened", 20)]
    down = [("closed", 10), ("closed", 20), ("disconnected", 10), ("disconnected", 20)]
    assert logs[0].order("started") == [("check_out", 10), ("check_out", 20), *up, *down]
    assert logs[1].order("started") == [
        ("check_in", 10),
        ("check_in", 20),
        *up,
        ("event", 20),
        *down,
    ]


def test_link_hooks_say_who_dialled(cluster: Cluster) -> None:
    one, other = Spy(), Spy()
    nodes = cluster.add(1, one), cluster.add(2, other)
    conn_id = cluster.join(*nodes)
    nodes[1].agent(10).close_node(1)
    cluster.settle()
    assert one.log.details("connected", "disconnected") == ["out", "out"]
    assert other.log.details("connected", "disconnected") == ["in", "in"]
    assert {e.conn for e in one.log.of("check_out", "connected", "disconnected")} == {conn_id}


def test_connection_sender_knows_its_link(cluster: Cluster) -> None:
    seen: list[Any] = []
    node = cluster.add(1, Spy(connected=lambda agent, conn: seen.append(conn)))
    other = cluster.add(2)
    conn_id = cluster.join(node, other)
    (conn,) = seen
    assert (conn.conn_id, conn.remote_node_id, conn.is_outgoing) == (conn_id, 2, True)
    assert conn.remote_addr.startswith("/memory/")


def test_connection_sender_sends_and_closes(cluster: Cluster) -> None:
    def on_connected(agent: Any, conn: Any) -> None:
        conn.send(b"hello")
        conn.close()

    node = cluster.add(1, Spy(connected=on_connected))
    there = Spy()
    cluster.dial(node, cluster.add(2, there))
    cluster.settle()
    assert there.log.details("event") == [b"hello"]
    assert not node.connections


def test_close_conn_in_connected_gives_the_whole_life(cluster: Cluster) -> None:
    log = Log()
    node = cluster.add(1, Spy(10, log, connected=lambda agent, conn: conn.close()), Spy(20, log))
    conn_id = cluster.dial(node, cluster.add(2, Spy()))
    cluster.settle()
    node.close()
    check_log(log, [10, 20], dialled=[conn_id])
    assert len(log.of("disconnected")) == 2


def test_messages_before_a_close_still_arrive_before_on_closed(cluster: Cluster) -> None:
    there = Spy()
    node = cluster.add(1, Spy())
    conn_id = cluster.join(node, cluster.add(2, there))
    for number in range(100):
        node.agent(10).send_to_conn(conn_id, b"%d" % number)
    node.agent(10).close_conn(conn_id)
    cluster.settle()
    assert there.log.details("event") == [b"%d" % number for number in range(100)]
    assert there.log.order()[-2:] == [("closed", 10), ("disconnected", 10)]


def test_events_sent_in_on_closed_arrive_before_disconnected(cluster: Cluster) -> None:
    spy = Spy(closed=lambda agent: agent.send_behavior("last words"))
    node = cluster.add(1, spy)
    conn_id = cluster.join(node, cluster.add(2))
    node.agent(10).close_conn(conn_id)
    cluster.settle()
    assert spy.log.order()[-3:] == [("closed", 10), ("from_handler", 10), ("disconnected", 10)]


def test_event_of_a_handler_after_its_disconnected_is_dropped_and_counted(
    cluster: Cluster,
) -> None:
    kept: list[Any] = []
    spy = Spy(opened=kept.append)
    node = cluster.add(1, spy)
    conn_id = cluster.join(node, cluster.add(2))
    node.agent(10).close_conn(conn_id)
    cluster.settle()
    kept[0].send_behavior("from the grave")
    cluster.settle()
    assert spy.log.order()[-1] == ("disconnected", 10)
    assert node.stats().events_dropped == 1


def test_connected_returning_something_else_is_an_error_and_no_handler(cluster: Cluster) -> None:
    spy = Spy(connected=lambda agent, conn: "a handler")
    node = cluster.add(1, spy)
    cluster.join(node, cluster.add(2))
    assert node.stats().hook_errors == 1
    assert not spy.log.of("opened")


def test_link_without_behaviors_carries_frames(cluster: Cluster) -> None:
    there = Spy()
    middle = cluster.add(2)
    one, other = cluster.add(1, Spy()), cluster.add(3, there)
    cluster.chain(one, middle, other)
    one.agent(10).send_to_node(3, b"through")
    cluster.settle()
    assert there.log.details("event") == [b"through"]


@pytest.mark.parametrize("hook", ["connected", "opened"])
def test_new_neighbour_can_be_reached_by_its_id_in_the_first_hooks(
    cluster: Cluster, hook: str
) -> None:
    def greet(agent: Any, *args: Any) -> None:
        agent.send_to_node(2, b"welcome")

    there = Spy()
    node = cluster.add(1, Spy(**on(hook, greet)))
    cluster.dial(node, cluster.add(2, there))
    cluster.settle()
    assert there.log.details("event") == [b"welcome"]
    assert node.stats().hook_errors == 0


@pytest.mark.parametrize("hook", ["closed", "disconnected"])
def test_gone_neighbour_cannot_be_reached_in_the_last_hooks(cluster: Cluster, hook: str) -> None:
    def say_goodbye(agent: Any, *args: Any) -> None:
        with pytest.raises(NoRouteError):
            agent.send_to_node(2, b"too late")

    spy = Spy(**on(hook, say_goodbye))
    node = cluster.add(1, spy)
    cluster.join(node, cluster.add(2))
    node.agent(10).close_node(2)
    cluster.settle()
    assert spy.log.of(hook)
    assert node.stats().hook_errors == 0


# -- admission hooks -----------------------------------------------------------------------------


def test_check_outgoing_is_asked_in_order_and_the_first_refusal_wins(cluster: Cluster) -> None:
    log = Log()
    node = cluster.add(
        1,
        Spy(30, log, check_out=refuse("thirty")),
        Spy(20, log, check_out=refuse("twenty")),
        Spy(10, log),
    )
    there = Spy()
    conn_id = cluster.dial(node, cluster.add(2, there))
    cluster.settle()
    assert log.order("started") == [
        ("check_out", 10),
        ("check_out", 20),
        ("error", 10),
        ("error", 20),
        ("error", 30),
    ]
    assert {type(err) for err in log.errors()} == {BehaviorRejected}
    assert {err.reason for err in log.errors()} == {"twenty"}  # type: ignore[attr-defined]
    assert {e.conn for e in log.of("error")} == {conn_id}
    assert not there.log.of("check_in", "connected")


def test_check_incoming_refusal_reaches_the_dialler_with_its_reason(cluster: Cluster) -> None:
    log, there = Log(), Log()
    node = cluster.add(1, Spy(10, log), Spy(20, log))
    other = cluster.add(
        2,
        Spy(10, there),
        Spy(20, there, check_in=refuse("members only")),
        Spy(30, there, check_in=refuse("never asked")),
    )
    cluster.dial(node, other)
    cluster.settle()
    assert there.order("started") == [("check_in", 10), ("check_in", 20)]
    assert log.order("started")[-2:] == [("error", 10), ("error", 20)]
    for err in log.errors():
        assert isinstance(err, RemoteRejected)
        assert err.reason == "members only"
    assert other.stats().links_refused == 1
    assert other.stats().half_open == 0


def test_refusal_reason_is_cut_to_what_the_wire_takes(cluster: Cluster) -> None:
    log = Log()
    node = cluster.add(1, Spy(10, log))
    cluster.dial(node, cluster.add(2, Spy(check_in=refuse("ä" * 1_000))))
    cluster.settle()
    (err,) = log.errors()
    assert isinstance(err, RemoteRejected)
    assert err.reason == "ä" * 100  # two bytes each, at most 200


@pytest.mark.parametrize("hook", ["check_in", "check_out"])
def test_check_that_raises_something_else_refuses(cluster: Cluster, hook: str) -> None:
    def fail(node: int | None, conn_id: int) -> None:
        raise ZeroDivisionError("the text stays here")

    log = Log()
    # Each of the two is asked one of the hooks only.
    node, other = (
        cluster.add(1, Spy(10, log, **on(hook, fail))),
        cluster.add(2, Spy(**on(hook, fail))),
    )
    cluster.dial(node, other)
    cluster.settle()
    (err,) = log.errors()
    assert isinstance(err, BehaviorRejected if hook == "check_out" else RemoteRejected)
    assert err.reason == "internal error"
    assert cluster.total("hook_errors") == 1


def test_check_hooks_get_the_node_and_the_later_conn_id(cluster: Cluster) -> None:
    spies = Spy(), Spy()
    nodes = [cluster.add(7, spies[0]), cluster.add(8, spies[1])]
    cluster.join(*nodes)
    (out,), (into,) = spies[0].log.of("check_out"), spies[1].log.of("check_in")
    assert (out.detail, into.detail) == (8, 7)
    assert out.conn == spies[0].log.of("connected")[0].conn
    assert into.conn == spies[1].log.of("connected")[0].conn


def test_check_outgoing_gets_none_when_the_address_names_no_node(cluster: Cluster) -> None:
    spy = Spy()
    node = cluster.add(1, spy)
    other = cluster.add(2)
    node.connect(other.addrs[0].with_node_id(None))
    cluster.settle()
    assert spy.log.details("check_out") == [None]
    assert [link.remote_node_id for link in node.connections] == [2]


# -- dials ---------------------------------------------------------------------------------------


def test_close_conn_of_a_dial_that_has_not_begun_is_its_error(cluster: Cluster) -> None:
    spy = Spy()
    node = cluster.add(1, spy)
    conn_id = cluster.dial(node, cluster.add(2))
    node.agent(10).close_conn(conn_id)
    cluster.settle()
    assert [type(err) for err in spy.log.errors()] == [OutgoingConnectionError]
    assert not node.connections
    check_log_of(spy, conn_id)


def test_close_conn_of_a_dial_under_way_is_its_error(backend: BackendName) -> None:
    with cluster_of(backend, latency_ms=10) as cluster:
        spy = Spy()
        node = cluster.add(1, spy)
        conn_id = cluster.dial(node, cluster.add(2))
        cluster.advance(25)
        node.agent(10).close_conn(conn_id)
        cluster.advance(1_000)
        assert [type(err) for err in spy.log.errors()] == [OutgoingConnectionError]
        assert not node.connections
    check_log_of(spy, conn_id)


def check_log_of(spy: Spy, *dialled: int) -> None:
    check_log(spy.log, [spy.service_id], dialled=dialled, closed=bool(spy.log.of("stopped")))


def test_node_closed_ends_its_dials_in_an_error(backend: BackendName) -> None:
    with cluster_of(backend, latency_ms=10) as cluster:
        spy = Spy()
        node = cluster.add(1, spy)
        dialled = [cluster.dial(node, cluster.add(2)), node.connect("/memory/nobody")]
        cluster.advance(15)
        dialled.append(node.connect("/memory/nobody"))
        node.close()
    check_log_of(spy, *dialled)
    assert len(spy.log.of("error")) == 3


def test_node_closed_before_its_first_turn_still_ends_its_dials(cluster: Cluster) -> None:
    spy = Spy()
    node = cluster.add(1, spy)
    conn_id = node.connect("/memory/nobody")
    node.close()
    check_log_of(spy, conn_id)
    assert len(spy.log.of("error")) == 1


def test_reconnecting_in_the_error_hook_does_not_keep_a_node_from_closing(
    cluster: Cluster,
) -> None:
    def again(agent: Any, node_id: int | None, conn_id: int, err: object) -> None:
        dialled.append(agent.connect_to("/memory/nobody"))

    spy = Spy(error=again)
    node = cluster.add(1, spy)
    dialled = [node.connect("/memory/nobody")]
    node.poll(0)
    node.close()
    assert len(dialled) < 10
    assert node.stats().hook_errors == 0
    check_log_of(spy, *dialled)


def test_dial_begun_by_a_hook_of_the_closing_node_is_refused(cluster: Cluster) -> None:
    def again(agent: Any, conn: Any) -> None:
        dialled.append(agent.connect_to(other.addrs[0]))

    dialled: list[int] = []
    spy = Spy(disconnected=again)
    node, other = cluster.add(1, spy), cluster.add(2)
    dialled.append(cluster.join(node, other))
    node.close()
    assert node.stats().hook_errors == 0
    check_log_of(spy, *dialled)


# -- local messages ------------------------------------------------------------------------------


def test_local_message_reaches_the_behavior_and_not_a_handler(cluster: Cluster) -> None:
    spy = Spy()
    node = cluster.add(1, spy)
    cluster.join(node, cluster.add(2))
    agent = node.agent(10)
    agent.send_local(b"local")
    agent.send_to_node(1, b"own id")
    agent.send_to_service(10, b"own service")
    cluster.settle()
    assert spy.log.details("message") == [b"local", b"own id", b"own service"]
    assert not spy.log.of("event")


def test_local_message_is_delivered_after_the_hook_that_sent_it(cluster: Cluster) -> None:
    def on_started(agent: Any) -> None:
        agent.send_local(b"x", to_service=20)
        log.wrap("sent")()

    log = Log()
    cluster.add(1, Spy(10, log, started=on_started), Spy(20, log))
    cluster.settle()
    assert log.order() == [("started", 10), ("sent", -1), ("started", 20), ("message", 20)]


def test_message_to_a_service_without_handler_reaches_the_behavior(cluster: Cluster) -> None:
    spy = Spy(handlers=None)
    sender = cluster.add(2, Spy())
    cluster.join(cluster.add(1, spy), sender)
    sender.agent(10).send_to_node(1, b"x")
    cluster.settle()
    assert spy.log.details("message") == [b"x"]


def test_handler_that_does_not_override_on_event_leaves_messages_to_the_behavior(
    cluster: Cluster,
) -> None:
    spy = Spy(handlers="quiet")
    sender = cluster.add(2, Spy())
    cluster.join(cluster.add(1, spy), sender)
    sender.agent(10).send_to_node(1, b"x")
    cluster.settle()
    assert spy.log.details("message") == [b"x"]
    assert spy.log.of("opened")


def test_message_names_its_sender(cluster: Cluster) -> None:
    seen: list[Any] = []
    one, two, three = (
        cluster.add(1, Spy()),
        cluster.add(2),
        cluster.add(3, Spy(11), Spy(10, event=lambda agent, message: seen.append(message))),
    )
    cluster.chain(one, two, three)
    two_three = one.agent(10)
    two_three.send_to_node(3, b"far", stream_id=5, meta=2)
    three.agent(11).send_to_node(3, b"self", to_service=10)
    cluster.settle()
    (far,) = seen
    assert (far.from_node, far.from_service, far.to_service) == (1, 10, 10)
    assert (far.stream_id, far.meta, far.ttl) == (5, 2, 63)
    assert not far.sender_verified


def test_message_of_the_neighbour_is_verified(cluster: Cluster) -> None:
    seen: list[Any] = []
    one = cluster.add(1, Spy())
    cluster.join(one, cluster.add(2, Spy(event=lambda agent, message: seen.append(message))))
    one.agent(10).send_to_node(2, b"routed")
    one.agent(10).send_to_conn(one.connections[0].conn_id, b"direct")
    cluster.settle()
    assert [(m.from_node, m.sender_verified) for m in seen] == [(1, True), (1, True)]


# -- ticks ---------------------------------------------------------------------------------------


def test_ticks_come_at_their_interval(cluster: Cluster) -> None:
    spy = Spy()
    cluster.add(1, spy, tick_ms=250)
    cluster.advance(5_000)
    times = spy.log.details("tick")
    assert len(times) == 20
    assert {later - earlier for earlier, later in pairwise(times)} == {250}


def test_tick_tells_the_configured_interval_and_the_time(cluster: Cluster) -> None:
    seen: list[tuple[int, int, int]] = []
    cluster.add(
        1, Spy(tick=lambda agent, ts, interval: seen.append((agent.now_ms, ts, interval))),
        tick_ms=100,
    )  # fmt: skip
    cluster.advance(300)
    assert all(now == ts and interval == 100 for now, ts, interval in seen)
    assert seen


def test_late_ticks_are_skipped_and_not_bunched(cluster: Cluster) -> None:
    spy = Spy()
    node = cluster.add(1, spy, tick_ms=100)
    cluster.advance(1_000)
    before = spy.log.details("tick")
    cluster.frozen.add(node)
    cluster.advance(1_050)
    cluster.frozen.clear()
    cluster.advance(300)
    after = spy.log.details("tick")[len(before) :]
    assert len(after) == 4  # one late one, then three in time
    assert all((ts - before[0]) % 100 == 0 for ts in after[1:])


def test_ticks_reach_behaviors_before_handlers_in_service_order(cluster: Cluster) -> None:
    log = Log()
    node = cluster.add(1, Spy(20, log), Spy(10, log))
    cluster.join(node, cluster.add(2))
    cluster.advance(1_000)
    ticks = [(e.hook, e.service) for e in log.of("tick", "link_tick")]
    assert ticks[-4:] == [("tick", 10), ("tick", 20), ("link_tick", 10), ("link_tick", 20)]


def test_nodes_do_not_tick_at_the_same_moment(cluster: Cluster) -> None:
    spies = [Spy() for _ in range(8)]
    for number, spy in enumerate(spies):
        cluster.add(number, spy)
    cluster.advance(1_000)
    assert len({spy.log.details("tick")[0] for spy in spies}) > 4


# -- registration --------------------------------------------------------------------------------


def test_agent_of_an_unknown_service_raises(cluster: Cluster) -> None:
    node = cluster.add(1, Spy(10))
    with pytest.raises(LocalError, match="no behavior with service id 11"):
        node.agent(11)


def test_agent_is_the_one_that_hooks_get(cluster: Cluster) -> None:
    seen: list[object] = []
    node = cluster.add(1, Spy(started=seen.append))
    cluster.settle()
    assert seen == [node.agent(10)]


def test_default_behavior_does_nothing_and_lives(backend: BackendName) -> None:
    class Plain(NetworkBehavior):
        service_id = 5

    with cluster_of(backend) as cluster:
        one, other = cluster.add(1, Plain()), cluster.add(2, Plain())
        conn_id = cluster.join(one, other)
        one.agent(5).send_to_node(2, b"")
        one.agent(5).send_to_handler(HandlerRoute.conn(conn_id), "nobody")
        one.connect("/memory/nobody")
        cluster.advance(2_000)
        one.agent(5).close_conn(conn_id)
        cluster.settle()
        assert cluster.total("hook_errors") == 0


def test_node_without_behaviors_lives(backend: BackendName) -> None:
    with Node(1, backend=backend, transports=[]) as node:
        node.poll(0)
    assert node.closed


# -- room again ----------------------------------------------------------------------------------


LITTLE: dict[str, Any] = {"write_high_bytes": 20_000, "write_low_bytes": 1}


class Deaf(NetworkBehavior):
    service_id = 10


@pytest.mark.parametrize("handlers", [None, "all"])
def test_a_link_that_drained_is_told_each_time(cluster: Cluster, handlers: str | None) -> None:
    log = Log()
    node = cluster.add(1, Deaf(), Spy(20, log, handlers=handlers), **LITTLE)
    conn_id = cluster.join(node, cluster.add(2))
    expected = ["writable", "measured"] if handlers else ["writable"]
    for _ in range(3):
        log.entries.clear()
        until_refused(lambda: node.agent(20).send_to_node(2, bytes(1_000)))
        cluster.settle()
        told = log.of("writable", "measured")
        assert [entry.hook for entry in told] == expected
        assert {entry.conn for entry in log.of("writable")} == {conn_id}


def test_a_link_that_drained_leaves_nothing_behind_when_it_ends(cluster: Cluster) -> None:
    node = cluster.add(1, Spy(20), **LITTLE)
    conn_id = cluster.join(node, cluster.add(2))
    until_refused(lambda: node.agent(20).send_to_node(2, bytes(1_000)))
    cluster.settle()
    assert senders_of(conn_id)
    node.agent(20).close_conn(conn_id)
    cluster.settle()
    assert not senders_of(conn_id)


def senders_of(conn_id: int) -> int:
    """Count what hooks got to send over a link."""
    gc.collect()
    found = (o for o in gc.get_objects() if isinstance(o, ConnectionSender))
    return sum(sender.conn_id == conn_id for sender in found)
