"""A chat room: the handlers of one node, one per link, talk to each other.

Shows ``ConnectionHandler`` and events: any Python object, within the node, never over the wire.
"""

from __future__ import annotations

from itertools import cycle

import netcore as nc


class Seat(nc.ConnectionHandler):
    """The room's end of one guest's link."""

    def on_event(self, agent: nc.ConnectionAgent, event: nc.Message | nc.ConnectionStats) -> None:
        """The guest wrote ``<node> <text>``: tell the handler of that node's link."""
        if isinstance(event, nc.Message):
            to_node, _, text = event.payload.decode().partition(" ")
            agent.send_to_handler(nc.HandlerRoute.node(int(to_node)), text)

    def on_other_handler_event(
        self, agent: nc.ConnectionAgent, from_node: int, from_conn: int, event: object
    ) -> None:
        """Another seat has something for this guest: send it over the own link."""
        agent.send(f"node {from_node} says {event}".encode())


class Chat(nc.NetworkBehavior):
    """Room and guests alike: whoever is dialled has a seat for each link."""

    service_id = 40
    heard = ""

    def on_incoming_connection_connected(
        self, agent: nc.BehaviorAgent, conn: nc.ConnectionSender
    ) -> Seat:
        """Return the handler of the new link."""
        return Seat()

    def on_message(self, agent: nc.BehaviorAgent, message: nc.Message) -> None:
        """A guest has no seats, so what the room sends arrives here."""
        self.heard = message.payload.decode()


if __name__ == "__main__":
    chats = [Chat(), Chat(), Chat()]
    room, two, three = nodes = [nc.Node(n, behaviors=[chat]) for n, chat in enumerate(chats, 1)]
    turns = (node.poll(0.001) for node in cycle(nodes))
    two.connect(addr := room.listen("/memory/room"))
    three.connect(addr)
    while not (two.connections and three.connections):
        next(turns)
    two.agent(40).send_to_node(1, b"3 hello, three")
    while not chats[2].heard:
        next(turns)
    print(f"node 3 hears: {chats[2].heard}")
    for node in nodes:
        node.close(timeout_s=0)
