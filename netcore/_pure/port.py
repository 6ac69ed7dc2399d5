"""What an agent sends with: the routing rules spelled out, in the name of one service."""

from __future__ import annotations

from collections.abc import Callable

from .. import wire
from .._typing import final
from ..errors import LocalError, NoRouteError
from ..ids import check_key, check_node_id, key_of
from ..route import BroadcastLevel, RouteRule, check_rule
from .callvalues import CallAnswer
from .codec import Message
from .connection import Connection
from .switch import Payload, Switch

__all__ = ["Port"]


@final
class Port:
    """Sends in the name of one service, for agents.

    Args:
        switch: Of the node.
        service_id: The sending service, and the default receiving one.
        conn: The own link of a handler's agent.
    """

    def __init__(self, switch: Switch, service_id: int, conn: Connection | None = None) -> None:
        self.service_id = service_id
        self._switch = switch
        self._conn = conn

    def send(
        self,
        rule: RouteRule,
        payload: Payload,
        *,
        to_service: int | None = None,
        stream_id: int = 0,
        meta: int = 0,
        ttl: int = wire.DEFAULT_TTL_HOPS,
    ) -> None:
        """Send where the rule says; raises like ``Switch.originate``."""
        check_rule(rule)
        own = self.service_id
        self._switch.originate(
            wire.KIND_MESSAGE, rule.kind, rule.argument, payload, own,
            own if to_service is None else to_service, stream_id, meta, ttl,
        )  # fmt: skip

    def send_to_node(
        self,
        node_id: int,
        payload: Payload,
        *,
        to_service: int | None = None,
        stream_id: int = 0,
        meta: int = 0,
        ttl: int = wire.DEFAULT_TTL_HOPS,
    ) -> None:
        """Send to the node with this id, over as many hops as it takes."""
        own = self.service_id
        self._switch.originate(
            wire.KIND_MESSAGE, wire.ROUTE_NODE, check_node_id(node_id), payload, own,
            own if to_service is None else to_service, stream_id, meta, ttl,
        )  # fmt: skip

    def send_to_key(
        self,
        key: int | str | bytes,
        payload: Payload,
        *,
        to_service: int | None = None,
        stream_id: int = 0,
        meta: int = 0,
        ttl: int = wire.DEFAULT_TTL_HOPS,
    ) -> None:
        """Send to the node whose id is closest to the key, an int or a name for ``key_of``."""
        own = self.service_id
        number = key_of(key) if isinstance(key, str | bytes) else check_key(key)
        self._switch.originate(
            wire.KIND_MESSAGE, wire.ROUTE_KEY, number, payload, own,
            own if to_service is None else to_service, stream_id, meta, ttl,
        )  # fmt: skip

    def send_to_service(
        self,
        service_id: int,
        payload: Payload,
        *,
        stream_id: int = 0,
        meta: int = 0,
        ttl: int = wire.DEFAULT_TTL_HOPS,
    ) -> None:
        """Send to a node that offers the service: this one, else the nearest."""
        self._switch.originate(
            wire.KIND_MESSAGE, wire.ROUTE_SERVICE, 0, payload, self.service_id, service_id,
            stream_id, meta, ttl,
        )  # fmt: skip

    def broadcast(
        self,
        payload: Payload,
        *,
        level: int = BroadcastLevel.GLOBAL,
        to_service: int | None = None,
        stream_id: int = 0,
        meta: int = 0,
        ttl: int = wire.DEFAULT_TTL_HOPS,
    ) -> None:
        """Send to every node within the level that offers the service, this one included."""
        own = self.service_id
        self._switch.originate(
            wire.KIND_MESSAGE, wire.ROUTE_SERVICES, level, payload, own,
            own if to_service is None else to_service, stream_id, meta, ttl,
        )  # fmt: skip

    def send_local(
        self,
        payload: Payload,
        *,
        to_service: int | None = None,
        stream_id: int = 0,
        meta: int = 0,
        ttl: int = wire.DEFAULT_TTL_HOPS,
    ) -> None:
        """Send to this node's own behavior; it is called after the running hook."""
        own = self.service_id
        self._switch.send_local(
            payload, own, own if to_service is None else to_service, stream_id, meta, ttl
        )

    def send_to_conn(
        self,
        conn_id: int,
        payload: Payload,
        *,
        to_service: int | None = None,
        stream_id: int = 0,
        meta: int = 0,
        ttl: int = wire.DEFAULT_TTL_HOPS,
    ) -> None:
        """Send one hop over exactly this link."""
        own = self.service_id
        self._switch.send_on(
            self._switch.find_connection(conn_id), payload, own,
            own if to_service is None else to_service, stream_id, meta, ttl,
        )  # fmt: skip

    def send_on_link(
        self,
        payload: Payload,
        *,
        to_service: int | None = None,
        stream_id: int = 0,
        meta: int = 0,
        ttl: int = wire.DEFAULT_TTL_HOPS,
    ) -> None:
        """Send one hop over the own link."""
        own = self.service_id
        self._switch.send_on(
            self._conn, payload, own, own if to_service is None else to_service, stream_id, meta,
            ttl,
        )  # fmt: skip

    def call(
        self,
        rule: RouteRule,
        service_id: int,
        payload: Payload,
        on_done: Callable[[CallAnswer], object],
        timeout_ms: int = 5_000,
    ) -> None:
        """Call a service; raises like ``CallDesk.call``."""
        desk = self._switch._calls
        if desk is None:
            raise LocalError("nobody takes calls here")
        desk.call(self.service_id, rule, service_id, payload, on_done, timeout_ms)

    def reply(self, message: Message, payload: Payload) -> None:
        """Send back to the message's node and service, with its ``stream_id``.

        Raises:
            NoRouteError: The message does not name its sender, or nothing leads there.
        """
        if not isinstance(message, Message):
            raise TypeError(f"a reply is to a Message, not to {type(message).__name__}")
        if message.from_node is None:
            raise NoRouteError("a sender that did not give its node id")
        self._switch.originate(
            wire.KIND_MESSAGE, wire.ROUTE_NODE, message.from_node, payload, self.service_id,
            message.from_service, message.stream_id,
        )  # fmt: skip
