"""Events between handlers and behaviors: any Python object, inside one process."""

from __future__ import annotations

from collections.abc import Callable

from ._typing import final
from .commands import ToBehavior, ToHandler
from .hooks import HookRunner
from .links import Link, LinkTable
from .monitor import LinkMonitor
from .registry import BehaviorTable
from .route import HandlerRoute

__all__ = ["EventDesk"]


@final
class EventDesk:
    """Delivers the events of one node.

    Args:
        behaviors: Whose events.
        links: Where handlers are.
        monitor: Knows which of several links is the best.
        is_ending: Whether a link is gone but its behaviors have not been told yet.
        hooks: Runs user code.

    Attributes:
        dropped: Events without a handler, or behavior, to go to.
    """

    def __init__(
        self,
        behaviors: BehaviorTable,
        links: LinkTable,
        monitor: LinkMonitor,
        is_ending: Callable[[int], bool],
        hooks: HookRunner,
    ) -> None:
        self._behaviors = behaviors
        self._links = links
        self._monitor = monitor
        self._is_ending = is_ending
        self._hooks = hooks
        self.dropped = 0

    def to_behavior(self, command: ToBehavior) -> None:
        """Give a handler's event to its behavior; not after that was told that the link is gone."""
        target = self._behaviors.find(command.service_id)
        conn_id = command.conn_id
        if target is None or not (self._links.find(conn_id) or self._is_ending(conn_id)):
            self.dropped += 1
            return
        behavior, agent = target
        self._hooks.run(behavior.on_handler_event, agent, command.node_id, conn_id, command.event)

    def to_handler(self, command: ToHandler) -> None:
        """Give an event of the behavior, or of a handler, to a handler of the same service."""
        link = self._find_link(command.route)
        target = None if link is None else link.find_handler(command.service_id)
        if target is None:
            self.dropped += 1
            return
        handler, agent = target
        if command.from_conn is None:
            self._hooks.run(handler.on_behavior_event, agent, command.event)
        else:
            self._hooks.run(
                handler.on_other_handler_event,
                agent,
                command.from_node,
                command.from_conn,
                command.event,
            )

    def _find_link(self, route: HandlerRoute) -> Link | None:
        if route.conn_id is not None:
            return self._links.find(route.conn_id)
        if route.node_id is None:
            return None
        links = [link for link in self._links.to_node(route.node_id) if link.is_open]
        # min() keeps the first of equals, and the table is in order of age.
        return min(links, key=self._quality, default=None)

    def _quality(self, link: Link) -> tuple[bool, float]:
        conn_id = link.conn.conn_id
        rtt_ms = self._monitor.rtt_ms(conn_id)
        return self._monitor.suspect(conn_id), float("inf") if rtt_ms is None else rtt_ms
