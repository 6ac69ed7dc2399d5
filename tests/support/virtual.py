"""Nodes on one virtual clock, joined by memory links; and behaviors that write down their hooks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from netcore import (
    ConnectionHandler,
    ConnectionStats,
    LocalError,
    MemoryNetwork,
    MemoryTransport,
    NetworkBehavior,
    Node,
    OutgoingConnectionError,
    _backend,
)
from netcore._backend import BackendName
from netcore.routing import RouterTable
from support.hosts import FakeHost

#: More turns than any test needs to come to rest.
MAX_TURNS = 20_000

Reaction = Callable[..., Any]


# -- time and nodes ------------------------------------------------------------------------------


class Cluster:
    """Nodes that share one clock, which stands still until ``advance``.

    Their links are in memory, or unix sockets when there is a ``folder`` for them.

    Attributes:
        now_ms: The time of all nodes.
        nodes: Every node ever added, also closed ones.
        peers: Strangers that speak bytes.
        frozen: Those that get no turns: silent, with their sockets open.
        caught: Where interrupts that come out of a node go; None: out of ``settle``.
    """

    def __init__(
        self,
        backend: BackendName,
        *,
        seed: int = 0,
        latency_ms: int = 0,
        window_bytes: int = 256 * 1024,
        folder: Path | None = None,
    ) -> None:
        self.backend = backend
        self._folder = folder
        self.network = MemoryNetwork(latency_ms, window_bytes)
        self.now_ms = 1_000_000
        self.nodes: list[Node] = []
        self.peers: list[RawPeer] = []
        self.frozen: set[Node] = set()
        self.caught: list[BaseException] | None = None
        self._seed = seed * 1_000

    def add(
        self,
        node_id: int,
        *behaviors: NetworkBehavior,
        backend: BackendName | None = None,
        router: RouterTable | None = None,
        listen: bool = True,
        **config: Any,
    ) -> Node:
        """Add a node; it listens under a name of its own."""
        self._seed += 1
        name = f"n{node_id}-{self._seed}"
        address = f"/memory/{name}" if self._folder is None else f"/unix{self._folder / name}"
        node = Node(
            node_id,
            behaviors,
            router,
            [MemoryTransport(self.network, name)] if self._folder is None else None,
            backend=self.backend if backend is None else backend,
            clock_ms=lambda: self.now_ms,
            rng=random.Random(self._seed),
            **config,
        )
        if listen:
            node.listen(address)
        self.nodes.append(node)
        return node

    def dial(self, one: Node, other: Node, *, parallel: bool = False) -> int:
        """Dial from one node to another and return the conn id; nothing has happened yet."""
        return one.connect(other.addrs[0], parallel=parallel)

    def join(self, one: Node, other: Node, *, parallel: bool = False) -> int:
        """Dial, wait until the link is up at both ends, and return the dialler's conn id."""
        conn_id = self.dial(one, other, parallel=parallel)
        self.until(lambda: any(link.conn_id == conn_id for link in one.connections))
        self.settle()
        return conn_id

    def chain(self, *nodes: Node) -> None:
        """Join neighbours in this order and let the routes spread."""
        for one, other in pairwise(nodes):
            self.join(one, other)
        self.advance(500)

    def set_latency(self, one: Node, other: Node, latency_ms: int) -> None:
        """Set how long it takes from one node to the other, one way; not over unix sockets."""
        a, b = (str(node.addrs[0].endpoints[0]).rpartition("/")[2] for node in (one, other))
        self.network.set_latency(a, b, latency_ms)

    # -- time --------------------------------------------------------------------------------------

    def awake(self) -> list[Node]:
        """Return the nodes that get turns."""
        return [node for node in self.nodes if not node.closed and node not in self.frozen]

    def settle(self) -> None:
        """Give every node turns until nothing is left to do at this moment."""
        for _ in range(MAX_TURNS):
            busy = sum(self._turn(node) for node in self.awake())  # each of them, every round
            if not busy + sum(peer.turn() for peer in self.peers):
                return
        raise AssertionError("the nodes do not come to rest")

    def _turn(self, node: Node) -> bool:
        if node.closed:  # by what another node did in this round
            return False
        busy = node.next_deadline_ms() == 0
        try:
            return node.poll(0) > 0 or busy
        except (KeyboardInterrupt, SystemExit) as exc:
            if self.caught is None:
                raise
            self.caught.append(exc)
            return True

    def advance(self, ms: int) -> None:
        """Let time pass: from one deadline of any node to the next."""
        end_ms = self.now_ms + ms
        while True:
            self.settle()
            due_ms = self._due_ms()
            if due_ms is None or self.now_ms + due_ms > end_ms:
                break
            self.now_ms += due_ms
        self.now_ms = end_ms
        self.settle()

    def until(self, condition: Callable[[], object], limit_ms: int = 60_000) -> None:
        """Let time pass until the condition holds."""
        end_ms = self.now_ms + limit_ms
        self.settle()
        while not condition():
            due_ms = self._due_ms()
            assert due_ms is not None, "nothing will ever happen"
            assert self.now_ms + due_ms <= end_ms, "it did not happen in time"
            self.now_ms += due_ms
            self.settle()

    def _due_ms(self) -> int | None:
        dues = [node.next_deadline_ms() for node in self.awake()]
        dues += [peer.loop.next_deadline_ms() for peer in self.peers]
        return min((due for due in dues if due is not None), default=None)

    # -- the end -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Close every node; each gets its hooks."""
        for node in self.nodes:
            node.close(0)
        for peer in self.peers:
            peer.loop.close()

    def total(self, counter: str) -> int:
        """Return the sum of a counter over all nodes."""
        return sum(int(getattr(node.stats(), counter)) for node in self.nodes)

    def assert_nothing_lost(self) -> None:
        """Check that every message that was sent was delivered or is in a drop counter."""
        sent, delivered = self.total("messages_sent"), self.total("messages_delivered")
        assert sent == delivered + self.total("dropped"), [n.stats().as_dict() for n in self.nodes]


