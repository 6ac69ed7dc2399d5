"""A key-value store over five nodes: every key lives on the node whose id is closest to it.

Shows ``send_to_key``: a sender names the key, the network finds the node, over several hops.
"""

from __future__ import annotations

from itertools import cycle

from netcore import BehaviorAgent, Message, NetworkBehavior, Node, ids, key_of

PUT, GET, VALUE = 0, 1, 2  # what a message is, said by its two ``meta`` bits
FRUITS = {"apple": "green", "banana": "yellow", "cherry": "red", "plum": "blue", "pear": "gold"}


class Store(NetworkBehavior):
    """Keeps the values of the keys that are routed to this node."""

    service_id = 20

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}
        self.answers: dict[str, str] = {}

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Put or get a value, or take the answer to a get."""
        name, _, value = message.payload.decode().partition("=")
        if message.meta == PUT:
            self.kept[name] = value
        elif message.meta == GET:
            answer = f"{name}={self.kept[name]}, says node {agent.local_node_id:#010x}"
            agent.send_to_node(message.from_node or 0, answer.encode(), meta=VALUE)
        else:
            self.answers[name] = value


if __name__ == "__main__":
    stores = {ids.build(zone, 0, 0, 1): Store() for zone in (16, 80, 128, 176, 240)}
    nodes = [Node(node_id, behaviors=[store]) for node_id, store in stores.items()]
    turns = (node.poll(0.001) for node in cycle(nodes))
    addrs = [node.listen(f"/memory/store-{node.node_id}") for node in nodes]
    for node, addr in zip(nodes, addrs[1:] + addrs[:1], strict=True):
        node.connect(addr)
    while any(node.router.path_to_node(dest).is_reject for node in nodes for dest in stores):
        next(turns)  # until everybody has heard of everybody
    for name, value in FRUITS.items():
        nodes[0].agent(20).send_to_key(name, f"{name}={value}".encode(), meta=PUT)
    while sum(len(store.kept) for store in stores.values()) < len(FRUITS):
        next(turns)
    for name in FRUITS:
        nodes[2].agent(20).send_to_key(name, name.encode(), meta=GET)
    answers = stores[nodes[2].node_id].answers
    while len(answers) < len(FRUITS):
        next(turns)
    for name, answer in sorted(answers.items()):
        print(f"{name} (key {key_of(name):#010x}) is {answer}")
    for node in nodes:
        node.close(timeout_s=0)
