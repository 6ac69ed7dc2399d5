"""The two classes that users derive from; every hook has a working default."""

from __future__ import annotations

from ._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._backend import kernels
    from .agent import BehaviorAgent, ConnectionAgent, ConnectionSender
    from .errors import OutgoingConnectionError
    from .rpc import RpcAnswer, RpcRequest
    from .stats import ConnectionStats

__all__ = ["ConnectionHandler", "NetworkBehavior"]


class NetworkBehavior:
    """One service of a node.

    All hooks run on the node's thread, never one inside another. What a hook asks of its agent
    happens after the hook has returned, in the order asked; sends are queued at once. An exception
    that leaves a hook is logged with its traceback, counted in ``NodeStats.hook_errors``, and
    disturbs nothing else.

    Attributes:
        service_id: 0..239, a class attribute or a property; does not change.
    """

    service_id: int

    def on_started(self, agent: BehaviorAgent) -> None:
        """The node begins its first turn; called once, before any other hook."""

    def on_stopped(self, agent: BehaviorAgent) -> None:
        """The node closes; called once, after every other hook."""

    def on_tick(self, agent: BehaviorAgent, ts_ms: int, interval_ms: int) -> None:
        """Another ``tick_ms`` passed.

        Args:
            agent: What this behavior may ask for.
            ts_ms: The node's time, monotonic milliseconds.
            interval_ms: ``tick_ms``; ticks that come late are skipped, not bunched.
        """

    def check_incoming_connection(self, node: int, conn_id: int) -> None:
        """Decide about an incoming link before it exists.

        Args:
            node: The node that dials, its secret already verified.
            conn_id: What the link will be called.

        Raises:
            ConnectionRejected: Refuses; the other node is told the reason.
        """

    def check_outgoing_connection(self, node: int | None, conn_id: int) -> None:
        """Decide about a dial before it starts.

        Args:
            node: The node that is expected there, None when the address does not say.
            conn_id: As returned by ``connect``.

        Raises:
            ConnectionRejected: Refuses; every behavior's ``on_outgoing_connection_error`` follows.
        """

    def on_incoming_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> ConnectionHandler | None:
        """A link that the other node dialled is up; called exactly once per link.

        Returns:
            The handler of this service on this link, or None.
        """
        return None

    def on_outgoing_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> ConnectionHandler | None:
        """A link that this node dialled is up; called exactly once per link."""
        return None

    def on_incoming_connection_disconnected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        """An incoming link is gone; exactly once per connected one, after its handlers' end."""

    def on_outgoing_connection_disconnected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        """An outgoing link is gone; exactly once per connected one, after its handlers' end."""

    def on_outgoing_connection_error(
        self,
        agent: BehaviorAgent,
        node_id: int | None,
        conn_id: int,
        err: OutgoingConnectionError,
    ) -> None:
        """A dial ended without a link; called exactly once per failed conn id."""

    def on_connection_writable(self, agent: BehaviorAgent, conn: ConnectionSender) -> None:
        """A link that refused a send has drained to ``write_low_bytes``."""

    def on_handler_event(
        self, agent: BehaviorAgent, node_id: int, conn_id: int, event: object
    ) -> None:
        """A handler of this service called ``send_behavior(event)``."""

    def on_message(self, agent: BehaviorAgent, message: kernels.Message) -> None:
        """A message for this service.

        Called for what this node sent to itself, and for what arrives on a link where this service
        has no handler that overrides ``on_event``.
        """

    def on_rpc(self, agent: BehaviorAgent, req: RpcRequest, res: RpcAnswer) -> bool:
        """A call for this service.

        Args:
            agent: What this behavior may ask for.
            req: The request.
            res: Answers it, exactly once, now or later.

        Returns:
            True: answered, or will be. False: not handled, and the caller is told so.
        """
        return False


class ConnectionHandler:
    """One service on one link; made by the behavior when the link came up."""

    def on_opened(self, agent: ConnectionAgent) -> None:
        """The link is up; called once, before any other hook of this handler."""

    def on_tick(self, agent: ConnectionAgent, ts_ms: int, interval_ms: int) -> None:
        """Another ``tick_ms`` passed."""

    def on_event(self, agent: ConnectionAgent, event: kernels.Message | ConnectionStats) -> None:
        """A message for this service came over this link, or the link measured itself.

        A handler class that does not override this hook leaves messages to ``on_message``.
        """

    def on_other_handler_event(
        self, agent: ConnectionAgent, from_node: int, from_conn: int, event: object
    ) -> None:
        """A handler of this service, on this or another link, called ``send_to_handler``.

        Args:
            agent: What this handler may ask for.
            from_node: The node at the other end of the sender's link.
            from_conn: The sender's link; ``HandlerRoute.conn(from_conn)`` leads back to it.
            event: Whatever it sent.
        """

    def on_behavior_event(self, agent: ConnectionAgent, event: object) -> None:
        """The behavior of this service called ``send_to_handler``."""

    def on_closed(self, agent: ConnectionAgent) -> None:
        """The link is gone; called once, last. What is asked for here is still carried out."""
