"""Probes: the services of a campaign's nodes, which watch their own hooks.

Nothing here raises inside a hook: a node would take it for user code that failed. What is wrong
goes to ``Crew.fail``.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, TypeVar, final

from netcore import (
    BehaviorAgent,
    ConnectionAgent,
    ConnectionHandler,
    ConnectionSender,
    ConnectionStats,
    LocalError,
    Message,
    NetworkBehavior,
    RouteRule,
    RpcAnswer,
    RpcRequest,
)

from .scenario import PROBE

if TYPE_CHECKING:
    from .crew import Crew

__all__ = ["NUMBER", "Life", "Probe", "attempt"]

#: How a payload begins: the number of the message, and that on the link (0: it has a route).
NUMBER: Final = struct.Struct(">QQ")

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="_Watched")


@final
class Life:
    """One process of a node: which of its hooks runs."""

    __slots__ = ("crew", "node_id", "running", "stopped")

    def __init__(self, crew: Crew, node_id: int) -> None:
        self.crew = crew
        self.node_id = node_id
        self.running: str | None = None
        self.stopped: set[int] = set()  # services

    def enter(self, hook: str, service: int) -> None:
        """A hook or callback begins."""
        if self.running is not None:
            self.crew.fail("nested", f"node {self.node_id}: {hook} inside {self.running}")
        if service in self.stopped:
            self.crew.fail("after-stop", f"node {self.node_id}: {hook} after on_stopped")
        self.running = hook


class _Watched:
    """Something with hooks."""

    life: Life
    service: int
    closed = False


def _hook(
    fn: Callable[Concatenate[S, P], R],
) -> Callable[Concatenate[S, P], R]:
    """Watch that a hook does not run inside another one, nor after the end."""
    name = fn.__name__

    @functools.wraps(fn)
    def watched(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        self.life.enter(f"{type(self).__name__}.{name}", self.service)
        if self.closed:
            self.life.crew.fail("after-closed", f"node {self.life.node_id}: {name} after on_closed")
        try:
            return fn(self, *args, **kwargs)
        finally:
            self.life.running = None

    return watched


@final
class Probe(NetworkBehavior, _Watched):
    """A service that answers, and numbers what it sends over each link."""

    def __init__(self, life: Life, service_id: int) -> None:
        self.life = life
        self.service = self.service_id = service_id
        self.links: dict[int, int] = {}  # conn -> neighbour
        self.next_on: dict[int, int] = {}
        self.dials: set[int] = set()  # that ended

    @_hook
    def on_started(self, agent: BehaviorAgent) -> None:
        """Note it."""

    @_hook
    def on_stopped(self, agent: BehaviorAgent) -> None:
        """Nothing may follow."""
        self.life.stopped.add(self.service)

    @_hook
    def on_tick(self, agent: BehaviorAgent, ts_ms: int, interval_ms: int) -> None:
        """Send to itself, now and then."""

    @_hook
    def on_incoming_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> ConnectionHandler | None:
        """Take a link in."""
        return self._opened(conn)

    @_hook
    def on_outgoing_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> ConnectionHandler | None:
        """Take a link in."""
        self._end_dial(conn.conn_id)
        return self._opened(conn)

    @_hook
    def on_incoming_connection_disconnected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        """Let a link go."""
        self._ended(conn)

    @_hook
    def on_outgoing_connection_disconnected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> None:
        """Let a link go."""
        self._ended(conn)

    @_hook
    def on_outgoing_connection_error(
        self, agent: BehaviorAgent, node_id: int | None, conn_id: int, err: object
    ) -> None:
        """Note the end of a dial."""
        self._end_dial(conn_id)

    @_hook
    def on_connection_writable(self, agent: BehaviorAgent, conn: ConnectionSender) -> None:
        """Note it."""

    @_hook
    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Take a message in; one in four gets a reply."""
        number = self.life.crew.on_delivered(self.life, message)
        if number % 4 == 0 and message.from_service != self.service and message.from_service:
            self.life.crew.reply(self.life, agent, message)

    @_hook
    def on_rpc(self, agent: BehaviorAgent, req: RpcRequest, res: RpcAnswer) -> bool:
        """Answer at once, later, or not at all."""
        how = req.payload[7] % 8 if len(req.payload) > 7 else 0
        if how == 1:
            return False
        if how in (2, 3):
            life, service = self.life, self.service

            def answer() -> None:
                life.enter("later", service)
                attempt(res.ok, req.payload)
                life.running = None

            agent.call_later(how * 100, answer)
        elif how != 4:  # 4: let it go
            attempt(res.ok, req.payload)
        return True

    def _opened(self, conn: ConnectionSender) -> ConnectionHandler | None:
        if conn.conn_id in self.links:
            self.life.crew.fail("links", f"node {self.life.node_id}: connected twice")
        self.links[conn.conn_id] = conn.remote_node_id
        return Ear(self.life, self.service) if self.service == PROBE else None

    def _ended(self, conn: ConnectionSender) -> None:
        if self.links.pop(conn.conn_id, None) is None:
            self.life.crew.fail("links", f"node {self.life.node_id}: disconnected, not connected")
        self.next_on.pop(conn.conn_id, None)

    def _end_dial(self, conn_id: int) -> None:
        if conn_id in self.dials:
            self.life.crew.fail("links", f"node {self.life.node_id}: a dial ended twice")
        self.dials.add(conn_id)


@final
class Ear(ConnectionHandler, _Watched):
    """Hears what comes over one link, and in which order."""

    def __init__(self, life: Life, service: int) -> None:
        self.life = life
        self.service = service
        self.heard = 0
        self.opened = False

    @_hook
    def on_opened(self, agent: ConnectionAgent) -> None:
        """Come once, and first."""
        if self.opened:
            self.life.crew.fail("links", f"node {self.life.node_id}: on_opened twice")
        self.opened = True

    @_hook
    def on_event(self, agent: ConnectionAgent, event: Message | ConnectionStats) -> None:
        """Take a message in."""
        if isinstance(event, ConnectionStats):
            return
        crew = self.life.crew
        crew.on_delivered(self.life, event)
        at = NUMBER.unpack_from(event.payload)[1]
        if at and event.route == RouteRule.direct():
            if at != self.heard + 1:
                where = f"{agent.remote_node_id} to {self.life.node_id}"
                crew.fail("fifo", f"number {at} after {self.heard} on the link from {where}")
            self.heard = at

    @_hook
    def on_closed(self, agent: ConnectionAgent) -> None:
        """Nothing may follow."""
        self.closed = True


def attempt(send: Callable[..., object], *args: object, **how: int) -> LocalError | None:
    """Send; return why that was refused."""
    try:
        send(*args, **how)
    except LocalError as error:
        return error
    return None
