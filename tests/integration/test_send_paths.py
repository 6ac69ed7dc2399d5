"""Every way to send, found by reflection, obeys the bound of the queue and the policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from netcore import HandlerRoute, Message, QueueFullError, RouteRule, SendQueueFullError
from netcore._backend import BackendName, load
from netcore.agent import BehaviorAgent, ConnectionAgent, ConnectionSender
from netcore.config import SEND_QUEUE_POLICIES
from support.virtual import Cluster, Spy, cluster_of, until_refused

HIGH = 20_000
SIZES = (0, 100, 3_000, 17_000)  # the last by reference
HEAD = 40  # of a frame, at most
ROUNDS = 60

Send = Callable[[bytes], object]
RULE = RouteRule.node(2)

#: How each method is called. What is not here and looks like a way to send fails the test.
CALLS: dict[str, Callable[[Any, Any, bytes], object]] = {
    "BehaviorAgent.send": lambda o, it, data: o.send(RULE, data),
    "ConnectionAgent.send": lambda o, it, data: o.send(data),
    "ConnectionAgent.send_routed": lambda o, it, data: o.send_routed(RULE, data),
    "ConnectionSender.send": lambda o, it, data: o.send(data),
    "Port.send": lambda o, it, data: o.send(RULE, data),
    "Port.send_on_link": lambda o, it, data: o.send_on_link(data),
    "RpcAnswer.ok": lambda o, it, data: next(it.answers).ok(data),
    "RpcAnswer.error": lambda o, it, data: next(it.answers).error(256, "x" * min(len(data), 200)),
    "send_to_node": lambda o, it, data: o.send_to_node(2, data),
    "send_to_key": lambda o, it, data: o.send_to_key(2, data),
    "send_to_service": lambda o, it, data: o.send_to_service(20, data),
    "send_to_conn": lambda o, it, data: o.send_to_conn(it.conn_id, data),
    "broadcast": lambda o, it, data: o.broadcast(data, to_service=20),
    "call": lambda o, it, data: o.call(RULE, 20, data, lambda answer: None),
    "reply": lambda o, it, data: o.reply(it.message, data),
}
#: These stay inside the node; other bounds hold for them.
LOCAL = {"send_local", "send_to_handler", "send_behavior"}
CLASSES = ("BehaviorAgent", "ConnectionAgent", "ConnectionSender", "Port", "RpcAnswer")


def ways() -> list[tuple[str, str]]:
    """Return class and name of each public method that looks like a way to send."""
    kernels = load("pure")  # tests/meta compares the twins' names
    classes = (BehaviorAgent, ConnectionAgent, ConnectionSender, kernels.Port, kernels.RpcAnswer)
    return [
        (cls.__name__, name)
        for cls in classes
        for name in dir(cls)
        if name not in LOCAL
        and (name.startswith("send") or name in ("broadcast", "call", "reply", "ok", "error"))
    ]


def test_all_classes_that_send_are_looked_at() -> None:
    assert {owner for owner, _ in ways()} == set(CLASSES)
    assert len(ways()) > 25


def is_taken(send: Callable[[], object]) -> bool:
    """Return whether a send did not raise that the queue is full."""
    try:
        send()
    except SendQueueFullError:
        return False
    return True


@pytest.fixture(params=SEND_QUEUE_POLICIES)
def it(request: pytest.FixtureRequest, backend: BackendName) -> Iterator[SimpleNamespace]:
    with cluster_of(backend, window_bytes=4_096) as cluster:
        yield prepare(cluster, backend, request.param)


def prepare(cluster: Cluster, backend: BackendName, policy: str) -> SimpleNamespace:
    """Return a node whose only neighbour reads nothing, and everything that can send to it."""
    it = SimpleNamespace(policy=policy, cluster=cluster)
    answers: list[Any] = []
    opened: dict[str, Any] = {}
    messages: list[Message] = []

    def on_rpc(agent: Any, req: Any, res: Any) -> bool:
        answers.append(res)
        return True

    spy = Spy(
        handlers="quiet",
        connected=lambda agent, conn: opened.setdefault("sender", conn) and None,
        opened=lambda agent: opened.setdefault("agent", agent),
        message=lambda agent, message: messages.append(message),
        rpc=on_rpc,
    )
    it.node = cluster.add(
        1, spy, write_high_bytes=HIGH, write_low_bytes=100, send_queue_policy=policy
    )
    other = cluster.add(2, Spy(10, handlers=None), Spy(20, handlers=None))
    it.conn_id = cluster.join(it.node, other)
    agent = other.agent(10)
    for _ in range(len(SIZES) * ROUNDS):
        agent.call(RouteRule.node(1), 10, b"", lambda answer: None, timeout_ms=600_000)
    agent.send_to_node(1, b"to be answered")
    cluster.until(lambda: len(answers) == len(SIZES) * ROUNDS and messages)
    cluster.advance(500)  # routes are known
    cluster.frozen.add(other)
    it.answers, it.message = iter(answers), messages[0]
    switch = it.node._switch
    it.objects = {
        "BehaviorAgent": it.node.agent(10),
        "ConnectionAgent": opened["agent"],
        "ConnectionSender": opened["sender"],
        "Port": load(backend).Port(switch, 10, switch.find_connection(it.conn_id)),
        "RpcAnswer": None,
    }
    return it


@pytest.mark.parametrize(("owner", "name"), ways())
def test_way_to_send_obeys_the_bound_and_the_policy(
    it: SimpleNamespace, owner: str, name: str
) -> None:
    call = CALLS.get(f"{owner}.{name}") or CALLS[name]
    target, stats, before = it.objects[owner], it.node.stats, it.node.stats()
    raised = 0
    for size in SIZES * ROUNDS:
        raised += not is_taken(partial(call, target, it, bytes(size)))
        link = it.node.connections[0]
        assert link.queued_bytes < HIGH + max(SIZES) + HEAD
        assert stats().queued_bytes <= link.queued_bytes + 4_096  # of control frames
    after = stats()
    # What was accepted waits, was lost and counted, or is the little that has left.
    few = (owner, name) == ("RpcAnswer", "error")  # its texts are short
    assert raised == after.sends_refused - before.sends_refused
    if it.policy == "error":
        assert raised > (0 if few else 100)
        assert after.dropped == 0
    elif it.policy == "close":
        assert after.queue_overflows == 1
    elif name == "broadcast":
        assert after.broadcast_copies_dropped > 100
    else:
        assert after.dropped_send_queue_full > (0 if few else 100)
    assert link.sends_dropped == after.dropped_send_queue_full + (
        after.broadcast_copies_dropped if it.policy.startswith("drop") else 0
    )
    sent = after.messages_sent - before.messages_sent
    tried = 0 if name == "broadcast" else len(SIZES * ROUNDS)
    assert sent == tried - (raised if tried else 0)


def test_way_inside_the_node_has_bounds_of_its_own(backend: BackendName) -> None:
    with cluster_of(backend) as cluster:
        node = cluster.add(1, Spy(), local_queue_bytes=4_096, max_commands=16)
        agent = node.agent(10)
        full = until_refused(lambda: agent.send_local(bytes(100)))
        assert isinstance(full, QueueFullError)
        assert full.queue == "local_queue_bytes"
        full = until_refused(lambda: agent.send_to_handler(HandlerRoute.node(2), b"event"))
        assert isinstance(full, QueueFullError)
        assert full.queue == "max_commands"


def test_link_that_is_closed_by_policy_says_so_and_comes_back(backend: BackendName) -> None:
    with cluster_of(backend, window_bytes=4_096) as cluster:
        spy = Spy()
        node = cluster.add(
            1, spy, write_high_bytes=HIGH, write_low_bytes=100, send_queue_policy="close"
        )
        other = cluster.add(2, Spy())
        addr = other.listen("/memory/deaf")
        node.connect(addr, keep=True)
        cluster.until(lambda: node.connections)
        cluster.frozen.add(other)
        sends = iter(range(1_000))
        while node.connections and next(sends) < 900:
            node.agent(10).send_to_node(2, bytes(1_000))
            cluster.settle()
        assert node.connections == ()
        assert len(spy.log.of("disconnected")) == 1
        stats = node.stats()
        assert (stats.queue_overflows, stats.links_closed) == (1, 1)
        assert stats.dropped == stats.dropped_link_closed == stats.messages_sent - 4
        cluster.frozen.clear()
        cluster.until(lambda: node.connections)
