"""A router of one's own: a star, where whoever is no neighbour is reached through the middle."""

from __future__ import annotations

import netcore as nc


class Star(nc.NetworkBehavior, nc.RouterTable):
    """Service and router in one: it sees links come, and decides where messages go."""

    service_id = 50

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

    def path_to_key(self, key: int) -> nc.RouteAction:
        """Refuse: nothing is known of keys here, nor of services."""
        return nc.RouteAction.REJECT

    def path_to_service(self, service_id: int) -> nc.RouteAction:
        """Refuse."""
        return nc.RouteAction.REJECT

    def on_outgoing_connection_connected(
        self, agent: nc.BehaviorAgent, conn: nc.ConnectionSender
    ) -> None:
        """Remember the way (and forget it when the link goes, in a program for long use)."""
        self.links[conn.remote_node_id] = conn.conn_id

    on_incoming_connection_connected = on_outgoing_connection_connected

    def on_message(self, agent: nc.BehaviorAgent, message: nc.Message) -> None:
        """Print what comes."""
        print(f"node {agent.local_node_id} hears {message.payload!r} from node {message.from_node}")


if __name__ == "__main__":
    middle, two, three = nodes = [nc.Node(s.node_id, [s], s) for s in map(Star, (1, 2, 3))]
    two.connect(addr := middle.listen("/memory/middle"))
    three.connect(addr)
    while len(middle.connections) < 2 or not two.connections:
        for node in nodes:
            node.poll(0.001)
    two.agent(50).send_to_node(3, b"hello")
    while not three.stats().messages_delivered:
        for node in nodes:
            node.poll(0.001)
    print(f"the middle has relayed {middle.stats().messages_relayed} message")
    for node in nodes:
        node.close(timeout_s=0)
