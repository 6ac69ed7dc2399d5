"""What agents do: events between handlers and behaviors, sends, dials, closing, timers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from netcore import (
    AddressError,
    HandlerRoute,
    LocalError,
    MessageTooBigError,
    Node,
    NodeClosedError,
    NoRouteError,
    QueueFullError,
    RouteRule,
    key_of,
)
from netcore._backend import BackendName
from support.virtual import Cluster, Log, Spy, cluster_of


@pytest.fixture
def cluster(backend: BackendName) -> Iterator[Cluster]:
    with cluster_of(backend) as made:
        yield made


class Agents(list[Any]):
    """Keeps the agents of the handlers, in the order their links came up."""

    def __call__(self, agent: Any) -> None:
        self.append(agent)


# -- events --------------------------------------------------------------------------------------


def test_behavior_event_reaches_the_handler_of_its_service_on_that_link(cluster: Cluster) -> None:
    log = Log()
    node = cluster.add(1, Spy(10, log), Spy(20, log))
    conns = [cluster.join(node, cluster.add(node_id)) for node_id in (2, 3)]
    event = object()
    node.agent(20).send_to_handler(HandlerRoute.conn(conns[1]), event)
    cluster.settle()
    (entry,) = log.of("from_behavior")
    assert (entry.service, entry.conn) == (20, conns[1])
    assert entry.detail is event


def test_handler_event_reaches_its_behavior_with_node_and_link(cluster: Cluster) -> None:
    seen: list[tuple[object, ...]] = []
    agents = Agents()
    spy = Spy(10, opened=agents, from_handler=lambda agent, *args: seen.append(args))
    node = cluster.add(1, spy, Spy(20))
    conn_id = cluster.join(node, cluster.add(2))
    agents[0].send_behavior("event")
    cluster.settle()
    assert seen == [(2, conn_id, "event")]


def test_handler_event_reaches_a_handler_on_another_link(cluster: Cluster) -> None:
    seen: list[tuple[object, ...]] = []
    agents = Agents()
    spy = Spy(opened=agents, from_other=lambda agent, *args: seen.append((agent.conn_id, *args)))
    node = cluster.add(1, spy)
    conns = [cluster.join(node, cluster.add(node_id)) for node_id in (2, 3)]
    agents[0].send_to_handler(HandlerRoute.node(3), "hello")
    cluster.settle()
    assert seen == [(conns[1], 2, conns[0], "hello")]


def test_reply_to_from_conn_reaches_the_sending_handler(cluster: Cluster) -> None:
    def reply(agent: Any, from_node: int, from_conn: int, event: object) -> None:
        if event == "ping":
            agent.send_to_handler(HandlerRoute.conn(from_conn), "pong")

    agents = Agents()
    spy = Spy(opened=agents, from_other=reply)
    node = cluster.add(1, spy)
    conns = [cluster.join(node, cluster.add(node_id)) for node_id in (2, 3)]
    agents[0].send_to_handler(HandlerRoute.conn(conns[1]), "ping")
    cluster.settle()
    assert [(e.conn, e.detail) for e in spy.log.of("from_other")] == [
        (conns[1], "ping"),
        (conns[0], "pong"),
    ]


def test_handler_may_send_to_itself(cluster: Cluster) -> None:
    agents = Agents()
    spy = Spy(opened=agents)
    node = cluster.add(1, spy)
    conn_id = cluster.join(node, cluster.add(2))
    agents[0].send_to_handler(HandlerRoute.conn(conn_id), "me")
    cluster.settle()
    assert [(e.conn, e.detail) for e in spy.log.of("from_other")] == [(conn_id, "me")]


def test_handler_route_to_a_node_takes_the_lowest_rtt(backend: BackendName) -> None:
    with cluster_of(backend, latency_ms=20) as cluster:
        spy = Spy()
        node, other = cluster.add(1, spy), cluster.add(2)
        cluster.join(node, other)
        cluster.advance(50)  # the first PONG, which measures the link, is back
        cluster.network.latency_ms = 5
        fast = cluster.join(node, other, parallel=True)
        cluster.advance(20)
        cluster.network.latency_ms = 40
        cluster.join(node, other, parallel=True)
        cluster.advance(100)
        node.agent(10).send_to_handler(HandlerRoute.node(2), "fast")
        cluster.settle()
        assert [e.conn for e in spy.log.of("from_behavior")] == [fast]


def test_handler_route_to_a_node_takes_the_oldest_of_equals(cluster: Cluster) -> None:
    spy = Spy()
    node, other = cluster.add(1, spy), cluster.add(2)
    oldest = cluster.join(node, other)
    cluster.join(node, other, parallel=True)
    node.agent(10).send_to_handler(HandlerRoute.node(2), "x")
    cluster.settle()
    assert [e.conn for e in spy.log.of("from_behavior")] == [oldest]


def test_handler_route_to_a_node_leaves_closing_links_out(cluster: Cluster) -> None:
    spy = Spy()
    node, other = cluster.add(1, spy), cluster.add(2)
    oldest = cluster.join(node, other)
    second = cluster.join(node, other, parallel=True)
    cluster.frozen.add(other)  # so that the first one stays half closed
    node.agent(10).close_conn(oldest)
    cluster.settle()
    node.agent(10).send_to_handler(HandlerRoute.node(2), "x")
    cluster.settle()
    assert [e.conn for e in spy.log.of("from_behavior")] == [second]


@pytest.mark.parametrize(
    "route",
    [HandlerRoute.conn(12345 << 16), HandlerRoute.node(99), HandlerRoute()],
    ids=["no such link", "no link to that node", "nowhere"],
)
def test_event_without_a_handler_is_dropped_and_counted(
    cluster: Cluster, route: HandlerRoute
) -> None:
    node = cluster.add(1, Spy())
    node.agent(10).send_to_handler(route, "x")
    cluster.settle()
    assert node.stats().events_dropped == 1
    assert node.stats().hook_errors == 0


def test_event_to_a_link_where_the_service_has_no_handler_is_counted(cluster: Cluster) -> None:
    node = cluster.add(1, Spy(handlers=None))
    conn_id = cluster.join(node, cluster.add(2))
    node.agent(10).send_to_handler(HandlerRoute.conn(conn_id), "x")
    cluster.settle()
    assert node.stats().events_dropped == 1


def test_events_keep_their_order_and_are_not_reentrant(cluster: Cluster) -> None:
    def echo(agent: Any, *args: Any) -> None:
        event = args[-1]
        if event < 40:
            agent.send_behavior(event + 1)
            agent.send_behavior(event + 1)
            assert log.entries[-1].detail == event  # neither has arrived yet

    log = Log()
    agents = Agents()
    spy = Spy(10, log, opened=agents)
    spy.reactions["from_behavior"] = echo
    node = cluster.add(1, spy)
    conn_id = cluster.join(node, cluster.add(2))
    for number in range(38, 42):
        node.agent(10).send_to_handler(HandlerRoute.conn(conn_id), number)
    cluster.settle()
    assert log.details("from_behavior") == [38, 39, 40, 41]
    assert log.details("from_handler") == [39, 39, 40, 40]
    assert log.deepest == 1


def test_events_and_commands_are_carried_out_in_the_order_asked(cluster: Cluster) -> None:
    def on_message(agent: Any, message: Any) -> None:
        agent.send_to_handler(HandlerRoute.conn(conn_id), 1)
        agent.connect_to("/memory/nobody")
        agent.send_to_handler(HandlerRoute.conn(conn_id), 2)

    spy = Spy(message=on_message)
    node = cluster.add(1, spy)
    conn_id = cluster.join(node, cluster.add(2))
    del spy.log.entries[:]
    node.agent(10).send_local(b"go")
    cluster.settle()
    assert [hook for hook, _ in spy.log.order()] == [
        "message",
        "from_behavior",
        "check_out",
        "from_behavior",
        "error",
    ]


def test_events_are_drained_to_a_fixed_point_in_one_turn(cluster: Cluster) -> None:
    def down(agent: Any, event: int) -> None:
        agent.send_behavior(event - 1)

    def up(agent: Any, node_id: int, conn_id: int, event: int) -> None:
        if event:
            agent.send_to_handler(HandlerRoute.conn(conn_id), event)

    spy = Spy(from_behavior=down, from_handler=up)
    node = cluster.add(1, spy)
    conn_id = cluster.join(node, cluster.add(2))
    node.agent(10).send_to_handler(HandlerRoute.conn(conn_id), 500)
    node.poll(0)
    assert spy.log.details("from_handler")[-1] == 0
    assert spy.log.deepest == 1


def forever(spy: Spy) -> None:
    """Make a behavior and its handlers talk to each other without end."""
    spy.reactions["from_behavior"] = lambda agent, event: agent.send_behavior(event)
    spy.reactions["from_handler"] = lambda agent, node_id, conn_id, event: agent.send_to_handler(
        HandlerRoute.conn(conn_id), event
    )


@pytest.mark.parametrize("max_drain", [16, 100])
def test_endless_events_leave_the_loop_its_turns(cluster: Cluster, max_drain: int) -> None:
    spy = Spy()
    forever(spy)
    node = cluster.add(1, spy, max_drain=max_drain)
    conn_id = cluster.join(node, cluster.add(2))
    node.agent(10).send_to_handler(HandlerRoute.conn(conn_id), "x")
    counts = []
    for _ in range(20):
        before = len(spy.log.entries)
        node.poll(0)
        counts.append(len(spy.log.entries) - before)
    # A turn drains at its flush and once for the timer of the one before; it does not grow.
    assert max_drain <= max(counts) <= 2 * max_drain
    assert all(counts)


def test_endless_local_messages_leave_the_loop_its_turns(cluster: Cluster) -> None:
    spy = Spy(message=lambda agent, message: agent.send_local(b"again"))
    node = cluster.add(1, spy, max_drain=16)
    node.agent(10).send_local(b"begin")
    counts = []
    for _ in range(20):
        before = len(spy.log.of("message"))
        node.poll(0)
        counts.append(len(spy.log.of("message")) - before)
    assert 16 <= max(counts) <= 33
    assert all(counts)


def test_endless_events_do_not_keep_a_node_from_closing(cluster: Cluster) -> None:
    spy = Spy()
    forever(spy)
    node = cluster.add(1, spy, max_drain=16)
    conn_id = cluster.join(node, cluster.add(2))
    node.agent(10).send_to_handler(HandlerRoute.conn(conn_id), "x")
    node.poll(0)
    node.close()
    assert [hook for hook, _ in spy.log.order("from_behavior", "from_handler")][-3:] == [
        "closed",
        "disconnected",
        "stopped",
    ]


def test_nothing_is_reentrant_across_all_hooks(cluster: Cluster) -> None:
    def ask_everything(agent: Any, *args: Any) -> Any:
        if len(log.entries) > 400 or agent.now_ms > cluster.now_ms:
            return None
        try:
            agent.send_local(b"", to_service=20)
            agent.send_to_service(20, b"")
            agent.close_node(77)
            agent.call_later(0, log.wrap("later"))
            agent.call(RouteRule.node(1), 20, b"", log.wrap("done"))
            agent.send_to_handler(HandlerRoute.node(2), "x")
            agent.connect_to("/memory/nobody")
        except (AttributeError, LocalError):
            pass  # handlers do not dial; a closing node does nothing new
        return None

    log = Log()
    hooks = ("started", "stopped", "tick", "connected", "disconnected", "error", "message",
             "from_handler", "opened", "link_tick", "event", "measured", "closed",
             "from_behavior", "from_other")  # fmt: skip
    reactions: dict[str, Any] = dict.fromkeys(hooks, ask_everything)
    node = cluster.add(1, Spy(10, log, **reactions), Spy(20, log, rpc=refuse_rpc))
    other = cluster.add(2, Spy())
    cluster.join(other, node)
    other.agent(10).send_to_node(1, b"")
    node.post(log.wrap("post"))
    cluster.advance(2_000)
    node.close()
    assert {"later", "done", "post"} <= {entry.hook for entry in log.entries}
    assert log.deepest == 1


def refuse_rpc(agent: Any, req: Any, res: Any) -> bool:
    return False


# -- the command queue ---------------------------------------------------------------------------


def test_commands_beyond_the_bound_are_refused_and_counted(cluster: Cluster) -> None:
    def ask(agent: Any, message: Any) -> None:
        for _ in range(16):
            agent.close_node(5)
        for ask_more, args in (
            (agent.close_node, (5,)),
            (agent.close_conn, (5,)),
            (agent.connect_to, ("/memory/nobody",)),
            (agent.send_to_handler, (HandlerRoute.node(1), "x")),
        ):
            with pytest.raises(QueueFullError) as caught:
                ask_more(*args)
            errors.append(caught.value)

    errors: list[QueueFullError] = []
    spy = Spy(message=ask)
    node = cluster.add(1, spy, max_commands=16)
    node.agent(10).send_local(b"")
    cluster.settle()
    assert [(err.queue, err.limit) for err in errors] == [("max_commands", 16)] * 4
    assert "raise max_commands" in str(errors[0])
    stats = node.stats()
    assert (stats.commands_refused, stats.hook_errors, stats.dials) == (4, 0, 0)
    assert not spy.log.of("error")  # no conn id was given out


def test_commands_are_taken_again_after_the_hook(cluster: Cluster) -> None:
    def ask(agent: Any, message: Any) -> None:
        for _ in range(16):
            agent.close_node(5)

    node = cluster.add(1, Spy(message=ask), max_commands=16)
    for _ in range(5):
        node.agent(10).send_local(b"")
        cluster.settle()
    assert node.stats().commands_refused == 0


# -- sends ---------------------------------------------------------------------------------------


def test_agent_knows_who_and_when_it_is(cluster: Cluster) -> None:
    agents = Agents()
    node = cluster.add(1, Spy(opened=agents))
    conn_id = cluster.join(node, cluster.add(2))
    agent = node.agent(10)
    assert (agent.local_node_id, agent.service_id) == (1, 10)
    assert agent.now_ms == cluster.now_ms
    (link_agent,) = agents
    assert (link_agent.local_node_id, link_agent.service_id) == (1, 10)
    assert (link_agent.conn_id, link_agent.remote_node_id) == (conn_id, 2)
    assert link_agent.remote_addr.startswith("/memory/")
    assert link_agent.rtt_ms == 0.0


def test_every_send_of_a_behavior_agent_arrives(cluster: Cluster) -> None:
    there = Spy()
    node = cluster.add(1, Spy(10))
    conn_id = cluster.join(node, cluster.add(2, there, Spy(11, there.log)))
    cluster.advance(500)
    agent = node.agent(10)
    agent.send_to_node(2, b"node")
    agent.send_to_key(2, b"key")
    agent.send_to_service(11, b"service")
    agent.send_to_conn(conn_id, b"conn")
    agent.send(RouteRule.node(2), b"rule", to_service=11)
    agent.send_to_node(2, bytearray(b"bytearray"))
    agent.send_to_node(2, memoryview(b"memoryview"))
    cluster.settle()
    assert [(e.service, e.detail) for e in there.log.of("event")] == [
        (10, b"node"),
        (10, b"key"),
        (11, b"service"),
        (10, b"conn"),
        (11, b"rule"),
        (10, b"bytearray"),
        (10, b"memoryview"),
    ]


def test_every_send_of_a_connection_agent_arrives(cluster: Cluster) -> None:
    agents = Agents()
    log, there = Log(), Spy()
    node = cluster.add(1, Spy(10, log, opened=agents))
    cluster.join(node, cluster.add(2, there))
    cluster.advance(500)
    (agent,) = agents
    agent.send(b"own link")
    agent.send_routed(RouteRule.node(2), b"routed")
    agent.send_to_node(2, b"node")
    agent.send_to_key(2, b"key")
    agent.send_to_conn(agent.conn_id, b"conn")
    agent.send_local(b"local")
    cluster.settle()
    assert there.log.details("event") == [b"own link", b"routed", b"node", b"key", b"conn"]
    assert log.details("message") == [b"local"]


def test_reply_goes_back_to_node_service_and_stream(cluster: Cluster) -> None:
    seen: list[Any] = []
    node = cluster.add(1, Spy(10, event=lambda agent, message: seen.append(message)))
    other = cluster.add(2, Spy(20, event=lambda agent, m: agent.reply(m, b"re: " + m.payload)))
    cluster.join(node, other)
    node.agent(10).send_to_node(2, b"question", to_service=20, stream_id=9)
    cluster.settle()
    (message,) = seen
    assert (message.payload, message.from_service, message.stream_id) == (b"re: question", 20, 9)


def test_key_may_be_a_name(cluster: Cluster) -> None:
    spy = Spy()
    node = cluster.add(1, spy)
    node.agent(10).send_to_key("name", b"str")
    node.agent(10).send_to_key(b"name", b"bytes")
    node.agent(10).send(RouteRule.closest("name"), b"rule")
    cluster.settle()
    assert spy.log.details("message") == [b"str", b"bytes", b"rule"]
    assert RouteRule.closest("name") == RouteRule.closest(key_of(b"name"))


@pytest.mark.parametrize(
    ("send", "words"),
    [
        (lambda agent: agent.send_to_node(9, b""), "node 9"),
        (lambda agent: agent.send_to_service(9, b""), "service 9"),
        (lambda agent: agent.send_to_conn(9, b""), "link"),
        (lambda agent: agent.call(RouteRule.node(9), 1, b"", print), "node 9"),
    ],
    ids=["node", "service", "conn", "call"],
)
def test_send_without_a_route_raises_and_is_counted(
    cluster: Cluster, send: Any, words: str
) -> None:
    node = cluster.add(1, Spy())
    with pytest.raises(NoRouteError, match=words):
        send(node.agent(10))
    stats = node.stats()
    assert (stats.sends_refused, stats.messages_sent) == (1, 0)


def test_send_on_a_closing_link_raises(cluster: Cluster) -> None:
    agents = Agents()
    node = cluster.add(1, Spy(opened=agents))
    conn_id = cluster.join(node, cluster.add(2))
    node.agent(10).close_conn(conn_id)
    cluster.settle()
    with pytest.raises(NoRouteError, match="closed or closing"):
        agents[0].send(b"")


def test_message_bigger_than_a_frame_is_refused_with_the_limit(cluster: Cluster) -> None:
    node = cluster.add(1, Spy(), max_frame_bytes=8_192)
    there = Spy()
    conn_id = cluster.join(node, cluster.add(2, there, max_frame_bytes=4_096))
    with pytest.raises(MessageTooBigError) as caught:
        node.agent(10).send_to_conn(conn_id, bytes(4_089))
    assert (caught.value.size, caught.value.limit) == (4_097, 4_096)
    node.agent(10).send_to_conn(conn_id, bytes(4_088))
    with pytest.raises(MessageTooBigError):
        node.agent(10).send_local(bytes(8_192))
    cluster.settle()
    assert len(there.log.of("event")) == 1
    assert node.stats().sends_refused == 2


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({"ttl": 0}, ValueError),
        ({"ttl": 256}, ValueError),
        ({"meta": 4}, ValueError),
        ({"stream_id": -1}, ValueError),
        ({"stream_id": 1 << 32}, ValueError),
        ({"to_service": 256}, ValueError),
        ({"to_service": -1}, ValueError),
    ],
)
@pytest.mark.parametrize("send", ["send_local", "send_to_node", "send_to_conn"])
def test_send_with_a_number_out_of_range_raises(
    cluster: Cluster, how: dict[str, int], error: type[Exception], send: str
) -> None:
    node = cluster.add(1, Spy())
    conn_id = cluster.join(node, cluster.add(2))
    target = {"send_local": (), "send_to_node": (2,), "send_to_conn": (conn_id,)}[send]
    with pytest.raises(error):
        getattr(node.agent(10), send)(*target, b"", **how)
    assert node.stats().messages_sent == 0


@pytest.mark.parametrize("payload", ["text", None, 5, [1]])
def test_send_of_something_else_than_bytes_raises(cluster: Cluster, payload: Any) -> None:
    node = cluster.add(1, Spy())
    with pytest.raises(TypeError):
        node.agent(10).send_local(payload)


def test_send_of_a_closed_node_raises(cluster: Cluster) -> None:
    node = cluster.add(1, Spy())
    agent = node.agent(10)
    node.close()
    for ask in (
        lambda: agent.send_local(b""),
        lambda: agent.send_to_node(1, b""),
        lambda: agent.send_to_conn(1, b""),
        lambda: agent.call(RouteRule.node(1), 10, b"", print),
        lambda: agent.call_later(1, print),
        lambda: agent.connect_to("/memory/x"),
        lambda: agent.close_node(1),
        lambda: agent.send_to_handler(HandlerRoute.node(1), "x"),
    ):
        with pytest.raises(NodeClosedError):
            ask()


# -- dials, closing, timers ----------------------------------------------------------------------


def test_connect_to_returns_the_conn_id_of_the_hooks(cluster: Cluster) -> None:
    ids: list[int] = []
    other = cluster.add(2)
    spy = Spy(started=lambda agent: ids.append(agent.connect_to(other.addrs[0])))
    cluster.add(1, spy)
    cluster.settle()
    assert [e.conn for e in spy.log.of("check_out", "connected")] == [ids[0], ids[0]]


def test_connect_to_something_that_is_no_address_raises(cluster: Cluster) -> None:
    node = cluster.add(1, Spy())
    with pytest.raises(AddressError):
        node.agent(10).connect_to("nowhere")
    assert node.stats().dials == 0


def test_close_node_closes_every_link_to_it(cluster: Cluster) -> None:
    spy = Spy()
    node, other = cluster.add(1, spy), cluster.add(2)
    cluster.join(node, other)
    cluster.join(node, other, parallel=True)
    kept = cluster.join(node, cluster.add(3))
    node.agent(10).close_node(2)
    cluster.settle()
    assert [link.conn_id for link in node.connections] == [kept]
    assert len(spy.log.of("disconnected")) == 2


@pytest.mark.parametrize("node_id", [-1, 1 << 32, "x"])
def test_close_node_of_something_that_is_no_node_id_raises(cluster: Cluster, node_id: Any) -> None:
    node = cluster.add(1, Spy())
    with pytest.raises(LocalError):
        node.agent(10).close_node(node_id)


def test_close_of_unknown_links_is_ignored(cluster: Cluster) -> None:
    node = cluster.add(1, Spy())
    node.agent(10).close_conn(12345)
    node.agent(10).close_node(9)
    cluster.settle()
    assert node.stats().hook_errors == 0


def test_connection_agent_closes_its_own_link(cluster: Cluster) -> None:
    spy = Spy(event=lambda agent, message: agent.close_conn())
    node, other = cluster.add(1, spy), cluster.add(2, Spy())
    cluster.join(other, node)
    other.agent(10).send_to_node(1, b"bye")
    cluster.settle()
    assert not node.connections
    assert not other.connections


def test_call_later_runs_once_at_its_time(cluster: Cluster) -> None:
    times: list[int] = []
    node = cluster.add(1, Spy())
    cluster.settle()
    begin = cluster.now_ms
    node.agent(10).call_later(250, lambda: times.append(cluster.now_ms))
    cluster.advance(1_000)
    assert times == [begin + 250]


def test_deadlines_asked_between_turns_count_from_then(cluster: Cluster) -> None:
    log: list[tuple[str, int]] = []
    node = cluster.add(1, Spy())
    kept: list[Any] = []  # never answered

    def keep(agent: Any, req: Any, res: Any) -> bool:
        kept.append(res)
        return True

    cluster.join(node, cluster.add(2, Spy(rpc=keep)))
    cluster.advance(500)
    cluster.now_ms += 90  # the host is busy with something else, and polls no more
    begin, agent = cluster.now_ms, node.agent(10)
    assert agent.now_ms == begin

    def note(what: str) -> None:
        log.append((what, cluster.now_ms - begin))

    agent.call(RouteRule.node(2), 10, b"", lambda answer: note(type(answer.error).__name__), 50)
    cluster.now_ms += 7
    agent.call_later(20, lambda: note("later"))
    cluster.advance(1_000)
    assert log == [("later", 27), ("CallTimeout", 50)]


def test_deadlines_asked_in_a_hook_read_no_clock(cluster: Cluster) -> None:
    reads = 0

    def clock_ms() -> int:
        nonlocal reads
        reads += 1
        return cluster.now_ms

    def ask(agent: Any, ts_ms: int, interval_ms: int) -> None:
        before = reads
        for _ in range(10):
            agent.call(RouteRule.node(1), 10, b"", print, 50)
            agent.call_later(20, print)
        counted.append(reads - before)

    counted: list[int] = []
    behaviors = [Spy(tick=ask, rpc=lambda agent, req, res: True)]
    with Node(1, behaviors, transports=[], backend=cluster.backend, clock_ms=clock_ms) as node:
        node.poll(0)
        cluster.now_ms += 1_000
        node.poll(0)
    assert counted == [0]


def test_call_later_can_be_cancelled(cluster: Cluster) -> None:
    spy = Spy()
    node = cluster.add(1, spy)
    later = node.agent(10).call_later(10, spy.log.wrap("later"))
    later.cancel()
    later.cancel()
    cluster.advance(100)
    assert not spy.log.of("later")


def test_call_later_of_nothing_runs_after_the_hook(cluster: Cluster) -> None:
    log = Log()
    cluster.add(1, Spy(10, log, started=lambda agent: agent.call_later(-5, log.wrap("later"))))
    cluster.settle()
    assert log.order() == [("started", 10), ("later", -1)]
    assert log.deepest == 1
