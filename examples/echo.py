"""Two nodes over TCP in one process: one sends a few messages, the other sends them back.

Shows a behavior's hooks, a send over a link, ``reply``, and nodes driven by ``poll``.
"""

from __future__ import annotations

from netcore import BehaviorAgent, ConnectionSender, Message, NetworkBehavior, Node


class Echo(NetworkBehavior):
    """Sends everything back to where it came from."""

    service_id = 10

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Reply to the node and the service that sent the message."""
        print(f"node {agent.local_node_id}: {message.payload!r} from node {message.from_node}")
        agent.reply(message, message.payload)


class Caller(NetworkBehavior):
    """Sends three messages as soon as its link is up, and collects the answers."""

    service_id = 11

    def __init__(self) -> None:
        self.answers: list[bytes] = []

    def on_outgoing_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        """Send straight over the new link: one hop, nothing is routed."""
        print(f"node {agent.local_node_id}: connected to node {conn.remote_node_id}")
        for payload in (b"one", b"two", b"three"):
            conn.send(payload, to_service=10)

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Keep an answer; messages over one link keep their order."""
        self.answers.append(message.payload)


def main() -> None:
    """Connect the two and turn them until all answers are back."""
    caller = Caller()
    with Node(1, behaviors=[Echo()]) as one, Node(2, behaviors=[caller]) as two:
        two.connect(one.listen("/ip4/127.0.0.1/tcp/0"))
        while len(caller.answers) < 3:
            one.poll(0.01)
            two.poll(0.01)
        print(f"answers: {caller.answers}")
        print(f"sent: {two.stats().messages_sent}, dropped: {two.stats().dropped}")
        two.close(timeout_s=0)  # nobody turns node 1 meanwhile, so there is nothing to wait for


if __name__ == "__main__":
    main()