class RawPeer:
    """The other end of a link, in the hands of a test: it shakes hands and then sends any bytes.

    Attributes:
        received: Every byte of the node after the handshake.
        ended: Whether the node ended its stream.
    """

    def __init__(self, cluster: Cluster, node_id: int, target: Node) -> None:
        self.loop = _backend.load(cluster.backend).Loop(clock=lambda: cluster.now_ms)
        self._host = FakeHost(self.loop, node_id, [MemoryTransport(cluster.network, f"p{node_id}")])
        self._host.dial(str(target.addrs[0].endpoints[0]), node=target.node_id)
        self.received = bytearray()
        self.ended = False
        cluster.peers.append(self)
        cluster.until(lambda: self._host.up)
        channel = self._host.up[0].stream.channel
        assert channel is not None
        self._channel = channel
        channel.set_target(self)
        cluster.settle()

    def write(self, data: bytes) -> int:
        """Send bytes; returns how many the channel took."""
        return self._channel.write(data)

    def frame(self, kind: int, body: bytes) -> None:
        """Send one frame."""
        self.write(bytes([kind]) + len(body).to_bytes(3, "big") + body)

    def end(self) -> None:
        """End the stream without a word."""
        self._channel.close()

    def stop_reading(self) -> None:
        """Leave what comes where it is."""
        self._channel.set_target(None)

    def turn(self) -> bool:
        busy = self.loop.next_deadline_ms() == 0
        served: int = self.loop.run_once(0)
        return served > 0 or bool(busy)

    def receive_data(self, data: bytes) -> None:
        self.received += data

    def receive_eof(self) -> None:
        self.ended = True

    def channel_writable(self) -> None:
        pass


@contextmanager
def cluster_of(backend: BackendName, **options: Any) -> Iterator[Cluster]:
    """Make a cluster and close it."""
    cluster = Cluster(backend, **options)
    try:
        yield cluster
    finally:
        cluster.frozen.clear()
        cluster.close()


# -- behaviors that write down -------------------------------------------------------------------


class Entry(NamedTuple):
    """One call of one hook.

    Attributes:
        hook: See ``Spy``.
        service: Whose.
        conn: The link it is about, if it is about one.
        detail: What it got.
    """

    hook: str
    service: int
    conn: int | None = None
    detail: Any = None


