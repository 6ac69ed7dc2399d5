"""netcore's roles with many links: fan-out, idle links, connecting and closing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from netcore import (
    ConnectionHandler,
    ForceLocalRouter,
    Message,
    NetworkBehavior,
    Node,
    OutgoingConnectionError,
    SendQueueFullError,
)
from netcore.agent import BehaviorAgent, ConnectionAgent, ConnectionSender
from netcore.stats import ConnectionStats

from .netcore_parts import SERVICE, SINK, SOURCE, Sink, listen, new_node
from .process import IdleMemory, Options, Phase, Role, RoundTrips, ready, wait_for_go

__all__ = ["ROLES"]

#: Dials under way at a time; below what a node takes (``max_half_open``).
_DIALS: Final = 256


class Links(NetworkBehavior):
    """Opens a number of links to one address and remembers them."""

    service_id = SERVICE

    def __init__(self, addr: str) -> None:
        self.links: list[ConnectionSender] = []
        self._addr = addr
        self._wanted = 0
        self._dialled = 0
        self._failure: Exception | None = None

    def open(self, node: Node, count: int) -> None:
        """Drive the node until there are so many links."""
        self._wanted = count
        for _ in range(min(_DIALS, count - self._dialled)):
            self._dialled += 1
            node.connect(self._addr, parallel=True)
        while len(self.links) < count:
            node.poll(None)
            if self._failure is not None:
                raise self._failure

    def on_outgoing_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        """Remember one, dial another."""
        self.links.append(conn)
        if self._dialled < self._wanted:
            self._dialled += 1
            agent.connect_to(self._addr, parallel=True)

    def on_outgoing_connection_error(
        self, agent: BehaviorAgent, node_id: int | None, conn_id: int, err: OutgoingConnectionError
    ) -> None:
        """End the measurement."""
        self._failure = err


# -- fan-out -------------------------------------------------------------------------------------


def fan_sink(options: Options) -> None:
    """Receive from many links."""
    phase = Phase(options, on_done=lambda: node.stop())
    node = new_node(options, SINK, [Sink(options, phase)])
    with node, listen(node, options) as addr:
        ready(addr)
        node.run()
        phase.report()


class FanSource(Links):
    """Sends each message over all links; the slowest one sets the pace."""

    def __init__(self, options: Options) -> None:
        super().__init__(options.addr)
        self.left = 0
        self._at = 0
        self._payload = options.payload

    def fill(self) -> None:
        """Send until a link is full or nothing is left."""
        payload, links = self._payload, self.links
        try:
            while self.left:
                for self._at in range(self._at, len(links)):  # noqa: B020
                    links[self._at].send(payload)
                self._at = 0
                self.left -= 1
        except SendQueueFullError:
            pass  # on_connection_writable goes on with the link that was full

    def on_connection_writable(self, agent: BehaviorAgent, conn: ConnectionSender) -> None:
        """Go on."""
        self.fill()


def fan_source(options: Options) -> None:
    """Send every message to all links."""
    behavior = FanSource(options)
    with new_node(options, SOURCE, [behavior]) as node:
        behavior.open(node, options.links)
        ready()
        wait_for_go()
        phase = Phase(options, watch=False)
        warmup, rounds = options.fan_rounds()
        _send(node, behavior, warmup)
        phase.start()
        _send(node, behavior, rounds)
        phase.stop()
        phase.report()


def _send(node: Node, behavior: FanSource, count: int) -> None:
    behavior.left = count
    behavior.fill()
    while behavior.left or any(link.queued_bytes for link in node.connections):
        node.poll(0.01)


# -- idle links ----------------------------------------------------------------------------------


class IdleServer(NetworkBehavior):
    """Holds links and echoes on any; with an object for each, or without."""

    service_id = SERVICE

    def __init__(self, memory: IdleMemory, with_handlers: bool, leave: Callable[[], None]) -> None:
        self._memory = memory
        self._with_handlers = with_handlers
        self._leave = leave
        self._busy: ConnectionSender | None = None

    def on_incoming_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> ConnectionHandler | None:
        """Count one."""
        if self._busy is None:
            self._busy = conn
        self._memory.opened()
        return IdleHandler() if self._with_handlers else None

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Send one back: over the only link that is not idle, because nothing is routed here."""
        assert self._busy is not None
        self._busy.send(message.payload)

    def on_incoming_connection_disconnected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        """The client is done."""
        self._leave()


