"""The services of the demo's nodes: they send all the time and write down what they see."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Any, Final, cast, final

from netcore import (
    BehaviorAgent,
    CallAnswer,
    ConnectionSender,
    LayeredRouter,
    LocalError,
    Message,
    NetworkBehavior,
    RouteRule,
    RpcAnswer,
    RpcRequest,
    key_of,
)
from netcore.ids import xor_distance

from .demo_records import (
    Linked,
    Received,
    Report,
    RoundTrip,
    Sent,
    decode_stamp,
    encode_stamp,
    now_us,
)

__all__ = ["ARCHIVE", "TRAFFIC", "Archive", "Journal", "Traffic", "service_path"]

#: Offered by every node.
TRAFFIC: Final = 10
#: Offered by some.
ARCHIVE: Final = 20

#: As sends have it unless told otherwise.
TTL: Final = 64
#: Long enough for a loaded machine, short enough for the demo to wait until lost calls end.
CALL_TIMEOUT_MS: Final = 2_000


@final
class Journal:
    """What one node sent and what arrived there, since it was last asked."""

    def __init__(self, node_id: int, router: LayeredRouter) -> None:
        self.node_id = node_id
        self.router = router
        self.refused = 0
        self._number = 0
        self._sent: list[Sent] = []
        self._received: list[Received] = []
        self._round_trips: list[RoundTrip] = []

    def send(
        self,
        how: str,
        to: Iterable[int],
        path: tuple[int, ...],
        send: Callable[[bytes], None],
    ) -> bool:
        """Send a stamped payload and write it down; return whether it was accepted.

        Args:
            how: As in ``Sent``.
            to: The nodes that may receive it.
            path: The nodes it will visit, as far as known here.
            send: Sends the payload it is given.
        """
        at_us = now_us()
        try:
            send(encode_stamp(self.node_id, self._number + 1))
        except LocalError:  # no route at the moment, or a full queue: nothing was sent
            self.refused += 1
            return False
        self._number += 1
        self._sent.append(Sent(self.node_id, self._number, how, tuple(to), path, at_us))
        return True

    def receive(self, payload: bytes, hops: int | None = None) -> None:
        """Write down what arrived."""
        origin, number = decode_stamp(payload)
        self._received.append(Received(origin, number, self.node_id, hops, now_us()))

    def answered(self, to: int, hops: int, took_us: int) -> None:
        """Write down that a call was answered."""
        self._round_trips.append(RoundTrip(to, hops, took_us))

    def path_to(self, node_id: int) -> tuple[int, ...]:
        """Return the nodes on the way to a node, itself included; empty: none, or this one."""
        path = self.router.next_path(node_id) if node_id != self.node_id else None
        return () if path is None else path.metric.hops[::-1]

    def report(self, asked: int, stats: dict[str, object], peers: Iterable[int]) -> Report:
        """Return everything since the last report."""
        slots = cast("list[dict[str, Any]]", self.router.dump()["slots"])
        nodes = [slot["candidates"][0]["hops"][0] for slot in slots]
        services = {number: service_path(self.router, number) for number in (TRAFFIC, ARCHIVE)}
        report = Report(
            asked=asked,
            at_us=now_us(),
            refused=self.refused,
            stats={name: value for name, value in stats.items() if isinstance(value, int)},
            peers=tuple(peers),
            paths={node: self.path_to(node) for node in nodes},
            services={number: path for number, path in services.items() if path is not None},
            sent=tuple(self._sent),
            received=tuple(self._received),
            round_trips=tuple(self._round_trips),
        )
        self._sent, self._received, self._round_trips = [], [], []
        return report


def service_path(router: LayeredRouter, service_id: int) -> tuple[int, ...] | None:
    """Return the nodes on the way to the nearest offer of a service; None: no way."""
    services = cast("list[dict[str, Any]]", router.dump()["services"])
    for service in services:
        if service["service_id"] == service_id:
            return () if service["local"] else tuple(service["candidates"][0]["hops"][::-1])
    return None


@final
class Archive(NetworkBehavior):
    """Takes messages: a service that only some nodes offer."""

    service_id = ARCHIVE

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Write it down."""
        self._journal.receive(message.payload, _hops(agent, message))


