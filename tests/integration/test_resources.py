"""What a node holds is given back: descriptors, memory, and time when there is nothing left."""

from __future__ import annotations

import gc
import socket
import sys
import weakref
from collections.abc import Iterator
from functools import partial

import pytest

from netcore import (
    BehaviorAgent,
    ConnectionHandler,
    ConnectionSender,
    Message,
    NetworkBehavior,
    Node,
    NoRouteError,
)
from netcore._backend import BackendName
from support.hosts import open_fds
from support.nodes import ANY, SECRET, SINK, Nodes, RawPeer, closed_port, linked, nodes_of, stranger
from support.processes import Processes, processes

CYCLES = 1_000


@pytest.fixture
def nodes(backend: BackendName) -> Iterator[Nodes]:
    with nodes_of(backend) as nodes:
        yield nodes


@pytest.fixture
def world() -> Iterator[Processes]:
    with processes() as world:
        yield world


class Handler(ConnectionHandler):
    """Keeps what came last."""

    def on_event(self, agent: object, event: object) -> None:
        self.last = event


class Keeper(NetworkBehavior):
    """Gives every link a handler, and knows which handlers are still alive."""

    service_id = 60

    def __init__(self) -> None:
        self.handlers: weakref.WeakSet[ConnectionHandler] = weakref.WeakSet()
        self.opened = 0

    def on_incoming_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> ConnectionHandler:
        handler = Handler()
        self.handlers.add(handler)
        self.opened += 1
        return handler

    on_outgoing_connection_connected = on_incoming_connection_connected