class IdleHandler(ConnectionHandler):
    """The object of one link."""

    def on_event(self, agent: ConnectionAgent, event: Message | ConnectionStats) -> None:
        """Send a message back."""
        if isinstance(event, Message):
            agent.send(event.payload)


def idle_server(options: Options) -> None:
    """Hold many links and echo on any."""
    memory = IdleMemory(options)
    behavior = IdleServer(memory, bool(options.number("handler")), lambda: node.stop())
    node = new_node(options, SINK, [behavior], ForceLocalRouter())
    with listen(node, options) as addr:
        phase = Phase(options, watch=False)
        ready(addr)
        node.run()
        phase.report(**memory.fields(), links=memory.links, lost=options.links - memory.links)
        node.close(timeout_s=0)


class IdleClient(Links):
    """Plays ping-pong on its first link."""

    def __init__(self, options: Options) -> None:
        super().__init__(options.addr)
        self._payload = options.payload
        self.trips = RoundTrips(None, options.warmup, options.total)

    def play(self, node: Node) -> None:
        """Drive the node until there are enough round trips."""
        self.trips.begin()
        self.links[0].send(self._payload)
        while not self.trips.done:
            node.poll(None)

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Take the time of a reply and send the next."""
        if self.trips.again(message.payload):
            self.links[0].send(self._payload)


def idle_client(options: Options) -> None:
    """Time one link, connect the others, time it again."""
    behavior = IdleClient(options)
    node = new_node(options, SOURCE, [behavior], ForceLocalRouter())
    behavior.open(node, 1)
    ready()
    wait_for_go()
    behavior.play(node)
    alone = behavior.trips.fields()["latency_ns"]
    started = time.perf_counter()
    behavior.open(node, options.links)
    seconds = time.perf_counter() - started
    phase = Phase(options, watch=False)
    behavior.trips = trips = RoundTrips(phase, options.warmup)
    behavior.play(node)
    phase.report(connect_seconds=seconds, alone=alone, **trips.fields())
    node.close(timeout_s=0)


# -- connecting and closing ----------------------------------------------------------------------


class ChurnServer(NetworkBehavior):
    """Counts the links that have come and gone."""

    service_id = SERVICE

    def __init__(self, phase: Phase) -> None:
        self._phase = phase

    def on_incoming_connection_disconnected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        """Count one."""
        self._phase.on_message(None)


def churn_server(options: Options) -> None:
    """Take links and let them go."""
    phase = Phase(options, on_done=lambda: node.stop())
    node = new_node(options, SINK, [ChurnServer(phase)])
    with node, listen(node, options) as addr:
        ready(addr)
        node.run()
        phase.report()


class ChurnClient(NetworkBehavior):
    """Dials, closes, dials again; the handshake is the exchange."""

    service_id = SERVICE

    def __init__(self, addr: str) -> None:
        self._addr = addr
        self.phase: Phase | None = None

    def on_outgoing_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        """Close it."""
        conn.close()

    def on_outgoing_connection_disconnected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        """Count it, and dial again."""
        assert self.phase is not None
        self.phase.on_message(None)
        if not self.phase.done:
            agent.connect_to(self._addr, parallel=True)


def churn_client(options: Options) -> None:
    """Dial, close, dial again."""
    behavior = ChurnClient(options.addr)
    with new_node(options, SOURCE, [behavior]) as node:
        ready()
        wait_for_go()
        behavior.phase = phase = Phase(options, on_done=node.stop)
        node.connect(options.addr, parallel=True)
        node.run()
        phase.report()


ROLES: Final[dict[str, Role]] = {
    "fan_sink": fan_sink,
    "fan_source": fan_source,
    "idle_server": idle_server,
    "idle_client": idle_client,
    "churn_server": churn_server,
    "churn_client": churn_client,
}
