"""Crew: sends the traffic of a campaign, and keeps what becomes of it.

A message has a number, one for the whole network, in the first eight bytes of its payload. On each
link the probes also send direct messages that are numbered by link: they must come one by one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import final

from netcore import BehaviorAgent, CallAnswer, Message, NetworkBehavior, RouteRule, wire
from netcore.sim import Network

from .probe import NUMBER, Life, Probe, attempt
from .scenario import PROBE, Scenario
from .spread import Spread
from .violation import Violation

__all__ = ["Call", "Crew", "Sent"]


@final
class Sent:
    """A message that a node accepted."""

    __slots__ = ("delivered", "dest", "rule", "service", "source", "ttl")

    def __init__(self, source: int, rule: str, dest: int, service: int, ttl: int) -> None:
        self.source = source
        self.rule = rule
        self.dest = dest
        self.service = service
        self.ttl = ttl
        self.delivered: int | None = None  # where


@final
class Call:
    """A call that a node accepted."""

    __slots__ = ("begin_ms", "deadline_ms", "is_ok", "life", "times")

    def __init__(self, life: Life, begin_ms: int, deadline_ms: int) -> None:
        self.life = life
        self.begin_ms = begin_ms
        self.deadline_ms = deadline_ms
        self.times = 0
        self.is_ok = False


@final
class Crew:
    """The probes of a network, what they have sent, and what was wrong first.

    Attributes:
        network: Set by the campaign before anything runs.
        violation: The first one.
        sent: By number.
        spreads: Broadcasts, by number.
        calls: All that were accepted.
        seen: How many messages were delivered.
    """

    network: Network

    def __init__(self, scenario: Scenario) -> None:
        self.violation: Violation | None = None
        self.sent: dict[int, Sent] = {}
        self.spreads: dict[int, Spread] = {}
        self.calls: list[Call] = []
        self.seen = 0
        self._services = scenario.services
        self._number = 0
        self._lives: dict[int, list[Probe]] = {}

    def fail(self, kind: str, text: str) -> None:
        """Keep what is wrong, if it is the first."""
        if self.violation is None:
            self.violation = Violation(kind, text)

    def behaviors(self, node_id: int) -> list[NetworkBehavior]:
        """Return the probes of a new process."""
        life = Life(self, node_id)
        probes = [Probe(life, service) for service in self._services[node_id]]
        self._lives[node_id] = probes
        return [*probes]

    def is_awake(self, node_id: int) -> bool:
        """Return whether a node runs and does not stand still."""
        return self.network.is_running(node_id) and not self.network.is_frozen(node_id)

    # -- sending -----------------------------------------------------------------------------------

    def send(
        self,
        network: Network,
        *,
        node: int,
        how: str,
        to: int,
        key: int,
        service: int,
        ttl: int,
        size: int,
        count: int,
        call_ms: int = 0,
    ) -> None:
        """Send some messages, or call: an action of the network."""
        if node not in network or not self.is_awake(node):
            return
        for _ in range(count):
            if call_ms:
                self._call(node, _rule(how, to, key), service, size, call_ms)
            elif how == "link":
                self._send_on_links(node, size)
            else:
                self.send_one(node, how, key if how == "key" else to, service, ttl, size)

    def send_one(
        self, node: int, how: str, dest: int, service: int, ttl: int = 64, size: int = 0
    ) -> int:
        """Send a message; return its number, and 0 when it was refused."""
        agent = self.network.node(node).agent(PROBE)
        rule = RouteRule.direct() if how == "local" else _rule(how, dest, dest)
        sent = Sent(node, how, dest, service, ttl)
        send = agent.send_local if how == "local" else functools.partial(agent.send, rule)
        return self._count(node, sent, send, size, 0, to_service=service, ttl=ttl)

    def _send_on_links(self, node: int, size: int) -> None:
        probe = self._lives[node][0]
        for conn_id, peer in list(probe.links.items()):
            at = probe.next_on.get(conn_id, 0) + 1
            send = functools.partial(self.network.node(node).agent(PROBE).send_to_conn, conn_id)
            if self._count(node, Sent(node, "link", peer, PROBE, 64), send, size, at):
                probe.next_on[conn_id] = at

    def _count(
        self, node: int, sent: Sent, send: Callable[..., object], size: int, at: int, **how: int
    ) -> int:
        """Send, and see to it that either this or a refusal was counted."""
        self._number += 1
        number = self._number
        before = self.network.node(node).stats()
        self.sent[number] = sent
        error = attempt(send, NUMBER.pack(number, at) + bytes(size), **how)
        after = self.network.node(node).stats()
        counted = after.messages_sent - before.messages_sent
        refused = after.sends_refused - before.sends_refused
        if (counted, refused) != (int(error is None), int(error is not None)):
            self.fail("account", f"node {node}: {counted} sent, {refused} refused, {error!r}")
        if error is not None:
            del self.sent[number]
            return 0
        return number

    def broadcast(
        self, network: Network, *, node: int, level: int, service: int, ttl: int, size: int
    ) -> None:
        """Send to all that offer a service: an action of the network."""
        if node in network and self.is_awake(node):
            self.spread(node, level, service, ttl, size)

    def spread(
        self, node: int, level: int, service: int, ttl: int = 64, size: int = 0
    ) -> Spread | None:
        """Broadcast; return None when that was refused."""
        self._number += 1
        number = self._number
        spread = self.spreads[number] = Spread(node, level, service)
        payload = NUMBER.pack(number, 0) + bytes(size)
        send = self.network.node(node).agent(PROBE).broadcast
        if attempt(send, payload, level=level, to_service=service, ttl=ttl) is None:
            return spread
        del self.spreads[number]
        return None

    def reply(self, life: Life, agent: BehaviorAgent, message: Message) -> None:
        """Answer a message by another one, from inside a hook."""
        self._number += 1
        number = self._number
        source = message.from_node if message.from_node is not None else life.node_id
        self.sent[number] = Sent(life.node_id, "node", source, message.from_service, 64)
        if attempt(agent.reply, message, NUMBER.pack(number, 0)) is not None:
            del self.sent[number]

    def _call(self, node: int, rule: RouteRule, service: int, size: int, call_ms: int) -> None:
        self.begin_call(node, rule, service, call_ms, size)

    def begin_call(
        self, node: int, rule: RouteRule, service: int, call_ms: int, size: int = 0
    ) -> Call | None:
        """Call; return None when it was refused."""
        self._number += 1
        life, now_ms = self._lives[node][0].life, self.network.now_ms
        call = Call(life, now_ms, now_ms + call_ms)

        def on_done(answer: CallAnswer) -> None:
            life.enter("on_done", PROBE)
            call.times += 1
            call.is_ok = answer.ok
            if call.times > 1:
                self.fail("calls", f"node {node}: a call was resolved {call.times} times")
            if self.network.now_ms > call.deadline_ms and not self._stood_still(node, call):
                late_ms = self.network.now_ms - call.deadline_ms
                self.fail("calls", f"node {node}: a call was resolved {late_ms} ms too late")
            life.running = None

        agent = self.network.node(node).agent(PROBE)
        payload = NUMBER.pack(self._number, 0) + bytes(size)
        if attempt(agent.call, rule, service, payload, on_done, call_ms) is not None:
            return None
        self.calls.append(call)
        return call

    def _stood_still(self, node: int, call: Call) -> bool:
        return any(
            name in ("freeze", "thaw") and args["node_id"] == node
            for when_ms, name, args in self.network.operations
            if when_ms >= call.begin_ms or name == "freeze"
        )

    def close(self, network: Network, *, node: int, to: int) -> None:
        """End the links between two nodes politely: an action of the network."""
        if node in network and self.is_awake(node):
            network.node(node).agent(PROBE).close_node(to)

    def cross(self, network: Network, *, a: int, b: int) -> None:
        """Let two nodes dial each other at once: an action of the network."""
        for one, other in ((a, b), (b, a)):
            if one in network and other in network and self.is_awake(one):
                network.node(one).connect(f"{other}@/memory/n{other}")

    # -- receiving ---------------------------------------------------------------------------------

    def on_delivered(self, life: Life, message: Message) -> int:
        """Note where a message has come to; return its number."""
        number, _ = NUMBER.unpack_from(message.payload)
        where = f"message {number} at node {life.node_id}"
        if message.route.kind == wire.ROUTE_SERVICES:
            self._on_spread(number, where, life, message.to_service)
            return int(number)
        sent = self.sent.get(number)
        if sent is None:
            self.fail("account", f"{where} was refused, or never sent")
            return int(number)
        if sent.delivered is not None:
            self.fail("account", f"{where} was delivered at node {sent.delivered} before")
        if sent.rule in ("node", "link") and sent.dest != life.node_id:
            self.fail("account", f"{where} was sent to node {sent.dest}")
        if message.ttl > sent.ttl:
            self.fail("hops", f"{where} has TTL {message.ttl}, was sent with {sent.ttl}")
        sent.delivered = life.node_id
        self.seen += 1
        return int(number)

    def _on_spread(self, number: int, where: str, life: Life, service: int) -> None:
        spread = self.spreads.get(number)
        wrong = "was refused, or never sent" if spread is None else spread.hear(life, service)
        if wrong is not None:
            self.fail("broadcast", f"{where} {wrong}")
        self.seen += 1

    def check_calls(self) -> None:
        """See to it that every call that is due was resolved, where the process still lives."""
        for call in self.calls:
            is_alive = self._lives[call.life.node_id][0].life is call.life
            if call.times or call.deadline_ms >= self.network.now_ms or not is_alive:
                continue
            if self.is_awake(call.life.node_id):
                self.fail("calls", f"node {call.life.node_id}: a call was never resolved")


def _rule(how: str, to: int, key: int) -> RouteRule:
    if how == "key":
        return RouteRule.closest(key)
    if how == "service":
        return RouteRule.service()
    return RouteRule.node(to)
