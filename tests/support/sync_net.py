"""RouterSyncServices wired by fake agents, on one manual clock."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import cast

from netcore import wire
from netcore._backend import kernels
from netcore.agent import BehaviorAgent, ConnectionAgent, ConnectionSender
from netcore.behavior import ConnectionHandler
from netcore.errors import SendQueueFullError
from netcore.routing import LayeredRouter
from netcore.services.router_sync import RouterSyncService
from netcore.stats import ConnectionStats


@dataclass
class Timer:
    """What ``call_later`` returns."""

    fn: Callable[[], object]
    active: bool = True

    def cancel(self) -> None:
        self.active = False


class Clock:
    """Time that passes when told to; what is due runs in order."""

    def __init__(self) -> None:
        self.now_ms = 0
        self._due: list[tuple[int, int, Timer]] = []
        self._number = 0

    def call_later(self, delay_ms: int, fn: Callable[[], object]) -> Timer:
        timer = Timer(fn)
        self._number += 1
        heapq.heappush(self._due, (self.now_ms + delay_ms, self._number, timer))
        return timer

    def advance(self, ms: int) -> None:
        end_ms = self.now_ms + ms
        while self._due and self._due[0][0] <= end_ms:
            self.now_ms, _, timer = heapq.heappop(self._due)
            if timer.active:
                timer.active = False
                timer.fn()
        self.now_ms = end_ms


@dataclass
class FakeBehaviorAgent:
    """As much of a BehaviorAgent as the service uses."""

    clock: Clock

    @property
    def now_ms(self) -> int:
        return self.clock.now_ms

    def call_later(self, delay_ms: int, fn: Callable[[], object]) -> Timer:
        return self.clock.call_later(delay_ms, fn)


@dataclass
class FakeLinkAgent(FakeBehaviorAgent):
    """As much of a ConnectionAgent as the handler uses, and a record of what it was asked.

    ``lose`` decides about each payload whether it gets lost on its way.
    """

    conn_id: int
    remote_node_id: int
    rtt_ms: float | None = None
    is_open: bool = True
    sent: list[bytes] = field(default_factory=list)
    closed: bool = False
    is_full: bool = False
    deliver: Callable[[bytes], None] | None = None
    lose: Callable[[bytes], bool] = lambda payload: False

    def send(self, payload: bytes) -> None:
        if self.is_full:
            raise SendQueueFullError(self.conn_id, 9, 9)
        self.sent.append(payload)
        if self.deliver is not None and not self.lose(payload):
            self.deliver(payload)

    def close_conn(self) -> None:
        self.closed = True

    def take(self) -> list[bytes]:
        """Return what was sent since the last call."""
        sent, self.sent = self.sent, []
        return sent


@dataclass
class End:
    """One end of a link: the handler there, and its agent."""

    agent: FakeLinkAgent
    handler: ConnectionHandler

    def open(self) -> None:
        self.handler.on_opened(cast(ConnectionAgent, self.agent))

    def close(self) -> None:
        self.handler.on_closed(cast(ConnectionAgent, self.agent))

    def event(self, event: kernels.Message | ConnectionStats) -> None:
        self.handler.on_event(cast(ConnectionAgent, self.agent), event)

    def receive(self, payload: bytes) -> None:
        """Take a payload in from the neighbour."""
        self.event(
            kernels.Message(
                payload,
                from_node=self.agent.remote_node_id,
                from_service=wire.SERVICE_ROUTER_SYNC,
                to_service=wire.SERVICE_ROUTER_SYNC,
                sender_verified=True,
            )
        )

    def measure(
        self, rtt_ms: float | None = None, *, suspect: bool = False, writable: bool = True
    ) -> None:
        """Report measurements."""
        self.event(
            ConnectionStats(
                conn_id=self.agent.conn_id,
                remote_node_id=self.agent.remote_node_id,
                rtt_ms=rtt_ms,
                suspect=suspect,
                writable=writable,
            )
        )


class Member:
    """One node: its router and its service."""

    def __init__(self, node: int, clock: Clock) -> None:
        self.clock = clock
        self.router = LayeredRouter(node)
        self.service = RouterSyncService(self.router, Random(node))
        self.agent = cast(BehaviorAgent, FakeBehaviorAgent(clock))
        self.service.on_started(self.agent)

    def new_end(self, conn_id: int, node: int, rtt_ms: float | None = None) -> End:
        """Return this node's end of a new link, not opened yet."""
        agent = FakeLinkAgent(self.clock, conn_id, node, rtt_ms)
        conn = cast(ConnectionSender, agent)
        if conn_id & 1:
            return End(agent, self.service.on_incoming_connection_connected(self.agent, conn))
        return End(agent, self.service.on_outgoing_connection_connected(self.agent, conn))


class SyncNet:
    """Members joined by links of some latency."""

    def __init__(self, nodes: list[int]) -> None:
        self.clock = Clock()
        self.members = {node: Member(node, self.clock) for node in nodes}
        self.ends: dict[tuple[int, int], End] = {}
        self._conns = 0

    def join(
        self, a: int, b: int, rtt_ms: float | None = 2, rtt_back_ms: float | None = None
    ) -> None:
        """Open a link; ``rtt_back_ms`` is what b measures, if not the same."""
        self._conns += 2
        back_ms = rtt_ms if rtt_back_ms is None else rtt_back_ms
        one = self.members[a].new_end(self._conns, b, rtt_ms)
        other = self.members[b].new_end(self._conns + 1, a, back_ms)
        one.agent.deliver = self._wire(other, int((rtt_ms or 0) / 2))
        other.agent.deliver = self._wire(one, int((rtt_ms or 0) / 2))
        self.ends[a, b], self.ends[b, a] = one, other
        one.open()
        other.open()

    def _wire(self, to: End, delay_ms: int) -> Callable[[bytes], None]:
        def arrive(payload: bytes) -> None:
            if not to.agent.closed:
                to.receive(payload)

        def deliver(payload: bytes) -> None:
            self.clock.call_later(delay_ms, lambda: arrive(payload))

        return deliver

    def cut(self, a: int, b: int) -> None:
        """Close a link at both ends; what is under way is lost."""
        for key in ((a, b), (b, a)):
            end = self.ends.pop(key)
            end.agent.closed = True
            end.close()

    def router(self, node: int) -> LayeredRouter:
        return self.members[node].router
