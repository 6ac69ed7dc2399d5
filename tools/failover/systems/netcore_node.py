"""netcore: every process is a node with default settings; relays only relay."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping

from netcore import BehaviorAgent, LocalError, Message, NetworkBehavior, Node, RouteAction
from tools.failover.actor import Arrivals, Pace, Part, answer_orders, end_with_parent, payload

SERVICE = 10
FIRST_ID = 1  # node 0 of the layout has this id


class Source(NetworkBehavior):
    """Sends to the sink, at its pace, from when it is told."""

    service_id = SERVICE

    def __init__(self, part: Part) -> None:
        self.pace = Pace(part.rate)
        self._sink = FIRST_ID + part.sink

    def send(self, agent: BehaviorAgent) -> None:
        """Send what is due, and come back."""
        for number in self.pace.due():
            try:
                agent.send_to_node(self._sink, payload(number))
            except LocalError:
                self.pace.refused += 1
        agent.call_later(max(1, math.ceil(self.pace.wait_s() * 1e3)), lambda: self.send(agent))


class Sink(NetworkBehavior):
    """Stamps what comes."""

    service_id = SERVICE

    def __init__(self) -> None:
        self.arrivals = Arrivals()

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Stamp it."""
        self.arrivals.take(message.payload)


def main() -> None:
    """Be one node."""
    end_with_parent()
    part = Part.of(sys.argv[1])
    source, sink = Source(part), Sink()
    behavior = {"source": source, "sink": sink}.get(part.role)
    node = Node(
        FIRST_ID + part.node,
        behaviors=[behavior] if behavior else [],
        insecure=bool(part.extra.get("insecure")),
    )
    for host, port in part.listen:
        node.listen(f"/ip4/{host}/tcp/{port}")

    def connect(whom: list[tuple[int, str, int]]) -> None:
        for peer, host, port in whom:
            node.connect(f"{FIRST_ID + peer}@/ip4/{host}/tcp/{port}", keep=True)

    def dial(whom: list[tuple[int, str, int]]) -> Mapping[str, object]:
        stamp_ns = time.monotonic_ns()
        node.post(connect, whom)
        return {"dial_ns": stamp_ns}

    def send() -> Mapping[str, object]:
        node.post(lambda: source.send(node.agent(SERVICE)))
        return {}

    def has_route() -> Mapping[str, object]:
        way = node.router.path_to_node(FIRST_ID + part.sink)
        return {"route": way != RouteAction.REJECT}

    def stats() -> Mapping[str, object]:
        return node.stats().as_dict()

    orders = {
        "dial": lambda: dial(part.dial),
        "dial_all": lambda: dial(part.neighbours),
        "has_route": has_route,
        "stats": stats,
    }
    if part.role == "source":
        orders |= {"send": send, **source.pace.orders()}
    elif part.role == "sink":
        orders |= sink.arrivals.orders()
    answer_orders(orders, aside=True)
    node.run()


if __name__ == "__main__":
    main()
