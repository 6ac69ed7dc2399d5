"""Whole nodes over real sockets in one process, turned in one thread until something is true."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from typing import Any

from netcore import (
    BehaviorAgent,
    ConnectionHandler,
    ConnectionSender,
    Message,
    NetworkBehavior,
    Node,
    OutgoingConnectionError,
    RpcAnswer,
    RpcRequest,
    wire,
)
from netcore._backend import BackendName

#: Long enough for a busy machine; a test that passes never waits for it.
DEADLINE_S = 15.0
ANY = "/ip4/127.0.0.1/tcp/0"
SECRET = b"a secret of 23 bytes ok"
OTHER_SECRET = b"another one of 24 bytes."

ECHO = 10
SINK = 12
ADDER = 20


class Echo(NetworkBehavior):
    """Sends everything back."""

    service_id = ECHO

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        agent.reply(message, message.payload)


class Sink(NetworkBehavior):
    """Keeps what it is told."""

    service_id = SINK

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.up: list[ConnectionSender] = []
        self.down: list[ConnectionSender] = []
        self.errors: list[tuple[int | None, int, OutgoingConnectionError]] = []
        self.started = self.stopped = 0

    def on_started(self, agent: BehaviorAgent) -> None:
        self.started += 1

    def on_stopped(self, agent: BehaviorAgent) -> None:
        self.stopped += 1

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        self.messages.append(message)

    def on_incoming_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> ConnectionHandler | None:
        self.up.append(conn)
        return None

    on_outgoing_connection_connected = on_incoming_connection_connected

    def on_incoming_connection_disconnected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        self.down.append(conn)

    on_outgoing_connection_disconnected = on_incoming_connection_disconnected

    def on_outgoing_connection_error(
        self, agent: BehaviorAgent, node_id: int | None, conn_id: int, err: OutgoingConnectionError
    ) -> None:
        self.errors.append((node_id, conn_id, err))

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.messages]

    @property
    def error(self) -> OutgoingConnectionError:
        """The one failure that there is."""
        assert len(self.errors) == 1, self.errors
        return self.errors[0][2]


class Adder(NetworkBehavior):
    """Adds numbers."""

    service_id = ADDER

    def on_rpc(self, agent: BehaviorAgent, req: RpcRequest, res: RpcAnswer) -> bool:
        res.ok(str(sum(map(int, req.payload.split()))).encode())
        return True


class Nodes:
    """Nodes of one test; all are closed with it."""

    def __init__(self, backend: BackendName) -> None:
        self.backend = backend
        self.all: list[Node] = []
        self.sinks: dict[Node, Sink] = {}
        self.strangers: list[socket.socket] = []  # closed with the nodes

    def add(self, node_id: int, *behaviors: NetworkBehavior, **options: Any) -> Node:
        """Return a node with these behaviors beside Echo, Sink and Adder."""
        options.setdefault("backend", self.backend)
        sink = Sink()
        node = Node(node_id, [Echo(), sink, Adder(), *behaviors], **options)
        self.all.append(node)
        self.sinks[node] = sink
        return node

    def chain(self, count: int, **options: Any) -> list[Node]:
        """Return nodes 1, 2, ... each of which dialled the one before."""
        nodes = [self.add(node_id, **options) for node_id in range(1, count + 1)]
        for left, right in pairwise(nodes):
            right.connect(left.listen(ANY))
        self.until(lambda: all(n.router.path_to_node(count).is_next for n in nodes[:-1]))
        self.until(lambda: all(n.router.path_to_node(1).is_next for n in nodes[1:]))
        return nodes

    def turn(self) -> None:
        """Turn every node once; wait a little when nobody had anything to do."""
        living = [node for node in self.all if not node.closed]
        if not sum(node.poll(0) for node in living):
            living = [node for node in living if not node.closed]  # by a hook
            select.select([node.fileno() for node in living], [], [], 0.01)

    def until(self, condition: Callable[[], object], seconds: float = DEADLINE_S) -> None:
        """Turn the nodes until the condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            self.turn()

    def settle(self, turns: int = 50) -> None:
        """Turn the nodes a while, so that what must not happen would have."""
        for _ in range(turns):
            self.turn()

    def join(self, one: Node, other: Node, address: str = ANY) -> None:
        """Link two nodes."""
        one.connect(other.listen(address))
        self.until(lambda: linked(one, other))

    def send_until_echoed(self, node: Node, to: int, payloads: list[bytes]) -> list[bytes]:
        """Send all to a node's Echo, as fast as the queue allows; return what came back."""
        sink, agent = self.sinks[node], node.agent(SINK)
        before = len(sink.messages)
        for payload in payloads:
            agent.send_to_node(to, payload, to_service=ECHO)
            self.until(lambda: _queued(node) < 500_000)
        self.until(lambda: len(sink.messages) == before + len(payloads), 3 * DEADLINE_S)
        return sink.payloads[before:]

    def close(self) -> None:
        for node in self.all:
            node.close(timeout_s=0)
        for sock in self.strangers:
            sock.close()


def _queued(node: Node) -> int:
    return sum(link.queued_bytes for link in node.connections)


def linked(one: Node, other: Node) -> bool:
    """Say whether both ends have the link and neither closes it."""
    return _has_link(one, other) and _has_link(other, one)


def _has_link(node: Node, other: Node) -> bool:
    return any(
        link.remote_node_id == other.node_id and not link.closing for link in node.connections
    )


@contextmanager
def nodes_of(backend: BackendName) -> Iterator[Nodes]:
    """Close the nodes in the end."""
    with closing(Nodes(backend)) as nodes:
        yield nodes


def has_ipv6() -> bool:
    """Say whether this machine has ::1."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def closed_port() -> int:
    """Return a port of 127.0.0.1 where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def tcp_address(node: Node) -> tuple[str, int]:
    """Return where a node listens, for a bare socket."""
    endpoint = node.addrs[0].endpoints[0]
    return endpoint.host, endpoint.port


def stranger(node: Node) -> socket.socket:
    """Return a bare connection to a node."""
    return socket.create_connection(tcp_address(node), timeout=5)


def frame(kind: int, body: bytes) -> bytes:
    """Return a frame, its length taken from the body."""
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def open_hello(node_id: int, *, epoch: int = 99) -> bytes:
    """Return the HELLO of an initiator without a secret."""
    # NETC, versions 1..1, level open, no flags, node id, expected any, epoch, link 1, 1 MiB frames,
    # nonce, key id.
    body = (
        b"NETC\x01\x01" + bytes([wire.LEVEL_OPEN]) + b"\x00\x00"
        + node_id.to_bytes(4, "big") + b"\xff" * 4 + epoch.to_bytes(8, "big")
        + b"\x00\x00\x00\x01" + b"\x00\x10\x00\x00" + b"\x5a" * 32 + bytes(4)
    )  # fmt: skip
    return frame(wire.KIND_HELLO, body)


class RawPeer:
    """The far end of a link, played by a bare socket at level open."""

    def __init__(self, nodes: Nodes, node: Node, node_id: int = 66) -> None:
        self.sock = stranger(node)
        self.node_id = node_id
        self.sock.sendall(open_hello(node_id) + frame(wire.KIND_AUTH, b""))
        nodes.until(lambda: any(c.remote_node_id == node_id for c in node.connections))

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def close(self) -> None:
        self.sock.close()
