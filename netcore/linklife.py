"""The life of a link, as behaviors and handlers see it.

The order, for each link: ``on_*_connected`` of every behavior, ascending service id; ``on_opened``
of the handlers they returned; messages, events, ticks; ``on_closed`` of the handlers; the events
those still sent; ``on_*_disconnected`` of every behavior. Each exactly once.
"""

from __future__ import annotations

from collections.abc import Callable

from . import wire
from ._typing import TYPE_CHECKING, final
from .agent import AgentHost, BehaviorAgent, ConnectionAgent, ConnectionSender
from .behavior import ConnectionHandler, NetworkBehavior
from .handshake import PeerInfo
from .hello import printable
from .hooks import HookRunner
from .ids import format_conn
from .links import Link, LinkTable
from .logs import INFO, logger_of
from .monitor import LinkMonitor
from .registry import BehaviorTable
from .route import Metric
from .stats import ConnectionStats

if TYPE_CHECKING:
    from ._backend import kernels

__all__ = ["LinkLife"]

logger = logger_of("netcore.plane")

#: A hook ``on_connection_writable`` that somebody wrote, its agent, and its end of the link.
_Writer = tuple["Callable[..., object]", BehaviorAgent, ConnectionSender]


@final
class LinkLife:
    """Tells the behaviors, the handlers and the router of one node what becomes of its links.

    Args:
        links: Those that live.
        monitor: Watches them.
        behaviors: Who is told.
        hooks: Runs user code.
        host: What agents ask.
        make_port: Returns a sender for a service, and a link.
        make_vitals: Returns the numbers of a link: its conn id, the neighbour's epoch, the time.
        router: Told as well, when it has ``set_direct`` and ``del_direct``.

    Attributes:
        opened: Links reported as connected.
        closed: Links that ended.
    """

    def __init__(
        self,
        links: LinkTable,
        monitor: LinkMonitor,
        behaviors: BehaviorTable,
        hooks: HookRunner,
        host: AgentHost,
        make_port: Callable[[int, kernels.Connection | None], kernels.Port],
        make_vitals: Callable[[int, int, int], kernels.Vitals],
        router: object,
    ) -> None:
        self._links = links
        self._monitor = monitor
        self._behaviors = behaviors
        self._hooks = hooks
        self._host = host
        self._make_port = make_port
        self._make_vitals = make_vitals
        # An injected router need not want to know of links.
        self._set_direct: Callable[..., object] | None = getattr(router, "set_direct", None)
        self._del_direct: Callable[..., object] | None = getattr(router, "del_direct", None)
        self._ending: set[int] = set()
        # conn id -> whom to tell, of links that have refused a send: a busy one drains often.
        self._writers: dict[int, tuple[_Writer, ...]] = {}
        self.opened = self.closed = 0

    def is_ending(self, conn_id: int) -> bool:
        """Return whether a link is gone, but its behaviors have not been told yet."""
        return conn_id in self._ending

    def open(
        self, conn: kernels.Connection, peer: PeerInfo, remote_addr: str, rtt_ms: float | None
    ) -> None:
        """A handshake is done and its connection made: tell everybody, then start it."""
        conn_id = conn.conn_id
        link = Link(conn, self._make_vitals(conn_id, peer.epoch, self._host.now_ms), remote_addr)
        self._links.add(link)
        self.opened += 1
        if self._hooks.observer is not None:
            self._hooks.observer.link_up(conn)
        self._monitor.add(link, rtt_ms)
        if logger.isEnabledFor(INFO):
            name = format_conn(conn_id)
            logger.info("%s to node %s (%s) is up", name, peer.node_id, remote_addr)
        # Before the hooks: what they send to the new neighbour should find its way.
        if self._set_direct is not None:
            latency_ms = wire.UNKNOWN_LATENCY_MS if rtt_ms is None else round(rtt_ms)
            metric = Metric(latency_ms, (peer.node_id,))
            self._hooks.run(self._set_direct, conn_id, peer.node_id, metric)
        for behavior, agent in self._behaviors:
            self._connect_behavior(link, behavior, agent)
        for handler, handler_agent in link.handlers:
            self._hooks.run(handler.on_opened, handler_agent)
        conn.start()

    def _connect_behavior(
        self, link: Link, behavior: NetworkBehavior, agent: BehaviorAgent
    ) -> None:
        sender = self._sender(link, agent.service_id)
        hook = (
            behavior.on_outgoing_connection_connected
            if sender.is_outgoing
            else behavior.on_incoming_connection_connected
        )
        handler = self._hooks.run(hook, agent, sender)
        if handler is None:
            return
        if not isinstance(handler, ConnectionHandler):
            error = TypeError(f"expected a ConnectionHandler or None, not {type(handler).__name__}")
            self._hooks.on_error(hook, error)
            return
        port = self._make_port(agent.service_id, link.conn)
        handler_agent = ConnectionAgent(
            self._host, port, agent.service_id, link.conn, link.remote_addr
        )
        link.add_handler(handler, handler_agent)
        if type(handler).on_event is not ConnectionHandler.on_event:
            link.conn.set_handler(agent.service_id, handler.on_event, handler_agent)

    def _sender(self, link: Link, service_id: int) -> ConnectionSender:
        port = self._make_port(service_id, link.conn)
        return ConnectionSender(self._host, port, link.conn, link.remote_addr)

    def on_closing(self, conn: kernels.Connection) -> None:
        """One end began to close a link: no route may use it any more."""
        if self._del_direct is not None:
            self._hooks.run(self._del_direct, conn.conn_id)

    def on_closed(self, link: Link, code: int, text: str) -> None:
        """A link is gone: end its handlers; ``tell_disconnected`` is to follow."""
        conn = link.conn
        self.on_closing(conn)
        if logger.isEnabledFor(INFO):
            name = format_conn(conn.conn_id)
            why = printable(text) or f"code {code}"
            logger.info("%s to node %s is down: %s", name, conn.remote_node_id, why)
        self._monitor.remove(link)
        self._links.remove(link)
        self._writers.pop(conn.conn_id, None)
        for handler, agent in link.handlers:
            self._hooks.run(handler.on_closed, agent)
        link.drop_handlers()
        self.closed += 1
        if self._hooks.observer is not None:
            self._hooks.observer.link_down(conn, code, text)
        self._ending.add(conn.conn_id)

    def tell_disconnected(self, link: Link) -> None:
        """Tell the behaviors that a link is gone."""
        self._ending.discard(link.conn.conn_id)
        for behavior, agent in self._behaviors:
            sender = self._sender(link, agent.service_id)
            hook = (
                behavior.on_outgoing_connection_disconnected
                if sender.is_outgoing
                else behavior.on_incoming_connection_disconnected
            )
            self._hooks.run(hook, agent, sender)

    def tell_writable(self, link: Link) -> None:
        """Tell the behaviors that a link which refused a send has drained."""
        writers = self._writers.get(link.conn.conn_id)
        if writers is None:
            writers = self._writers[link.conn.conn_id] = self._find_writers(link)
        for hook, agent, sender in writers:
            self._hooks.run(hook, agent, sender)

    def _find_writers(self, link: Link) -> tuple[_Writer, ...]:
        return tuple(
            (behavior.on_connection_writable, agent, self._sender(link, agent.service_id))
            for behavior, agent in self._behaviors
            if getattr(behavior.on_connection_writable, "__func__", None)
            is not NetworkBehavior.on_connection_writable
        )

    def tell_measured(self, link: Link, stats: ConnectionStats) -> None:
        """Give a measurement to every handler of the link."""
        for handler, agent in link.handlers:
            self._hooks.run(handler.on_event, agent, stats)
