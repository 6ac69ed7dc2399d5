"""Lab: a simulated network whose routes and routing messages are written down.

Facts first:

- Links have random latencies, so that best paths are rarely as good as others and every one has a
  length of its own. Round trips are even numbers of ms: nothing is rounded.
- A *change* is a best path that is another one, in score or first hop, or is gone; a new alternate
  is none. A *cause* is a link that came, went or got another metric at one of its ends.
- A routing message costs what it takes in the stream: head of the frame, header, payload.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Final, final

from netcore import BehaviorAgent, LayeredRouter, Message, NetworkBehavior, wire
from netcore.route import Metric
from netcore.services import sync_losses
from netcore.services.sync_wire import Delta, Full, Lost, decode
from netcore.sim import Network
from netcore.sim.paths import Quality
from netcore.sim.streams import End
from tools.sim.oracle import Best, best_paths
from tools.sim.tap import Direction

__all__ = ["Change", "Lab", "Traffic", "without_losses"]

TALK: Final = 10  # the service whose messages are counted
DEGREE: Final = 4.0
LATENCIES_MS: Final = (1, 10)  # one way
QUIET_MS: Final = 4_000  # a round trip is measured every second, and a change by three of them
HEAD_BYTES: Final = wire.FRAME_HEADER_BYTES + 8  # of a direct message

#: (when, node, place, score or None, first hop)
Change = tuple[int, int, int, int | None, int]


@final
@dataclass(slots=True)
class Traffic:
    """Routing messages of a while.

    Attributes:
        items: Announced and withdrawn entries, and losses.
        size: Bytes of the messages that carry them.
        digests: Bytes of all other ones.
    """

    items: int = 0
    size: int = 0
    digests: int = 0


@final
class Talker(NetworkBehavior):
    """Sends when told to, and counts."""

    service_id = TALK

    def __init__(self) -> None:
        self.agent: BehaviorAgent | None = None
        self.received = 0

    def on_started(self, agent: BehaviorAgent) -> None:
        """Keep the agent."""
        self.agent = agent

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Count a message."""
        self.received += 1


@final
@dataclass(slots=True)
class _Log:
    """What routers have done."""

    network: Network | None = None
    changes: list[Change] = field(default_factory=list)
    causes: list[tuple[int, int, int]] = field(default_factory=list)  # when, node, neighbour

    @property
    def now_ms(self) -> int:
        return 0 if self.network is None else self.network.now_ms


class _Watched(LayeredRouter):
    """A router that writes down what it does; its table is asked as always."""

    def __init__(self, node_id: int, log: _Log) -> None:
        self._log = log
        self._last: dict[int, tuple[int, int]] = {}
        self._direct: dict[int, tuple[int, Metric]] = {}
        super().__init__(node_id)

    def _write(self, place: int) -> None:
        super()._write(place)
        best = self.chosen(place)[0]
        now = None if best is None else (best.metric.score, best.node_id)
        if now == self._last.get(place):
            return
        if now is None:
            del self._last[place]
        else:
            self._last[place] = now
        score, hop = now or (None, -1)
        self._log.changes.append((self._log.now_ms, self.node_id, place, score, hop))

    def set_direct(self, conn_id: int, node_id: int, metric: Metric) -> None:
        if self._direct.get(conn_id) != (node_id, metric):
            self._direct[conn_id] = node_id, metric
            self._log.causes.append((self._log.now_ms, self.node_id, node_id))
        super().set_direct(conn_id, node_id, metric)

    def direct_ms(self, conn_id: int) -> int:
        """Return what a link counts as."""
        return self._direct[conn_id][1].latency_ms

    def best_hop(self, dest: int) -> int | None:
        """Return the neighbour over which messages to a node go."""
        best = self.chosen(dest)[0]
        return None if best is None else best.node_id

    def del_direct(self, conn_id: int) -> None:
        known = self._direct.pop(conn_id, None)
        if known is not None:
            self._log.causes.append((self._log.now_ms, self.node_id, known[0]))
        super().del_direct(conn_id)


