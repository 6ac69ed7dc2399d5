"""A router of one's own: a star, where whoever is no neighbour is reached through the middle.

Shows the ``RouterTable`` interface: the router decides, the node moves the frames.
"""

from __future__ import annotations

from itertools import cycle

import netcore as nc


class Star(nc.NetworkBehavior, nc.RouterTable):
    """Service and router in one: it sees links come, and decides where messages go."""

    service_id = 50
    heard = ""

    def __init__(self, node_id: int) -> None:
        self.node_id = node_id
        self.links: dict[int, int] = {}  # node id -> conn id

    def path_to_node(self, dest: int) -> nc.RouteAction:
        """Return the way: here, over the link to that node, or over the first link there is."""
        if dest == self.node_id:
            return nc.RouteAction.LOCAL
        for node_id in (dest, *self.links):
            if node_id in self.links:
                return nc.RouteAction.next_hop(self.links[node_id], node_id)
        return nc.RouteAction.REJECT

    def on_outgoing_connection_connected(
        self, agent: nc.BehaviorAgent, conn: nc.ConnectionSender
    ) -> None:
        """Remember the way; a program for long use forgets it when the link goes."""
        self.links[conn.remote_node_id] = conn.conn_id

    on_incoming_connection_connected = on_outgoing_connection_connected

    def on_message(self, agent: nc.BehaviorAgent, message: nc.Message) -> None:
        """Keep what comes."""
        self.heard = f"{message.payload.decode()} from node {message.from_node}"


if __name__ == "__main__":
    stars = [Star(1), Star(2), Star(3)]
    middle, two, three = nodes = [nc.Node(s.node_id, behaviors=[s], router=s) for s in stars]
    turns = (node.poll(0.001) for node in cycle(nodes))
    two.connect(addr := middle.listen("/memory/middle"))
    three.connect(addr)
    while len(middle.connections) < 2 or not two.connections:
        next(turns)
    two.agent(50).send_to_node(3, b"hello")
    while not stars[2].heard:
        next(turns)
    print(f"node 3 hears: {stars[2].heard}; relayed: {middle.stats().messages_relayed}")
    for node in nodes:
        node.close(timeout_s=0)