def connect_and_close(nodes: Nodes, times: int) -> None:
    """Let node 1 dial node 2, say something, and close, that often."""
    one, two = nodes.all[:2]
    address = two.addrs[0]
    for _ in range(times):
        one.connect(address)
        nodes.until(lambda: linked(one, two))
        one.agent(SINK).send_to_node(2, b"x", to_service=60)
        one.agent(SINK).close_node(2)
        nodes.until(lambda: not one.connections and not two.connections)
    for node in (one, two):
        for kept in (nodes.sinks[node].up, nodes.sinks[node].down, nodes.sinks[node].messages):
            kept.clear()


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "auth"])
def test_thousand_links_leave_no_descriptor_and_no_object_behind(
    nodes: Nodes, secret: bytes | None
) -> None:
    keepers = [Keeper(), Keeper()]
    nodes.add(1, keepers[0], secret=secret)
    nodes.add(2, keepers[1], secret=secret).listen(ANY)
    connect_and_close(nodes, CYCLES // 2)  # until caches and tables have their size
    gc.collect()
    gc.disable()
    try:
        fds, objects, blocks = open_fds(), len(gc.get_objects()), sys.getallocatedblocks()
        connect_and_close(nodes, CYCLES // 2)
        assert [len(keeper.handlers) for keeper in keepers] == [0, 0]
        assert open_fds() == fds
        # Without the collector: whatever a link was, its last reference went with it. Timers that
        # were cancelled go in bunches, hence the slack; one object per link would be CYCLES / 2.
        assert len(gc.get_objects()) - objects < CYCLES / 3
        assert gc.collect() < 10
        assert sys.getallocatedblocks() - blocks < CYCLES
    finally:
        gc.enable()
    assert [keeper.opened for keeper in keepers] == [CYCLES] * 2
    for node in nodes.all:
        assert node.stats().links_opened == node.stats().links_closed == CYCLES


def test_thousand_failed_dials_leave_nothing_behind(nodes: Nodes) -> None:
    one = nodes.add(1)
    sink = nodes.sinks[one]
    address = f"2@/ip4/127.0.0.1/tcp/{closed_port()}"

    def dial(times: int) -> None:
        for _ in range(times):
            one.connect(address)
            nodes.until(lambda: sink.errors)
            sink.errors.clear()

    dial(20)
    gc.collect()
    gc.disable()
    try:
        fds, objects = open_fds(), len(gc.get_objects())
        dial(CYCLES)
        assert open_fds() == fds
        assert len(gc.get_objects()) - objects < CYCLES / 3
    finally:
        gc.enable()


def has_failed(node: Node, count: int) -> bool:
    """Say whether that many incoming handshakes have failed."""
    return node.stats().handshakes_failed == count


def test_thousand_strangers_leave_nothing_behind(nodes: Nodes) -> None:
    one = nodes.add(1)
    one.listen(ANY)

    def visit(times: int) -> None:
        for _ in range(times):
            wanted = one.stats().handshakes_failed + 1
            with stranger(one) as sock:
                sock.sendall(b"GET / HTTP/1.1\r\n")
                nodes.until(partial(has_failed, one, wanted))
        nodes.until(lambda: one._host.half_open.lingering == 0)

    visit(20)
    gc.collect()
    gc.disable()
    try:
        fds, objects = open_fds(), len(gc.get_objects())
        visit(CYCLES)
        assert open_fds() == fds
        assert len(gc.get_objects()) - objects < CYCLES / 3
    finally:
        gc.enable()


@pytest.mark.parametrize("how", ["closed", "lost", "broken"])
def test_link_that_ends_in_any_way_is_freed_with_its_last_reference(nodes: Nodes, how: str) -> None:
    keeper = Keeper()
    one = nodes.add(1, keeper)
    one.listen(ANY)
    gc.collect()
    gc.disable()
    try:
        peer = RawPeer(nodes, one)
        assert len(keeper.handlers) == 1
        if how == "closed":
            one.agent(SINK).close_node(peer.node_id)
            peer.send(b"\x12\x00\x00\x02\x00\x00")
        elif how == "broken":
            peer.send(b"\x13\x00\x00\x00")
        peer.close()
        nodes.until(lambda: not one.connections)
        assert len(keeper.handlers) == 0
    finally:
        gc.enable()


class Marker:
    """Something of a caller's that must not outlive the call."""


def test_send_that_is_refused_keeps_nothing_of_its_caller(nodes: Nodes) -> None:
    agent = nodes.add(1).agent(SINK)

    def send() -> weakref.ref[Marker]:
        marker = Marker()
        with pytest.raises(NoRouteError):
            agent.send_to_node(2, b"x")
        return weakref.ref(marker)

    gc.collect()
    gc.disable()
    try:
        assert send()() is None
    finally:
        gc.enable()


def test_dial_that_became_a_link_is_freed_with_its_last_reference(nodes: Nodes) -> None:
    one, two = nodes.add(1), nodes.add(2)
    conn_id = one.connect(two.listen(ANY))
    gc.collect()
    gc.disable()
    try:
        nodes.until(lambda: conn_id in one._host._dials)
        dial = weakref.ref(one._host._dials[conn_id])
        nodes.until(lambda: linked(one, two))
        assert dial() is None
    finally:
        gc.enable()


def test_messages_kept_by_a_hook_hold_nothing_but_themselves(nodes: Nodes) -> None:
    keeper = Keeper()
    one, two = nodes.add(1), nodes.add(2, keeper)
    nodes.join(one, two)
    for _ in range(10):
        one.agent(SINK).send_to_node(2, b"x" * 100)
    nodes.until(lambda: len(nodes.sinks[two].messages) == 10)
    kept: list[Message] = nodes.sinks[two].messages
    gc.collect()
    gc.disable()
    try:
        one.agent(SINK).close_node(2)
        nodes.until(lambda: not two.connections)
        assert len(keeper.handlers) == 0
    finally:
        gc.enable()
    assert [message.payload for message in kept] == [b"x" * 100] * 10


def test_node_gives_back_every_descriptor(nodes: Nodes) -> None:
    nodes.add(0).close()
    before = open_fds()
    chain = nodes.chain(3)
    chain[0].listen(ANY)
    stranger(chain[0]).close()
    chain[0].connect(f"9@/ip4/127.0.0.1/tcp/{closed_port()}")
    assert open_fds() > before
    for node in chain:
        node.close(timeout_s=0)
    assert open_fds() == before


def test_closed_node_is_collected(backend: BackendName) -> None:
    node = Node(1, [Keeper()], backend=backend)
    node.poll(0)
    node.close()
    reference = weakref.ref(node)
    del node
    gc.collect()
    assert reference() is None


def test_links_between_processes_leave_no_descriptor_behind(
    world: Processes, backend: BackendName
) -> None:
    code = """
import os, sys
from support.hosts import open_fds
from support.nodes import Nodes, SINK
nodes = Nodes(%r)
one = nodes.add(1)
address = sys.argv[1]
def cycle():
    one.connect(address)
    nodes.until(lambda: one.connections)
    one.agent(SINK).close_node(2)
    nodes.until(lambda: not one.connections)
for _ in range(10):
    cycle()
before = open_fds()
for _ in range(1000):
    cycle()
assert open_fds() == before
nodes.close()
print("done", flush=True)
"""
    two = world.node(2, backend)
    address = two.ask("listen", addr=ANY)
    before = two.ask("fds")
    one = world.script(backend, code % backend, address)
    assert one.read() == "done"
    assert one.wait() == 0
    world.until(lambda: two.ask("links") == [])
    stats = two.ask("stats")
    assert stats["links_opened"] == stats["links_closed"] == 1_010
    assert two.ask("fds") == before


# -- no descriptors left -------------------------------------------------------------------------


def test_accept_without_descriptors_neither_spins_nor_gives_up(
    world: Processes, backend: BackendName
) -> None:
    code = """
import logging, os, resource, sys, time
from support.nodes import ANY, Nodes
logging.getLogger("netcore.host").setLevel(logging.CRITICAL)
nodes = Nodes(%r)
one = nodes.add(1, tick_ms=3_600_000, handshake_timeout_ms=600_000)
print(one.listen(ANY).endpoints[0].port, flush=True)
one.poll(0)
top = max(int(name) for name in os.listdir("/dev/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (top + 10, top + 10))
nodes.until(lambda: one.stats().accept_errors > 0)
cpu, turns, end = time.process_time(), 0, time.monotonic() + 1
errors = one.stats().accept_errors
while (left := end - time.monotonic()) > 0:
    one.poll(left)
    turns += 1
cpu = time.process_time() - cpu
errors = one.stats().accept_errors - errors
print(f"{cpu} {turns} {errors}", flush=True)
nodes.until(lambda: one.stats().half_open == 0)
print("empty", flush=True)
nodes.until(lambda: one.connections)
print("linked", flush=True)
nodes.close()
"""
    child = world.script(backend, code % backend)
    port = int(child.read())
    crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
    cpu, turns, errors = map(float, child.read().split())
    assert cpu < 0.2
    assert turns < 100
    assert 1 <= errors < 20
    for sock in crowd:
        sock.close()
    assert child.read() == "empty"
    with nodes_of(backend) as nodes:
        nodes.add(2).connect(f"1@/ip4/127.0.0.1/tcp/{port}")
        nodes.until(lambda: nodes.all[0].connections)
        assert child.read() == "linked"