@final
class Traffic(NetworkBehavior):
    """Sends in every way there is, and answers calls.

    Args:
        journal: Where everything is written down.
        members: All nodes of the demo.
        archives: Those that offer the archive.
        rng: Chooses keys.
        on_link: Told about every link that comes or goes.
    """

    service_id = TRAFFIC

    def __init__(
        self,
        journal: Journal,
        members: Iterable[int],
        archives: Iterable[int],
        rng: Random,
        on_link: Callable[[Linked], None],
    ) -> None:
        self._journal = journal
        self._members = tuple(members)
        self._archives = tuple(archives)
        self._rng = rng
        self._on_link = on_link
        self._targets: tuple[int, ...] = ()
        self._turn = 0
        self._stream_to: int | None = None

    # -- hooks -------------------------------------------------------------------------------------

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Write down what arrived."""
        self._journal.receive(message.payload, _hops(agent, message))

    def on_rpc(self, agent: BehaviorAgent, req: RpcRequest, res: RpcAnswer) -> bool:
        """Answer every call with a stamp of its own."""
        journal = self._journal
        journal.receive(req.payload)
        caller = req.from_node
        journal.send("answer", [caller], journal.path_to(caller), res.ok)
        return True

    def on_incoming_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        """Tell that a neighbour is there."""
        self._on_link(Linked(conn.remote_node_id, True, now_us()))

    def on_incoming_connection_disconnected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        """Tell that a neighbour is gone."""
        self._on_link(Linked(conn.remote_node_id, False, now_us()))

    on_outgoing_connection_connected = on_incoming_connection_connected
    on_outgoing_connection_disconnected = on_incoming_connection_disconnected

    # -- what the parent asks for ------------------------------------------------------------------

    def start(self, agent: BehaviorAgent, targets: Iterable[int], every_ms: int) -> None:
        """Send to these nodes from now on, in rounds; none: send nothing any more."""
        was_idle, self._targets = not self._targets, tuple(targets)
        if was_idle and self._targets:
            self._round(agent, every_ms)

    def stream(self, agent: BehaviorAgent, to: int | None, every_ms: int) -> None:
        """Send to one node in quick succession from now on; None: end that."""
        was_idle, self._stream_to = self._stream_to is None, to
        if was_idle and to is not None:
            self._next_of_stream(agent, every_ms)

    def _round(self, agent: BehaviorAgent, every_ms: int) -> None:
        """Send one message to every target, and one in each other way."""
        if not self._targets:
            return
        agent.call_later(every_ms, lambda: self._round(agent, every_ms))
        self._turn += 1
        for target in self._targets:
            self._send_to_node(agent, target)
        self._send_to_key(agent)
        self._send_to_service(agent)
        self._journal.send("local", [agent.local_node_id], (), agent.send_local)
        self._call(agent, self._targets[self._turn % len(self._targets)])

    def _next_of_stream(self, agent: BehaviorAgent, every_ms: int) -> None:
        if self._stream_to is not None:
            agent.call_later(every_ms, lambda: self._next_of_stream(agent, every_ms))
            self._send_to_node(agent, self._stream_to)

    def _send_to_node(self, agent: BehaviorAgent, to: int) -> None:
        path = self._journal.path_to(to)
        self._journal.send("node", [to], path, lambda p: agent.send_to_node(to, p))

    def _send_to_key(self, agent: BehaviorAgent) -> None:
        key = key_of(f"item {self._rng.randrange(10_000)}")
        closest = min(self._members, key=lambda node: xor_distance(node, key))
        if closest in (agent.local_node_id, *self._targets):
            path = self._journal.path_to(closest)
            self._journal.send("key", [closest], path, lambda p: agent.send_to_key(key, p))

    def _send_to_service(self, agent: BehaviorAgent) -> None:
        path = service_path(self._journal.router, ARCHIVE)
        if path is not None:
            self._journal.send(
                "service", self._archives, path, lambda p: agent.send_to_service(ARCHIVE, p)
            )

    def _call(self, agent: BehaviorAgent, to: int) -> None:
        path, began_us = self._journal.path_to(to), now_us()

        def on_done(answer: CallAnswer) -> None:
            if answer.ok:
                self._journal.receive(answer.payload)
                self._journal.answered(to, len(path), now_us() - began_us)

        def call(payload: bytes) -> None:
            agent.call(RouteRule.node(to), TRAFFIC, payload, on_done, CALL_TIMEOUT_MS)

        self._journal.send("call", [to], path, call)


def _hops(agent: BehaviorAgent, message: Message) -> int:
    """Return how many links a message went over: every relay takes one off its hop count."""
    return 0 if message.from_node == agent.local_node_id else TTL - message.ttl + 1
