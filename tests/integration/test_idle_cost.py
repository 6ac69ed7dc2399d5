"""What an idle link costs with the compiled backend, and what a send of its agents costs."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from types import FrameType
from typing import Any

import pytest

from netcore import (
    BehaviorAgent,
    ConnectionAgent,
    ConnectionHandler,
    ConnectionSender,
    ForceLocalRouter,
    NetworkBehavior,
    Node,
    RouteRule,
)
from support.nodes import ANY, Nodes, nodes_of

LINKS = 400
FAST_ONLY = "netcore._fast.switch"


class Plain(ConnectionHandler):
    """Leaves everything to its behavior."""


class Eager(ConnectionHandler):
    """Wants messages."""

    def on_event(self, agent: ConnectionAgent, event: object) -> None:
        pass


class Maker(NetworkBehavior):
    """Gives each link a handler of a class, or none."""

    service_id = 77

    def __init__(self, handler: type[ConnectionHandler] | None = None) -> None:
        self.handler = handler
        self.senders: list[ConnectionSender] = []
        self.agent: BehaviorAgent | None = None

    def on_started(self, agent: BehaviorAgent) -> None:
        self.agent = agent

    def on_incoming_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> ConnectionHandler | None:
        return None if self.handler is None else self.handler()


class Keeper(ConnectionHandler):
    """Shows its agent."""

    agent: ConnectionAgent

    def on_opened(self, agent: ConnectionAgent) -> None:
        self.agent = agent


def pair(nodes: Nodes, maker: Maker) -> tuple[Node, Node, str]:
    one = nodes.add(1, maker, router=ForceLocalRouter())
    other = nodes.add(2, router=ForceLocalRouter())
    return one, other, str(one.listen(ANY))


def connect(nodes: Nodes, one: Node, other: Node, addr: str, count: int) -> None:
    there = len(one.connections) + count
    for _ in range(count):
        other.connect(addr, parallel=True)
    nodes.until(lambda: len(one.connections) == len(other.connections) == there)
    nodes.sinks[one].up.clear()
    nodes.sinks[other].up.clear()
    nodes.settle(5)


def tracked() -> Counter[str]:
    gc.collect()
    return Counter(type(each).__name__ for each in gc.get_objects())


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (None, {"Connection": 2, "Link": 2}),
        (Plain, {"Connection": 2, "Link": 2, "Plain": 1, "ConnectionAgent": 1, "Port": 1}),
    ],
)
def test_idle_link_keeps_no_object_more(
    handler: type[ConnectionHandler] | None, expected: dict[str, int]
) -> None:
    pytest.importorskip(FAST_ONLY)
    with nodes_of("fast") as nodes:
        one, other, addr = pair(nodes, Maker(handler))
        connect(nodes, one, other, addr, 10)
        before = tracked()
        connect(nodes, one, other, addr, LINKS)
        # Per link: both ends together. The tuple is the link's, of handlers and agents.
        grown = tracked() - before
        grown.subtract({name: count * LINKS for name, count in expected.items()})
        grown.subtract({"tuple": LINKS * (handler is not None)})
        # Dozens of cancelled timers, say, may wait for their end; one object per link is 400.
        assert {name: n for name, n in grown.items() if abs(n) > LINKS / 2} == {}


def bytes_of(obj: Any) -> int:
    """Return what one object takes, its GC header included."""
    return sys.getsizeof(obj)


def size_of_link(node: Node) -> int:
    """Return what the objects of one link of a node take, those of its handler included."""
    link = next(iter(node._plane.links))
    parts = [link, link.conn, link.vitals, link.remote_addr, link.conn.conn_id]
    for handler, agent in link.handlers:
        parts += [handler, agent, agent._port, link._handlers, handler.on_event]
    assert node._plane.monitor._liveness._heap
    return sum(map(bytes_of, parts)) + bytes_of(1 << 59)  # and its item in the heap


@pytest.mark.parametrize(("handler", "limit"), [(None, 850), (Plain, 1_150), (Eager, 1_150)])
def test_idle_link_takes_few_bytes(handler: type[ConnectionHandler] | None, limit: int) -> None:
    pytest.importorskip(FAST_ONLY)
    with nodes_of("fast") as nodes:
        one, other, addr = pair(nodes, Maker(handler))
        connect(nodes, one, other, addr, 2)
        assert size_of_link(one) <= limit


def frames_of(call: Any) -> list[str]:
    """Return the Python functions that a call runs."""
    called: list[str] = []

    def profile(frame: FrameType, event: str, arg: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_name)

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return called[1:]  # without the call itself


class SenderKeeper(Maker):
    """Keeps the senders of its links, and gives each a handler that shows its agent."""

    def __init__(self) -> None:
        super().__init__(Keeper)
        self.handlers: list[Keeper] = []

    def on_incoming_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> ConnectionHandler | None:
        self.senders.append(conn)
        self.handlers.append(Keeper())
        return self.handlers[-1]


def test_sends_of_all_agents_run_no_python_frame() -> None:
    pytest.importorskip(FAST_ONLY)
    with nodes_of("fast") as nodes:
        maker = SenderKeeper()
        one, other, addr = pair(nodes, maker)
        connect(nodes, one, other, addr, 1)
        assert maker.agent is not None
        agent, sender, behavior = maker.handlers[0].agent, maker.senders[0], maker.agent
        conn_id = sender.conn_id
        calls = [
            lambda: agent.send(b"x"),
            lambda: agent.send(b"x", to_service=3, stream_id=4, meta=1, ttl=2),
            lambda: agent.send_to_conn(conn_id, b"x"),
            lambda: agent.send_to_node(1, b"x"),
            lambda: agent.send_to_key(1, b"x"),
            lambda: agent.send_to_service(77, b"x"),
            lambda: agent.send_local(b"x"),
            lambda: sender.send(b"x"),
            lambda: behavior.send_to_conn(conn_id, b"x"),
        ]
        # An injected router is asked in Python, which is its own affair.
        asked = {"path_to", "path_to_node", "path_to_key", "path_to_service", "__init__"}
        assert [set(frames_of(call)) - asked for call in calls] == [set()] * len(calls)


def test_agents_of_a_link_say_the_same_after_its_end(backend: Any) -> None:
    with nodes_of(backend) as nodes:
        maker = SenderKeeper()
        one, other, addr = pair(nodes, maker)
        connect(nodes, one, other, addr, 1)
        agent, sender = maker.handlers[0].agent, maker.senders[0]
        link = one.connections[0]
        facts = (link.conn_id, link.remote_node_id, link.remote_addr)
        other.close()
        nodes.until(lambda: not one.connections)
        assert (agent.conn_id, agent.remote_node_id, agent.remote_addr) == facts
        assert (sender.conn_id, sender.remote_node_id, sender.remote_addr) == facts
        assert not agent.is_open
        assert agent.rtt_ms is None


def test_agent_of_a_handler_sends_where_a_rule_says(backend: Any) -> None:
    with nodes_of(backend) as nodes:
        maker = SenderKeeper()
        one, other, addr = pair(nodes, maker)
        connect(nodes, one, other, addr, 1)
        agent = maker.handlers[0].agent
        before = one.stats().messages_sent
        agent.send_routed(RouteRule.service(), b"here")
        agent.send(b"there")
        assert one.stats().messages_sent == before + 2
        assert one.connections[0].queued_bytes > 0
