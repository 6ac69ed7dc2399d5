"""netcore itself: one behavior per node, used as the guide says."""

from __future__ import annotations

import time
from functools import partial
from typing import Final

import netcore
from netcore import (
    BACKEND,
    Message,
    NetworkBehavior,
    Node,
    RouteRule,
    SendQueueFullError,
)
from netcore.agent import BehaviorAgent, ConnectionSender
from netcore.rpc import CallAnswer, RpcAnswer, RpcRequest
from tools.bench import netcore_fair, netcore_links, netcore_lookup
from tools.bench.netcore_parts import (
    RELAY,
    SERVICE,
    SINK,
    SOURCE,
    Sink,
    join,
    listen,
    make_certs,
    new_node,
    offers_busy_polling,
    offers_tls,
)
from tools.bench.process import (
    CallLoad,
    Options,
    Phase,
    Role,
    RoundTrips,
    cpu_seconds,
    importing,
    main,
    ready,
    wait_for_go,
)

NAME: Final = "netcore"
REQUIRES: Final = ("netcore",)
EXTRAS: Final = ("handler", *(["busy"] if offers_busy_polling() else []))
VARIANTS: Final[dict[str, dict[str, str]]] = {
    **(
        {
            "netcore": {},
            "netcore unix": {"unix": "1"},
            "netcore auth": {"secret": "1"},
            **({"netcore tls": {"tls": "1"}} if offers_tls() else {}),
        }
        if BACKEND == "fast"
        else {}
    ),
    "netcore pure": {},
}
ENVIRON: Final = {"netcore pure": {"NETCORE_PURE": "1"}}


def prepare() -> str:
    """Return the version; make what the processes of a run need."""
    if "netcore tls" in VARIANTS:
        make_certs()
    return f"netcore {netcore.__version__}"


# -- one way -------------------------------------------------------------------------------------


def sink(options: Options) -> None:
    """Receive a stream."""
    phase = Phase(options, on_done=lambda: node.stop())
    node = new_node(options, SINK, [Sink(options, phase)])
    with node, listen(node, options) as addr:
        ready(addr)
        node.run()
        phase.report()


class Source(NetworkBehavior):
    """Sends as fast as the link takes it, or as far as the sink's answers allow."""

    service_id = SERVICE

    def __init__(self, options: Options) -> None:
        self.sent = 0
        self.phase: Phase | None = None
        self._options = options
        self._payload = options.payload
        self._ahead = options.window if options.window > 1 else options.total
        self._seen_there = 0

    def fill(self, agent: BehaviorAgent) -> None:
        """Send until the link is full or nothing is left to do."""
        try:
            while self.sent < (goal := self._goal()):
                self._send(agent, goal)
        except SendQueueFullError:
            pass  # on_connection_writable goes on from here

    def _goal(self) -> int:
        options = self._options
        mark = options.warmup if self.sent < options.warmup else options.total
        return min(mark, self._seen_there + self._ahead)

    def _send(self, agent: BehaviorAgent, goal: int) -> None:
        send, payload = agent.send_to_node, self._payload
        for self.sent in range(self.sent, goal):  # noqa: B020 - right also when a send is refused
            send(SINK, payload)
        self.sent = goal
        if goal == self._options.warmup and self.phase is not None:
            self.phase.start()

    def on_connection_writable(self, agent: BehaviorAgent, conn: ConnectionSender) -> None:
        """Go on."""
        if self.phase is not None:
            self.fill(agent)

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Learn how far the sink is."""
        self._seen_there = int(message.payload)
        self.fill(agent)


def source(options: Options) -> None:
    """Send a stream."""
    behavior = Source(options)
    with new_node(options, SOURCE, [behavior]) as node:
        join(node, options.addr, SINK)
        ready()
        wait_for_go()
        behavior.phase = phase = Phase(options, watch=False)
        behavior.fill(node.agent(SERVICE))
        while behavior.sent < options.total:
            node.poll(None)
        while any(link.queued_bytes for link in node.connections):
            node.poll(0.05)
        phase.stop()
        phase.report()


class RelayWatch(NetworkBehavior):
    """Marks the begin and the end of the relay's work; the messages do not come by here."""

    service_id = SERVICE + 1

    def __init__(self, options: Options) -> None:
        self.node: Node | None = None
        self._options = options
        self._begin: tuple[float, float, int] | None = None
        self._end = (0.0, 0.0, 0)

    def on_tick(self, agent: BehaviorAgent, ts_ms: int, interval_ms: int) -> None:
        """Look whether the warm-up is over."""
        if self._begin is None and (mark := self._mark())[2] >= self._options.warmup:
            self._begin = mark

    def on_outgoing_connection_disconnected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        """The sink has got all, and left."""
        assert self.node is not None
        self._end = self._mark()
        self.node.stop()

    def _mark(self) -> tuple[float, float, int]:
        assert self.node is not None
        return time.perf_counter(), cpu_seconds(), self.node.stats().messages_relayed

    def fields(self) -> dict[str, float]:
        """Return time and CPU, scaled from what passed between the marks to what is measured."""
        begin, end = self._begin or self._end, self._end
        share = self._options.messages / self._options.total * end[2] / max(1, end[2] - begin[2])
        return {"seconds": (end[0] - begin[0]) * share, "cpu": (end[1] - begin[1]) * share}