@final
class Lab:
    """A random network, settled.

    Args:
        seed: Of everything.
        nodes: At most 256: their ids are 0, 1, 2 ...

    Attributes:
        network: The network.
        rng: For choices.
        traffic: What the routing messages were since ``clear``.
    """

    def __init__(self, seed: int, nodes: int) -> None:
        self.rng = Random(f"{seed}/lab")
        self._log = _Log()
        self.network = self._log.network = Network(seed)
        self.traffic = Traffic()
        self._streams: dict[End, Direction] = {}
        for node_id in range(nodes):
            self.network.add_node(
                node_id, [Talker], router=lambda node_id: _Watched(node_id, self._log)
            )
        self.network.topology.random(range(nodes), degree=DEGREE)
        for link in self.network.links:
            self.set_latency(link.a, link.b, self.rng.randint(*LATENCIES_MS))
        self.network._fabric.tap = self._on_bytes
        self.settle()

    def settle(self) -> None:
        """Wait until every link is up and measured, and nothing changes."""
        self.network.settle()
        while self.network.now_ms - self.last_cause_ms < QUIET_MS or self._is_suspicious():
            self.network.run(500)

    def _is_suspicious(self) -> bool:
        nodes = [self.network.node(node_id) for node_id in self.routers()]
        return any(link.suspect or link.closing for node in nodes for link in node.connections)

    def clear(self) -> None:
        """Forget what was written down."""
        self._log.changes.clear()
        self._log.causes.clear()
        self.traffic = Traffic()

    @property
    def changes(self) -> list[Change]:
        """Since ``clear``."""
        return self._log.changes

    @property
    def causes(self) -> list[tuple[int, int, int]]:
        """Since ``clear``: when, at which node, the link to which neighbour."""
        return self._log.causes

    @property
    def last_cause_ms(self) -> int:
        """When a link changed last, as far as that is known."""
        return self.causes[-1][0] if self.causes else 0

    def set_latency(self, a: int, b: int, latency_ms: int) -> None:
        """Make a link slower or faster; one way."""
        quality = Quality(latency_ms=latency_ms)
        self.network.path(a, b).quality = self.network.path(b, a).quality = quality

    def send(self, source: int, dest: int) -> bool:
        """Send a message to a node; return whether it was taken."""
        if not self.network.is_running(source):
            return False
        agent = self.network.behavior(source, Talker).agent
        try:
            assert agent is not None
            agent.send_to_node(dest, b"")
        except Exception:  # there is no way: that is what is counted elsewhere
            return False
        return True

    # -- what there is to see ----------------------------------------------------------------------

    def routers(self) -> dict[int, _Watched]:
        """Return the routers of the nodes that run."""
        found = {}
        for node_id in self.network.node_ids:
            if self.network.is_running(node_id):
                router = self.network.node(node_id).router
                assert isinstance(router, _Watched)
                found[node_id] = router
        return found

    def oracle(self) -> dict[int, dict[int, Best]]:
        """Return node -> node -> the best path there is, by Dijkstra over what links cost now."""
        metrics: dict[int, dict[int, int]] = {}
        for node_id, router in self.routers().items():
            metrics[node_id] = {peer: metric.latency_ms for peer, metric in router._direct.values()}
        services: dict[int, tuple[int, ...]] = dict.fromkeys(metrics, ())
        return {
            node_id: {index: best for (_, index), best in found.items()}
            for node_id, found in best_paths(metrics, services).items()
        }

    def told(self) -> dict[tuple[int, int], dict[int, Metric]]:
        """Return what each node announces to each of its neighbours."""
        return {
            (node_id, peer): router.announcements(peer)
            for node_id, router in self.routers().items()
            for peer in {peer for peer, _ in router._direct.values()}
        }

    def _on_bytes(self, end: End, data: bytes) -> None:
        direction = self._streams.get(end)
        if direction is None:
            direction = self._streams[end] = Direction(secret=False)
        for kind, body in direction.take(data):
            # flags, TTL, from_service, to_service
            if kind == wire.KIND_MESSAGE and body[3] == wire.SERVICE_ROUTER_SYNC:
                self._count(body)

    def _count(self, body: bytes) -> None:
        message = decode(body[8:])
        size = len(body) + wire.FRAME_HEADER_BYTES
        if isinstance(message, Full | Delta):
            self.traffic.items += len(message.entries)
            self.traffic.size += size
        elif isinstance(message, Lost):
            self.traffic.items += len(message.entries) + len(message.losses)
            self.traffic.size += size
        else:
            self.traffic.digests += size


@contextmanager
def without_losses(is_so: bool) -> Iterator[None]:
    """Let nobody name lost links, to see what that is worth."""
    name = sync_losses.Losses.name
    if is_so:
        sync_losses.Losses.name = lambda self, hop, now_ms: False  # type: ignore[method-assign]
    try:
        yield
    finally:
        sync_losses.Losses.name = name  # type: ignore[method-assign]
