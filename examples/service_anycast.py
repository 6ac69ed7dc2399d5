"""Two workers offer the same service; whoever asks for it reaches the nearer one.

Shows ``send_to_service``, the latencies of a ``MemoryNetwork``, and how the routes move to the
other worker when the nearer one goes away.
"""

from __future__ import annotations

from itertools import cycle

from netcore import BehaviorAgent, MemoryNetwork, MemoryTransport, Message, NetworkBehavior, Node


class Worker(NetworkBehavior):
    """Offers service 30."""

    service_id = 30

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Say who does the work."""
        agent.reply(message, f"done by node {agent.local_node_id}".encode())


class Customer(NetworkBehavior):
    """Asks for service 30 without knowing who offers it."""

    service_id = 31
    answer = ""

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Keep an answer."""
        self.answer = message.payload.decode()


def main() -> None:
    """Ask while both workers are there, and again when the nearer one has gone."""
    network = MemoryNetwork()
    customer = Customer()
    nodes = [
        Node(number, behaviors=[behavior], transports=[MemoryTransport(network, f"node-{number}")])
        for number, behavior in ((1, customer), (2, Worker()), (3, Worker()))
    ]
    for node, latency_ms in zip(nodes[1:], (2, 30), strict=True):
        network.set_latency("node-1", f"node-{node.node_id}", latency_ms)
        nodes[0].connect(node.listen(f"/memory/node-{node.node_id}"))
    for best in (2, 3):
        turns = (node.poll(0.001) for node in cycle(nodes))
        while nodes[0].router.path_to_service(30).node_id != best:
            next(turns)
        nodes[0].agent(31).send_to_service(30, b"work")
        while not customer.answer:
            next(turns)
        print(f"{len(nodes) - 1} workers: {customer.answer}")
        customer.answer = ""
        nodes.pop(1).close(timeout_s=0)  # the nearer worker goes
    nodes[0].close(timeout_s=0)


if __name__ == "__main__":
    main()
