"""The behaviors of ``netcore node``: one keeps its links up, the others echo."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Final, final

from netcore import (
    AlreadyConnected,
    BehaviorAgent,
    ConnectionSender,
    Message,
    NetworkBehavior,
    NodeAddr,
    OutgoingConnectionError,
    RpcAnswer,
    RpcRequest,
    SelfConnect,
)

__all__ = ["RETRY_MS", "Dialer", "Echo", "retry_after_ms"]

#: Waits between dials of one address; the last one is repeated.
RETRY_MS: Final = (1_000, 2_000, 5_000, 10_000, 30_000)
#: A link that lived this long was a good one: the waits begin anew.
STABLE_MS: Final = 10_000
#: ``meta`` of what an echo sends back. It is not sent back again: two echoes would never end.
ECHOED: Final = 1
#: Bytes of a payload that are shown.
SHOWN_BYTES: Final = 200

Say = Callable[[str], None]


def retry_after_ms(failures: int, rng: Random) -> int:
    """Return how long to wait after so many failures in a row.

    A random quarter less, so that the nodes that lost one neighbour do not all come back at once.
    """
    wait_ms = RETRY_MS[min(failures, len(RETRY_MS)) - 1]
    return round(wait_ms * (1 - rng.random() / 4))


@final
class _Target:
    """An address that shall have a link."""

    def __init__(self, addr: NodeAddr) -> None:
        self.addr = addr
        self.failures = 0
        self.up_since_ms: int | None = None


@final
class Dialer(NetworkBehavior):
    """Dials addresses, again and again, and tells about every link of the node.

    Args:
        service_id: Any that no other behavior of the node has; nothing is sent to it.
        addrs: What to dial.
        say: Gets a line of text.
        rng: Spreads the waits.
    """

    def __init__(self, service_id: int, addrs: Iterable[NodeAddr], say: Say, rng: Random) -> None:
        self.service_id = service_id
        self._targets = [_Target(addr) for addr in addrs]
        self._dials: dict[int, _Target] = {}
        self._say = say
        self._rng = rng
        self._ended = False

    def end(self) -> None:
        """Dial no more and tell nothing more: the node is about to be closed."""
        self._ended = True

    # -- hooks -------------------------------------------------------------------------------------

    def on_started(self, agent: BehaviorAgent) -> None:
        """Dial everything."""
        agent.unregister_service()  # it offers nothing to others
        for target in self._targets:
            self._dial(agent, target)

    def on_incoming_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        """Tell."""
        self._say(f"link up: node {conn.remote_node_id} dialled in from {conn.remote_addr}")

    def on_incoming_connection_disconnected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        """Tell."""
        if not self._ended:
            self._say(f"link down: node {conn.remote_node_id}, {conn.remote_addr}")

    def on_outgoing_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        """Tell."""
        self._say(f"link up: node {conn.remote_node_id} at {conn.remote_addr}")
        target = self._dials.get(conn.conn_id)
        if target is not None:
            target.up_since_ms = agent.now_ms

    def on_outgoing_connection_disconnected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        """Tell, and dial again."""
        target = self._dials.pop(conn.conn_id, None)
        if target is None or self._ended:
            return
        if target.up_since_ms is not None and agent.now_ms - target.up_since_ms >= STABLE_MS:
            target.failures = 0
        target.up_since_ms = None
        again = self._dial_later(agent, target)
        self._say(f"link down: node {conn.remote_node_id} at {conn.remote_addr}; {again}")

    def on_outgoing_connection_error(
        self,
        agent: BehaviorAgent,
        node_id: int | None,
        conn_id: int,
        err: OutgoingConnectionError,
    ) -> None:
        """Tell why, and dial again."""
        target = self._dials.pop(conn_id, None)
        if target is None or self._ended:
            return
        if isinstance(err, AlreadyConnected):
            # The other node dialled first. Should that link end, this one is wanted again.
            first = target.failures == 0
            self._dial_later(agent, target)
            if first:
                self._say(f"{target.addr}: there is a link to that node already")
        elif isinstance(err, SelfConnect):
            self._say(f"cannot dial {target.addr}: {err}; giving up")
        else:
            again = self._dial_later(agent, target)
            self._say(f"cannot dial {target.addr}: {err}; {again}")

    # -- dialling ----------------------------------------------------------------------------------

    def _dial(self, agent: BehaviorAgent, target: _Target) -> None:
        if not self._ended:
            self._dials[agent.connect_to(target.addr)] = target

    def _dial_later(self, agent: BehaviorAgent, target: _Target) -> str:
        """Dial after a while; return when, in words."""
        target.failures += 1
        wait_ms = retry_after_ms(target.failures, self._rng)
        agent.call_later(wait_ms, lambda: self._dial(agent, target))
        return f"again in {wait_ms / 1_000:.1f} s"


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
