"""netcore's roles of the workload with ten polite links and one that floods the same node."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from netcore import (
    ConnectionHandler,
    ForceLocalRouter,
    Message,
    NetworkBehavior,
    Node,
    SendQueueFullError,
)
from netcore.agent import BehaviorAgent, ConnectionAgent, ConnectionSender
from netcore.stats import ConnectionStats

from .netcore_links import Links
from .netcore_parts import RELAY, SERVICE, SINK, SOURCE, listen, new_node
from .process import Options, Phase, Role, latency_fields, ready, wait_for_go

__all__ = ["ROLES"]

FLOODER: Final = RELAY
FLOOD: Final = SERVICE + 1
_GO: Final = b"go"
_STOP: Final = b"stop"


# -- the node ------------------------------------------------------------------------------------


def waited_ns() -> int:
    """Return how long this process could have run and got no core; 0 where nobody counts that."""
    with suppress(OSError):
        return int(Path("/proc/self/schedstat").read_text("ascii").split()[1])
    return 0


class EchoHandler(ConnectionHandler):
    """Sends back over its link what came."""

    def on_event(self, agent: ConnectionAgent, event: Message | ConnectionStats) -> None:
        """Send one back."""
        if isinstance(event, Message):
            agent.send(event.payload)


class PoliteServer(NetworkBehavior):
    """Answers on each link; ends when all have gone."""

    service_id = SERVICE

    def __init__(self) -> None:
        self.node: Node | None = None
        self._links = 0

    def on_incoming_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> ConnectionHandler | None:
        """Answer there, unless it is the link that floods."""
        self._links += 1
        return None if conn.remote_node_id == FLOODER else EchoHandler()

    def on_incoming_connection_disconnected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        """Leave with the last one."""
        assert self.node is not None
        self._links -= 1
        if not self._links:
            self.node.stop()


class FloodServer(NetworkBehavior):
    """Counts the flood; tells the flooder when to begin and to end."""

    service_id = FLOOD

    def __init__(self) -> None:
        self.seen = 0
        self.waited_ns = 0
        self._flooder: ConnectionSender | None = None

    def on_incoming_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> ConnectionHandler | None:
        """Remember the one that floods."""
        if conn.remote_node_id == FLOODER:
            self._flooder = conn
        return None

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Count one, or pass a word on."""
        if message.from_node == FLOODER:
            self.seen += 1
        elif self._flooder is not None:
            self.waited_ns = waited_ns() - self.waited_ns
            self._flooder.send(message.payload)


def fair_node(options: Options) -> None:
    """Serve all links."""
    polite, flood = PoliteServer(), FloodServer()
    node = polite.node = new_node(options, SINK, [polite, flood], ForceLocalRouter())
    with node, listen(node, options) as addr:
        phase = Phase(options, watch=False)
        phase.start()
        ready(addr)
        node.run()
        phase.report(messages=flood.seen, lost=0, waited=flood.waited_ns / 1e9)


# -- the flood -----------------------------------------------------------------------------------


class Flooder(Links):
    """Sends as fast as its link takes it, from one word to the other."""

    service_id = FLOOD

    def __init__(self, options: Options) -> None:
        super().__init__(options.addr)
        self.node: Node | None = None
        self.sent = 0
        self.phase: Phase | None = None
        self._payload = options.payload
        self._flows = False

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Begin or end."""
        assert self.node is not None
        assert self.phase is not None
        self._flows = message.payload == _GO
        if self._flows:
            self.phase.start()
            self._fill()
        else:
            self.phase.stop()
            self.node.stop()

    def on_connection_writable(self, agent: BehaviorAgent, conn: ConnectionSender) -> None:
        """Go on."""
        if self._flows:
            self._fill()

    def _fill(self) -> None:
        send, payload = self.links[0].send, self._payload
        try:
            while True:
                send(payload)
                self.sent += 1
        except SendQueueFullError:
            pass  # on_connection_writable goes on


def flooder(options: Options) -> None:
    """Flood the node when told to; closing sends what is queued."""
    # Three processes want two cores. What is measured is the node, not the scheduler: the flood
    # takes what is left.
    with suppress(AttributeError, OSError):  # Linux only
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    behavior = Flooder(options)
    # And leaves its core soon: a kernel without preemption finishes a write before it looks who
    # else wants to run.
    queue = {"write_high_bytes": 65_536, "write_low_bytes": 16_384}
    with new_node(options, FLOODER, [behavior], ForceLocalRouter(), **queue) as node:
        behavior.open(node, 1)
        behavior.node, behavior.phase = node, Phase(options, watch=False)
        ready()
        node.run()
    behavior.phase.report(messages=behavior.sent, lost=0)


# -- the polite ones -----------------------------------------------------------------------------


class Polite(Links):
    """Keeps one message in flight on each of its links; the first byte says on which."""

    def __init__(self, options: Options) -> None:
        super().__init__(options.addr)
        self.latencies: list[int] = []
        self._payload = options.payload
        self._sent = [0] * options.links
        self._left = self._flying = 0

    def play(self, node: Node, count: int) -> list[int]:
        """Drive the node through so many round trips; return how long each took, in ns."""
        self.latencies, self._left = [], count
        for number in range(min(count, len(self.links))):
            self._send(number)
        while self._flying:
            node.poll(None)
        return self.latencies

    def _send(self, number: int) -> None:
        self._left -= 1
        self._flying += 1
        self._sent[number] = time.perf_counter_ns()
        self.links[number].send(bytes([number]) + self._payload[1:])

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Take the time of a reply and send the next there."""
        number = message.payload[0]
        self.latencies.append(time.perf_counter_ns() - self._sent[number])
        self._flying -= 1
        if self._left:
            self._send(number)

    def tell(self, node: Node, word: bytes) -> None:
        """Have the flood begin or end."""
        self.links[0].send(word, to_service=FLOOD)
        while any(link.queued_bytes for link in node.connections):
            node.poll(0)


def polite(options: Options) -> None:
    """Time the links alone, and beside the flood."""
    behavior = Polite(options)
    with new_node(options, SOURCE, [behavior], ForceLocalRouter()) as node:
        behavior.open(node, options.links)
        ready()
        wait_for_go()
        phase = Phase(options, watch=False)
        behavior.play(node, options.warmup)
        alone = latency_fields(behavior.play(node, options.messages))["latency_ns"]
        behavior.tell(node, _GO)
        behavior.play(node, options.warmup)
        waited = waited_ns()
        phase.start()
        flooded = behavior.play(node, options.messages)
        phase.stop()
        waited = waited_ns() - waited
        behavior.tell(node, _STOP)
        phase.report(alone=alone, waited=waited / 1e9, **latency_fields(flooded))


ROLES: Final[dict[str, Role]] = {"fair_node": fair_node, "flooder": flooder, "polite": polite}