def relay(options: Options) -> None:
    """Pass messages on."""
    watch = RelayWatch(options)
    with new_node(options, RELAY, [watch], tick_ms=5) as node, listen(node, options) as addr:
        watch.node = node
        node.connect(options.addr)
        node.wait_connected(SINK)
        phase = Phase(options, watch=False)
        ready(addr)
        node.run()
        lost = node.stats().dropped_relay_queue_full
        phase.report(messages=options.messages, lost=lost, **watch.fields())


# -- there and back ------------------------------------------------------------------------------


class Echo(NetworkBehavior):
    """Sends everything back; answers calls with what they carry."""

    service_id = SERVICE

    def __init__(self, phase: Phase) -> None:
        self._phase = phase

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Send one back."""
        payload = message.payload
        agent.reply(message, payload)
        self._phase.on_message(payload)

    def on_rpc(self, agent: BehaviorAgent, req: RpcRequest, res: RpcAnswer) -> bool:
        """Answer one call."""
        payload = req.payload
        res.ok(payload)
        if payload:  # an empty one asks whether there is a way
            self._phase.on_message(payload)
        return True


def echo(options: Options) -> None:
    """Send every message back, answer every call."""
    phase = Phase(options, on_done=lambda: node.stop())
    node = new_node(options, SINK, [Echo(phase)])
    with node, listen(node, options) as addr:
        ready(addr)
        node.run()
        phase.report()


class Pinger(NetworkBehavior):
    """Keeps one message in flight."""

    service_id = SERVICE

    def __init__(self, options: Options) -> None:
        self._payload = options.payload
        self.trips: RoundTrips | None = None

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Take the time of a reply and send the next."""
        assert self.trips is not None
        if self.trips.again(message.payload):
            agent.send_to_node(SINK, self._payload)


def pinger(options: Options) -> None:
    """Send a message, wait for its reply, again and again."""
    behavior = Pinger(options)
    with new_node(options, SOURCE, [behavior]) as node:
        join(node, options.addr, SINK)
        ready()
        wait_for_go()
        phase = Phase(options, on_done=node.stop)
        behavior.trips = trips = RoundTrips(phase, options.warmup)
        trips.begin()
        node.agent(SERVICE).send_to_node(SINK, options.payload)
        node.run()
        phase.report(**trips.fields())


class Client(NetworkBehavior):
    """Only calls."""

    service_id = SERVICE


class Load(CallLoad):
    """Looks into netcore's answers."""

    def _replied(self, sent: int, answer: CallAnswer) -> None:  # type: ignore[override]
        self.latencies.append(time.perf_counter_ns() - sent)
        self._phase.on_message(answer.result())
        if self._left:
            self._issue()


def caller(options: Options) -> None:
    """Keep calls in flight."""
    with new_node(options, SOURCE, [Client()]) as node:
        join(node, options.addr, SINK)
        ready()
        wait_for_go()
        phase = Phase(options, on_done=node.stop)
        call = partial(node.agent(SERVICE).call, RouteRule.node(SINK), SERVICE)
        load = Load(options, phase, call)
        load.begin()
        node.run()
        phase.report(**load.fields())


# -- the rest ------------------------------------------------------------------------------------


ROLES: Final[dict[str, Role]] = {
    "sink": sink,
    "source": source,
    "relay": relay,
    "echo": echo,
    "pinger": pinger,
    "callee": echo,
    "caller": caller,
    **netcore_links.ROLES,
    **netcore_fair.ROLES,
    "importing": importing("import netcore"),
    "lookup": netcore_lookup.lookup,
}

if __name__ == "__main__":
    main(ROLES)
