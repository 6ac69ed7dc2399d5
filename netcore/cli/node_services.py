"""The behaviors of ``netcore node``: one keeps its links up, the others echo."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, final

from netcore import (
    BehaviorAgent,
    ConnectionSender,
    Message,
    NetworkBehavior,
    NodeAddr,
    RpcAnswer,
    RpcRequest,
)

__all__ = ["Dialer", "Echo"]

#: ``meta`` of what an echo sends back. It is not sent back again: two echoes would never end.
ECHOED: Final = 1
#: Bytes of a payload that are shown.
SHOWN_BYTES: Final = 200

Say = Callable[[str], None]


@final
class Dialer(NetworkBehavior):
    """Keeps a link to each address, and tells about every link of the node.

    Why an address cannot be reached is in the log, where it stands once.

    Args:
        service_id: Any that no other behavior of the node has; nothing is sent to it.
        addrs: What to dial.
        say: Gets a line of text.
    """

    def __init__(self, service_id: int, addrs: Iterable[NodeAddr], say: Say) -> None:
        self.service_id = service_id
        self._addrs = tuple(addrs)
        self._say = say
        self._ended = False

    def end(self) -> None:
        """Tell nothing more: the node is about to be closed."""
        self._ended = True

    def on_started(self, agent: BehaviorAgent) -> None:
        """Dial everything."""
        agent.unregister_service()  # it offers nothing to others
        for addr in self._addrs:
            agent.connect_to(addr, keep=True)

    def on_incoming_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        """Tell."""
        self._say(f"link up: node {conn.remote_node_id} dialled in from {conn.remote_addr}")

    def on_outgoing_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        """Tell."""
        self._say(f"link up: node {conn.remote_node_id} at {conn.remote_addr}")

    def on_incoming_connection_disconnected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        """Tell."""
        if not self._ended:
            self._say(f"link down: node {conn.remote_node_id}, {conn.remote_addr}")

    def on_outgoing_connection_disconnected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        """Tell; netcore dials again."""
        if not self._ended:
            self._say(f"link down: node {conn.remote_node_id} at {conn.remote_addr}")


@final
class Echo(NetworkBehavior):
    """Sends messages back and answers calls with what they brought; tells about both.

    Args:
        service_id: Which service this is.
        say: Gets a line of text.
    """

    def __init__(self, service_id: int, say: Say) -> None:
        self.service_id = service_id
        self._say = say

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Send it back, unless it is what came back."""
        self._tell("message", message.from_node, message.payload)
        if message.from_node is not None and message.meta != ECHOED:
            agent.send_to_node(
                message.from_node,
                message.payload,
                to_service=message.from_service,
                stream_id=message.stream_id,
                meta=ECHOED,
            )

    def on_rpc(self, agent: BehaviorAgent, req: RpcRequest, res: RpcAnswer) -> bool:
        """Answer with what it brought."""
        self._tell("call", req.from_node, req.payload)
        res.ok(req.payload)
        return True

    def _tell(self, what: str, sender: int | None, payload: bytes) -> None:
        more = f" and {len(payload) - SHOWN_BYTES} bytes more" * (len(payload) > SHOWN_BYTES)
        shown = f"{payload[:SHOWN_BYTES]!r}{more}"
        self._say(f"service {self.service_id}: {what} of node {sender}: {shown}")