class Log:
    """The hook calls of one node, in order.

    Attributes:
        entries: All of them.
        deepest: How many hooks ran at a time; more than 1 would be re-entrant.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.deepest = 0
        self._depth = 0

    def run(self, entry: Entry, reaction: Reaction | None, *args: object) -> Any:
        """Write a call down and react."""
        self.entries.append(entry)
        self._depth += 1
        self.deepest = max(self.deepest, self._depth)
        try:
            return None if reaction is None else reaction(*args)
        finally:
            self._depth -= 1

    def wrap(self, hook: str, reaction: Reaction | None = None) -> Reaction:
        """Return a callback (for ``on_done``, ``call_later``, ``post``) that writes itself down."""

        def callback(*args: object) -> Any:
            return self.run(Entry(hook, -1, None, args[0] if args else None), reaction, *args)

        return callback

    def of(self, *hooks: str, service: int | None = None, conn: int | None = None) -> list[Entry]:
        """Return the calls of these hooks."""
        return [
            entry
            for entry in self.entries
            if entry.hook in hooks
            and service in (None, entry.service)
            and conn in (None, entry.conn)
        ]

    def details(self, *hooks: str, service: int | None = None) -> list[Any]:
        """Return what these hooks got."""
        return [entry.detail for entry in self.of(*hooks, service=service)]

    def order(self, *but: str) -> list[tuple[str, int]]:
        """Return (hook, service) of all calls except these hooks, ticks and measurements."""
        noise = {"tick", "link_tick", "measured", *but}
        return [(entry.hook, entry.service) for entry in self.entries if entry.hook not in noise]

    def errors(self) -> list[OutgoingConnectionError]:
        """Return what ``on_outgoing_connection_error`` got, once per behavior."""
        return self.details("error")


def on(hook: str, reaction: Reaction) -> dict[str, Any]:
    """Return what ``Spy`` takes, where the hook is a variable: ``Spy(**on(hook, reaction))``."""
    return {hook: reaction}


def until_refused(send: Callable[[], object]) -> Any:
    """Send until that raises a LocalError, and return it."""
    try:
        for _ in range(1_000_000):
            send()
    except LocalError as err:
        return err
    raise AssertionError("there is no bound")


class Spy(NetworkBehavior):
    """A behavior that writes every hook down and then does what the test wants.

    Hooks, as they are called in the log and in ``reactions``: started, stopped, tick, check_in,
    check_out, connected, disconnected, error, writable, from_handler, message, rpc; of its
    handlers: opened, link_tick, event, measured, from_other, from_behavior, closed.

    Args:
        service_id: 0..239.
        log: Shared by the behaviors of a node.
        handlers: "all": on every link one that overrides all hooks; "quiet": one that leaves
            messages to ``on_message``; None: none.
        reactions: By hook; each gets what the hook gets.
    """

    def __init__(
        self,
        service_id: int = 10,
        log: Log | None = None,
        *,
        handlers: str | None = "all",
        **reactions: Reaction,
    ) -> None:
        self.service_id = service_id
        self.log = Log() if log is None else log
        self.handlers = handlers
        self.reactions = reactions

    def note(self, hook: str, conn: int | None, detail: object, *args: object) -> Any:
        entry = Entry(hook, self.service_id, conn, detail)
        return self.log.run(entry, self.reactions.get(hook), *args)

    def on_started(self, agent: Any) -> None:
        self.note("started", None, None, agent)

    def on_stopped(self, agent: Any) -> None:
        self.note("stopped", None, None, agent)

    def on_tick(self, agent: Any, ts_ms: int, interval_ms: int) -> None:
        self.note("tick", None, ts_ms, agent, ts_ms, interval_ms)

    def check_incoming_connection(self, node: int, conn_id: int) -> None:
        self.note("check_in", conn_id, node, node, conn_id)

    def check_outgoing_connection(self, node: int | None, conn_id: int) -> None:
        self.note("check_out", conn_id, node, node, conn_id)

    def _connected(self, agent: Any, conn: Any, direction: str) -> ConnectionHandler | None:
        made: ConnectionHandler | None = self.note(
            "connected", conn.conn_id, direction, agent, conn
        )
        if made is not None or self.handlers is None:
            return made
        return SpyHandler(self) if self.handlers == "all" else QuietHandler(self)

    def on_incoming_connection_connected(self, agent: Any, conn: Any) -> ConnectionHandler | None:
        return self._connected(agent, conn, "in")

    def on_outgoing_connection_connected(self, agent: Any, conn: Any) -> ConnectionHandler | None:
        return self._connected(agent, conn, "out")

    def on_incoming_connection_disconnected(self, agent: Any, conn: Any) -> None:
        self.note("disconnected", conn.conn_id, "in", agent, conn)

    def on_outgoing_connection_disconnected(self, agent: Any, conn: Any) -> None:
        self.note("disconnected", conn.conn_id, "out", agent, conn)

    def on_outgoing_connection_error(
        self, agent: Any, node_id: int | None, conn_id: int, err: OutgoingConnectionError
    ) -> None:
        self.note("error", conn_id, err, agent, node_id, conn_id, err)

    def on_connection_writable(self, agent: Any, conn: Any) -> None:
        self.note("writable", conn.conn_id, None, agent, conn)

    def on_handler_event(self, agent: Any, node_id: int, conn_id: int, event: object) -> None:
        self.note("from_handler", conn_id, event, agent, node_id, conn_id, event)

    def on_message(self, agent: Any, message: Any) -> None:
        self.note("message", None, message.payload, agent, message)

    def on_rpc(self, agent: Any, req: Any, res: Any) -> bool:
        return bool(self.note("rpc", None, req.payload, agent, req, res))


class QuietHandler(ConnectionHandler):
    """Writes down that it was opened and closed."""

    def __init__(self, spy: Spy) -> None:
        self.spy = spy

    def on_opened(self, agent: Any) -> None:
        self.spy.note("opened", agent.conn_id, None, agent)

    def on_closed(self, agent: Any) -> None:
        self.spy.note("closed", agent.conn_id, None, agent)


class SpyHandler(QuietHandler):
    """Writes everything down."""

    def on_tick(self, agent: Any, ts_ms: int, interval_ms: int) -> None:
        self.spy.note("link_tick", agent.conn_id, ts_ms, agent, ts_ms, interval_ms)

    def on_event(self, agent: Any, event: Any) -> None:
        if isinstance(event, ConnectionStats):
            self.spy.note("measured", agent.conn_id, event, agent, event)
        else:
            self.spy.note("event", agent.conn_id, event.payload, agent, event)

    def on_other_handler_event(
        self, agent: Any, from_node: int, from_conn: int, event: object
    ) -> None:
        self.spy.note("from_other", agent.conn_id, event, agent, from_node, from_conn, event)

    def on_behavior_event(self, agent: Any, event: object) -> None:
        self.spy.note("from_behavior", agent.conn_id, event, agent, event)


# -- what must hold for every log ----------------------------------------------------------------

_STAGES = {
    "check_in": 0, "check_out": 0, "connected": 1, "opened": 2, "link_tick": 3, "event": 3,
    "measured": 3, "from_other": 3, "from_behavior": 3, "writable": 3, "closed": 4,
    "disconnected": 5,
}  # fmt: skip


def check_log(
    log: Log, services: Sequence[int], *, dialled: Iterable[int] = (), closed: bool = True
) -> None:
    """Check what holds for every node whatever happens to it.

    Args:
        log: Of all its behaviors, each a ``Spy`` with handlers "all".
        services: Their ids, ascending.
        dialled: Every conn id that ``connect`` returned.
        closed: Whether the node was closed, so that every link has ended.
    """
    assert log.deepest <= 1, "a hook ran inside another"
    each = list(services)
    assert [e.service for e in log.of("started")] == each
    assert [e.hook for e in log.entries[: len(each)]] == ["started"] * len(each)
    if closed:
        assert [e.service for e in log.of("stopped")] == each
        assert [e.hook for e in log.entries[-len(each) :]] == ["stopped"] * len(each)
    for conn_id in {entry.conn for entry in log.entries if entry.conn is not None}:
        _check_link([e for e in log.entries if e.conn == conn_id], each, closed)
    for conn_id in dialled:
        ends = [e.hook for e in log.of("connected", "error", conn=conn_id)]
        if closed or ends:
            assert ends in (["connected"] * len(each), ["error"] * len(each)), (conn_id, ends)


def _check_link(entries: list[Entry], services: list[int], closed: bool) -> None:
    stage = 0
    for entry in entries:
        if entry.hook == "from_handler":
            assert stage in (2, 3, 4), entries
        elif entry.hook == "error":
            assert stage == 0, entries
        else:
            assert _STAGES[entry.hook] >= stage, entries
            stage = _STAGES[entry.hook]
    if stage == 0:
        return  # it never came up
    expected = ["connected", "opened", "closed", "disconnected"]
    for hook in expected if closed or stage == 5 else expected[:2]:
        assert [e.service for e in entries if e.hook == hook] == services, (hook, entries)
