"""What a review found, each with the test that would have found it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from netcore import (
    BehaviorAgent,
    ConnectionRejected,
    Endpoint,
    HandlerRoute,
    LayeredRouter,
    LocalError,
    Metric,
    NetworkBehavior,
    Node,
    NodeAddr,
    NodeClosedError,
    NodeConfig,
    RemoteRejected,
    RouteAction,
    RouteRule,
    key_of,
    wire,
)
from netcore._backend import BackendName
from support.sinks import CONN_A, NODE_A, NODE_B, Rig, direct, to_node
from support.sync_net import SyncNet
from support.virtual import Spy, cluster_of

TEXT: Any = "x"
NUMBER: Any = 5
FRACTION: Any = 1.5


class Service(NetworkBehavior):
    service_id = 10


# -- counters and bounds ---------------------------------------------------------------------------


def test_messages_sealed_and_not_sent_are_counted_when_the_link_fails(kernels: ModuleType) -> None:
    with Rig(kernels) as rig:
        conn, channel = rig.channel(room=0, records=kernels.Records(bytes(32), bytes(32)))
        conn.send_control(wire.KIND_PING, bytes(wire.PING_BYTES))
        rig.switch.send_on(conn, b"routes", 255, 255)  # control traffic: no message
        for _ in range(100):
            rig.switch.send_on(conn, bytes(1_000), 1, 2)
        rig.turn()
        # One record and a piece of the next: 32768 bytes of frames of 1012, behind 15 + 18.
        channel.room = 3 + 32_768 + 16 + 10
        conn.channel_writable()
        rig.turn()
        conn.fail(wire.CLOSE_LOST, "")
        rig.turn()
        assert channel.room == 0
        assert rig.switch.counters()["dropped_link_closed"] == 100 - 32


def test_messages_whose_record_left_are_not_counted_as_dropped(kernels: ModuleType) -> None:
    with Rig(kernels) as rig:
        conn, _ = rig.channel(records=kernels.Records(bytes(32), bytes(32)))
        rig.switch.send_on(conn, b"gone", 1, 2)
        rig.turn()
        conn.fail(wire.CLOSE_LOST, "")
        rig.turn()
        assert rig.switch.counters()["dropped_link_closed"] == 0


def test_probes_of_one_link_share_one_ping(backend: BackendName) -> None:
    with cluster_of(backend) as cluster:
        one, two = cluster.add(1), cluster.add(2)
        cluster.join(one, two)
        link = next(iter(one._plane.links))
        before = link.conn.frames_sent
        for _ in range(100):
            one._plane.probe(link)
        assert link.conn.frames_sent == before + 1
        cluster.settle()
        one._plane.probe(link)  # that one was answered
        assert link.conn.frames_sent == before + 2


def test_event_asked_for_by_the_last_hook_is_counted_as_dropped(backend: BackendName) -> None:
    class Last(Service):
        def on_stopped(self, agent: BehaviorAgent) -> None:
            agent.send_to_handler(HandlerRoute.node(2), "too late")

    with cluster_of(backend) as cluster:
        node = cluster.add(1, Last())
        cluster.settle()
        node.close()
        assert node.stats().events_dropped == 1


def test_error_of_a_closed_node_does_not_grow_with_every_send(kernels: ModuleType) -> None:
    with Rig(kernels) as rig:
        conn, _ = rig.channel()
        rig.switch.refuse_sends(NodeClosedError())
        for _ in range(20):
            with pytest.raises(NodeClosedError) as caught:
                rig.switch.send_on(conn, b"", 1, 2)
        assert len(caught.traceback) < 5


def test_close_without_time_still_writes_what_the_stream_takes(backend: BackendName) -> None:
    with cluster_of(backend) as cluster:
        spy = Spy(handlers=None)
        one, two = cluster.add(1, Service()), cluster.add(2, spy)
        cluster.join(one, two)
        one.agent(10).send_to_node(2, b"last words")
        one.close(0)
        cluster.settle()
        assert [entry.detail for entry in spy.log.of("message")] == [b"last words"]
        cluster.assert_nothing_lost()


# -- routes ----------------------------------------------------------------------------------------


def test_routes_that_arrive_on_a_closing_link_are_not_learned() -> None:
    net = SyncNet([1, 2, 3])
    net.join(2, 3)
    net.join(1, 2)
    net.clock.advance(1_000)
    assert net.router(1).path_to_node(3).is_next
    agent = net.ends[1, 2].agent
    agent.is_open = False
    net.router(1).del_direct(agent.conn_id)  # as the plane does when a link begins to close
    net.router(2).register_service(30)
    net.clock.advance(1_000)
    assert net.router(1).path_to_service(30).is_reject
    assert net.router(1).path_to_node(3).is_reject


class Answers:
    """A router that says anything."""

    def __init__(self, action: Any) -> None:
        self.action = action

    def path_to(self, rule: RouteRule, service_id: int) -> Any:
        return self.action


@pytest.mark.parametrize("conn_id", [[], "x", None, 5.0, -1, 1 << 64])
def test_router_that_answers_no_conn_id_leads_nowhere(kernels: ModuleType, conn_id: Any) -> None:
    with Rig(kernels, router=Answers(RouteAction.next_hop(conn_id, NODE_B))) as rig:
        conn, _ = rig.channel(CONN_A, NODE_A)
        conn.receive_data(to_node(NODE_B, b"x") + direct(b"next"))
        assert rig.switch.counters()["dropped_no_route"] == 1
        assert conn.frames_received == 2


# -- what comes from the other side ----------------------------------------------------------------


def test_text_of_a_close_frame_is_made_printable_in_the_log(
    backend: BackendName, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "netcore.plane")
    with cluster_of(backend) as cluster:
        one, two = cluster.add(1), cluster.add(2)
        cluster.join(one, two)
        next(iter(two._plane.links)).conn.close(0, "bye\nroot logged in \x1b[2J")
        cluster.until(lambda: not one.connections)
    assert "bye?root logged in ?[2J" in caplog.text
    assert "\x1b" not in caplog.text


def test_refusal_with_a_reason_that_is_no_text_travels(backend: BackendName) -> None:
    class Refuser(Service):
        def check_incoming_connection(self, node: int, conn_id: int) -> None:
            raise ConnectionRejected(NUMBER)

    with cluster_of(backend) as cluster:
        spy = Spy()
        one, two = cluster.add(1, spy), cluster.add(2, Refuser())
        cluster.dial(one, two)
        cluster.settle()
        (entry,) = spy.log.of("error")
        assert isinstance(entry.detail, RemoteRejected)
        assert entry.detail.reason == "5"


# -- arguments of a wrong type ---------------------------------------------------------------------

WRONG: dict[str, tuple[type[Exception], str, Callable[[Any, Any], object]]] = {
    "send": (TypeError, "RouteRule", lambda node, agent: agent.send("x", b"")),
    "reply": (TypeError, "Message", lambda node, agent: agent.reply("x", b"")),
    "call": (TypeError, "RouteRule", lambda node, agent: agent.call("x", 1, b"", print)),
    "call payload": (
        TypeError,
        "a payload is bytes",
        lambda node, agent: agent.call(RouteRule.direct(), 10, "x", print),
    ),
    "handler route": (TypeError, "HandlerRoute", lambda node, agent: agent.send_to_handler(1, 2)),
    "handler conn": (LocalError, "a conn id", lambda node, agent: HandlerRoute.conn(TEXT)),
    "handler node": (LocalError, "a node id", lambda node, agent: HandlerRoute.node(TEXT)),
    "close_conn": (LocalError, "a conn id", lambda node, agent: agent.close_conn([])),
    "call_later": (TypeError, "callable", lambda node, agent: agent.call_later(1, None)),
    "post": (TypeError, "callable", lambda node, agent: node.post(None)),
    "poll": (LocalError, "seconds", lambda node, agent: node.poll("1")),
    "poll nan": (LocalError, "seconds", lambda node, agent: node.poll(float("nan"))),
    "wait_connected": (LocalError, "a node id", lambda node, agent: node.wait_connected("2")),
    "wait_route": (TypeError, "RouteRule", lambda node, agent: node.wait_route(2)),
    "key": (TypeError, "a key", lambda node, agent: key_of(NUMBER)),
    "closest": (TypeError, "a key", lambda node, agent: RouteRule.closest(FRACTION)),
    "latency": (TypeError, "ints", lambda node, agent: Metric(FRACTION, (2,))),
    "hops": (TypeError, "ints", lambda node, agent: Metric(1, (TEXT,))),
    "link": (
        LocalError,
        "a conn id",
        lambda node, agent: LayeredRouter(1).set_direct(TEXT, 2, Metric(1, (2,))),
    ),
    "endpoint": (LocalError, "an endpoint", lambda node, agent: Endpoint("ip4", NUMBER, 1)),
    "port": (LocalError, "an endpoint", lambda node, agent: Endpoint("dns", "a", TEXT)),
    "addr": (LocalError, "Endpoints", lambda node, agent: NodeAddr(1, (TEXT,))),
    "parse": (LocalError, "an address", lambda node, agent: NodeAddr.parse(NUMBER)),
    "insecure": (LocalError, "insecure", lambda node, agent: NodeConfig(node_id=1, insecure=TEXT)),
    "router": (TypeError, r"path_to\(\)", lambda node, agent: Node(1, router=TEXT)),
    "behavior": (TypeError, "an instance", lambda node, agent: Node(1, [TEXT])),
}


@pytest.mark.parametrize("name", WRONG)
def test_argument_of_a_wrong_type_is_refused_where_it_is_given(
    backend: BackendName, name: str
) -> None:
    error, words, act = WRONG[name]
    with cluster_of(backend) as cluster:
        node = cluster.add(1, Service())
        with pytest.raises(error, match=words):
            act(node, node.agent(10))
        cluster.settle()
        assert node.stats().hook_errors == 0
