"""The plane: the control side of a node, which puts its parts together and drains what hooks ask.

Facts first:

- User code only runs in ``HookRunner`` and, for messages, in the switch. What hooks ask for is
  queued and drained after the hook has returned, one command and one local message in turn, to a
  fixed point. After ``max_drain`` of them the loop gets its turn first, so that two services that
  talk to each other do not stop the node.
- The order of a link's life stands in ``linklife``, that of a dial in ``dials``: every conn id
  given out ends in exactly one of *connected* and *error*; closing ends those still under way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from . import wire
from ._typing import TYPE_CHECKING, final
from .address import NodeAddr
from .admission import Admission, Attempt
from .agent import BehaviorAgent, Later
from .behavior import NetworkBehavior
from .commands import (
    CancelDial,
    CloseConn,
    CloseNode,
    Command,
    Connect,
    Disconnected,
    ToBehavior,
    ToHandler,
)
from .config import NodeConfig
from .dials import DialBook, Shell
from .errors import (
    LocalError,
    NodeClosedError,
    OutgoingConnectionError,
    QueueFullError,
)
from .events import EventDesk
from .handshake import PeerInfo
from .hooks import HookRunner, Observer
from .ids import ConnId, NodeId
from .linklife import LinkLife
from .links import Link, LinkTable
from .monitor import LinkMonitor
from .redial import Redialer
from .registry import BehaviorTable
from .router import RouterTable, offer_service
from .stats import ConnectionStats

if TYPE_CHECKING:
    from random import Random

    from ._backend import kernels

__all__ = ["Plane"]


@final
class Plane:
    """The control side of one node.

    Attributes:
        commands: What hooks asked for; the switch looks whether it is empty.
        links: The live links.
        admission: Decides who gets one.
        monitor: Watches them.
        redialer: Keeps links up.
        calls: RPC.
        commands_refused: Requests of hooks beyond ``max_commands``.
    """

    def __init__(
        self,
        config: NodeConfig,
        behaviors: Sequence[NetworkBehavior],
        router: RouterTable,
        shell: Shell,
        *,
        loop: kernels.Loop,
        port: Callable[[kernels.Switch, int, kernels.Connection | None], kernels.Port],
        calls: type[kernels.CallDesk],
        vitals: Callable[[int, int, int], kernels.Vitals],
        rng: Random,
        clock_us: Callable[[], int],
        reserved: Sequence[NetworkBehavior] = (),
        observer: Observer | None = None,
    ) -> None:
        self._config = config
        self._shell = shell
        self._router = router
        self._loop = loop
        self._make_port = port
        self.node_id = NodeId(config.node_id)
        self.commands: deque[Command] = deque()
        self.links = LinkTable()
        self._hooks = HookRunner(self.node_id, loop, observer)
        self._behaviors = BehaviorTable(behaviors, reserved)
        self.monitor = LinkMonitor(config, self.links, loop, rng, clock_us, self)
        self.admission = Admission(self.node_id, config.max_links, self.links, self)
        self.redialer = Redialer(self.node_id, config.max_kept, self.links, rng, self)
        self.calls = calls(
            loop, rng, self._hooks, config.max_pending_calls, config.max_answers_open
        )
        self._rng = rng
        self._switch: kernels.Switch | None = None
        self._book = DialBook(shell, self.admission, self.redialer, self._behaviors, self._hooks)
        self._life = LinkLife(
            self.links,
            self.monitor,
            self._behaviors,
            self._hooks,
            self,
            self._port_for,
            vitals,
            router,
        )
        self._events = EventDesk(
            self._behaviors, self.links, self.monitor, self._life.is_ending, self._hooks
        )
        self._draining = False
        self._drain_timer: Later | None = None
        self._running = False
        self._stopped = False
        self._gone: type[NodeClosedError] = NodeClosedError
        self._tick_timer: Later | None = None
        self._next_tick_ms = 0
        self._events_left = 0
        self.commands_refused = 0

    def bind(self, switch: kernels.Switch) -> None:
        """Use this switch, whose sink the plane is; once, before anything else."""
        self._switch = switch
        self.links.bind(switch)
        self.calls.bind(switch)
        self._behaviors.make_agents(
            lambda service_id: BehaviorAgent(self, self._port_for(service_id, None), service_id)
        )
        for behavior, agent in self._behaviors:
            switch.set_behavior(agent.service_id, behavior.on_message, agent)
            self.calls.set_behavior(agent.service_id, behavior.on_rpc, agent)

    @property
    def switch(self) -> kernels.Switch:
        """The kernel's part of this node."""
        if self._switch is None:
            raise LocalError("the plane has no switch yet")
        return self._switch

    def _port_for(self, service_id: int, conn: kernels.Connection | None) -> kernels.Port:
        return self._make_port(self.switch, service_id, conn)

    @property
    def service_ids(self) -> tuple[int, ...]:
        """The services of this node, ascending."""
        return self._behaviors.service_ids

    @property
    def hook_errors(self) -> int:
        """Exceptions that left a hook or callback."""
        return self._hooks.errors

    @property
    def events_dropped(self) -> int:
        """Handler events without a handler to go to."""
        return self._events.dropped + self._events_left

    @property
    def links_opened(self) -> int:
        """Links reported as connected."""
        return self._life.opened

    @property
    def links_closed(self) -> int:
        """Links that ended."""
        return self._life.closed

    @property
    def dials(self) -> int:
        """Conn ids given out."""
        return self._book.made

    @property
    def dials_failed(self) -> int:
        """Those that ended in an error."""
        return self._book.failed

    def agent(self, service_id: int) -> BehaviorAgent:
        """Return the agent of a service.

        Raises:
            LocalError: No behavior has this service id.
        """
        return self._behaviors.agent(service_id)

    def on_hook_error(self, hook: object, exc: Exception) -> None:
        """User code raised in the switch, the loop or a posted function."""
        self._hooks.on_error(hook, exc)

    def hold_interrupt(self, exc: BaseException) -> None:
        """Keep a KeyboardInterrupt or the like for ``raise_interrupt``."""
        self._hooks.hold(exc)

    def raise_interrupt(self) -> None:
        """Raise what interrupted a hook of this turn, if something did; between two turns."""
        self._hooks.raise_interrupt()

    # -- start and stop ----------------------------------------------------------------------------

    def start(self) -> None:
        """Call ``on_started`` everywhere and begin to tick; what was asked before follows."""
        self._running = True
        for behavior, agent in self._behaviors:
            self._hooks.run(behavior.on_started, agent)
        # At a random moment first, so that the nodes of a cluster do not tick as one.
        self._next_tick_ms = self._loop.now_ms + self._rng.randint(1, self._config.tick_ms)
        self._tick_timer = self._loop.call_at(self._next_tick_ms, self._on_tick)
        self.drain()

    def refuse_new(self) -> None:
        """Take no more dials and calls: the node closes, and what begins now could not end."""
        self._hooks.closing = True
        self.redialer.close()
        self.calls.refuse(NodeClosedError())

    def stop(self) -> None:
        """End calls and ticks, call ``on_stopped`` everywhere; the last hooks of this node."""
        if self._stopped:
            return
        self.refuse_new()
        self.monitor.close()
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        self._book.cancel_all("the node was closed")
        self.calls.close()
        self._drain_at_last()
        if self._running:
            for behavior, agent in self._behaviors:
                self._hooks.run(behavior.on_stopped, agent)
        self._stopped = True
        self._events_left = sum(isinstance(c, ToHandler | ToBehavior) for c in self.commands)
        self.commands.clear()

    def abandon(self, error: type[NodeClosedError]) -> None:
        """A fork copied the node, or it vanished: do nothing any more, and call no hook."""
        self._stopped = True
        self._gone = error
        self.calls.refuse(error())
        self.commands.clear()

    def _drain_at_last(self) -> None:
        """Drain once more; beyond ``max_drain`` only what is owed is still done."""
        self._stop_drain_timer()
        self.drain()
        self._stop_drain_timer()
        for command in list(self.commands):
            if isinstance(command, Disconnected) and isinstance(command.link, Link):
                self._tell_disconnected(command.link)

    # -- what agents ask for (AgentHost) -----------------------------------------------------------

    @property
    def now_ms(self) -> int:
        """The loop's time."""
        return self._loop.now_ms

    def push(self, command: Command) -> None:
        """Queue a command.

        Raises:
            QueueFullError: ``max_commands`` wait.
            NodeClosedError: The node was closed.
        """
        self._check_open()
        if len(self.commands) >= self._config.max_commands:
            self.commands_refused += 1
            raise QueueFullError("max_commands", self._config.max_commands)
        self.commands.append(command)
        self._loop.mark_dirty(self.switch)

    def connect(self, addr: NodeAddr, *, parallel: bool, keep: bool = False) -> ConnId:
        """Queue a dial and return its conn id."""
        self._check_open()
        if self._hooks.closing:
            raise NodeClosedError
        if keep:
            self.redialer.check_room(addr, parallel=parallel)
        conn_id = self._shell.new_conn_id(addr)
        command = Connect(conn_id, addr, parallel)
        self.push(command)
        self._book.add(command)
        if keep:
            self.redialer.keep(addr, conn_id, parallel=parallel)
        return conn_id

    def forget(self, addr: NodeAddr) -> bool:
        """Keep no link to an address any more; an attempt under way is to end."""
        self._check_open()
        for conn_id in self.redialer.attempts_to(addr):
            self.push(CancelDial(conn_id))
        return self.redialer.forget(addr)

    def _check_open(self) -> None:
        if self._stopped:
            raise self._gone

    def offer_service(self, service_id: int, is_offered: bool) -> None:
        """Tell the router whether this node offers a service."""
        self._check_open()
        offer_service(self._router, service_id, is_offered)

    def call_later(self, delay_ms: int, fn: Callable[[], object]) -> Later:
        """Call ``fn()`` after a while, like a hook."""
        self._check_open()
        if not callable(fn):
            raise TypeError(f"fn must be callable, not {type(fn).__name__}")
        if not self._loop.in_turn:
            self._loop.wake()  # whoever hosts this node waits for the deadline it was told before
        return self._loop.call_at(self._loop.now_ms + max(0, delay_ms), self._run_later, fn)

    def _run_later(self, fn: Callable[[], object]) -> None:
        if not self._stopped:
            self._hooks.run(fn)
            self.drain()

    def is_open(self, conn_id: int) -> bool:
        """Return whether there is such a link, and neither end has begun to close it."""
        link = self.links.find(conn_id)
        return link is not None and link.is_open

    def rtt_ms(self, conn_id: int) -> float | None:
        """Return the smoothed round-trip time of a link."""
        return self.monitor.rtt_ms(conn_id)

    # -- draining ----------------------------------------------------------------------------------

    def drain(self) -> None:
        """Carry out what was asked for; not inside a hook, not inside itself.

        After ``max_drain`` commands the rest waits for the next turn, whoever calls this meanwhile.
        """
        if self._draining or self._drain_timer is not None:
            return
        if not self._running or self._stopped:
            return
        self._draining = True
        try:
            for _ in range(self._config.max_drain):
                if self.commands:
                    self._carry_out(self.commands.popleft())
                elif not self.switch.local_pending:
                    return
                self.switch.deliver_local()
            self._drain_next_turn()
        except BaseException:  # KeyboardInterrupt out of a hook: the rest must not wait for a send
            self._drain_next_turn()
            raise
        finally:
            self._draining = False

    def _drain_next_turn(self) -> None:
        if self._drain_timer is None:
            self._drain_timer = self._loop.call_at(self._loop.now_ms, self._on_drain_timer)

    def _on_drain_timer(self) -> None:
        self._drain_timer = None
        self.drain()

    def _stop_drain_timer(self) -> None:
        if self._drain_timer is not None:
            self._drain_timer.cancel()
            self._drain_timer = None

    def _carry_out(self, command: Command) -> None:
        if isinstance(command, ToBehavior):
            self._events.to_behavior(command)
        elif isinstance(command, ToHandler):
            self._events.to_handler(command)
        elif isinstance(command, Connect):
            self._book.begin(command)
        elif isinstance(command, CancelDial):
            self._book.cancel(command.conn_id, "its address was forgotten")
        elif isinstance(command, CloseConn):
            self._close_conn(command, self.links.find(command.conn_id))
        elif isinstance(command, CloseNode):
            self._close_node(command.node_id)
        elif isinstance(command.link, Link):
            self._tell_disconnected(command.link)

    def _close_conn(self, command: CloseConn, link: Link | None) -> None:
        if link is not None:
            link.conn.close(wire.CLOSE_NORMAL, "")
        if command.for_good:
            node_id = None if link is None else link.conn.remote_node_id
            self.redialer.on_close_asked(command.conn_id, node_id)
        if link is None:
            self._book.cancel(command.conn_id, "closed by this node before it was up")

    def _close_node(self, node_id: int) -> None:
        for link in self.links.to_node(node_id):
            link.conn.close(wire.CLOSE_NORMAL, "")
        for conn_id in self.redialer.on_close_node_asked(node_id):
            self._book.cancel(conn_id, "closed by this node before it was up")

    def _tell_disconnected(self, link: Link) -> None:
        self._life.tell_disconnected(link)
        self.admission.on_link_gone(link.conn.remote_node_id)

    # -- what the shell tells ----------------------------------------------------------------------

    def handle_connected(
        self, conn: kernels.Connection, peer: PeerInfo, remote_addr: str, rtt_ms: float | None
    ) -> None:
        """A handshake is done and its connection made."""
        self._book.succeed(conn.conn_id)
        self.redialer.on_opened(conn.conn_id, peer.node_id)
        self._life.open(conn, peer, remote_addr, rtt_ms)
        self.admission.on_dial_ended(conn.conn_id)
        self.drain()

    def handle_dial_failed(
        self,
        conn_id: int,
        node_id: int | None,
        error: OutgoingConnectionError,
        found: int | None = None,
    ) -> None:
        """A dial ended without a link; later calls for the same id are ignored."""
        self._book.fail(conn_id, node_id, error, found)
        self.drain()

    # -- admission (Surroundings) ------------------------------------------------------------------

    def handle_incoming(self, attempt: Attempt) -> None:
        """An initiator was verified: accept, refuse or hold it."""
        self.admission.decide(attempt)
        self.drain()

    def ask_behaviors(self, node_id: int, conn_id: int) -> str | None:
        """Return the reason of the first behavior that refuses an incoming link, or None."""
        for behavior, _ in self._behaviors:
            hook = behavior.check_incoming_connection
            reason = self._hooks.refusal(hook, node_id, conn_id)
            if reason is not None:
                return reason
        return None

    def is_dialing(self, node_id: int) -> bool:
        """Return whether a HELLO to that node is out and its dial has not ended."""
        return self._shell.is_dialing(node_id)

    def probe(self, link: Link) -> None:
        """Ping a link now."""
        self.monitor.probe(link)

    # -- what the switch and the monitor tell ------------------------------------------------------

    def on_closing(self, conn: kernels.Connection) -> None:
        """One end began to close a link: no route may use it any more."""
        self._life.on_closing(conn)

    def on_closed(self, conn: kernels.Connection, code: int, text: str) -> None:
        """A link is gone."""
        link = conn.owner
        if isinstance(link, Link):
            self.redialer.on_closed(conn.conn_id, conn.remote_node_id)
            self._life.on_closed(link, code, text)
            # Behind the events that the handlers sent last, and therefore past the command limit.
            self.commands.append(Disconnected(link))
            self.drain()

    def on_call(self, conn: kernels.Connection | None, message: kernels.Message) -> None:
        """A CALL frame is for this node."""
        self.calls.on_call(message)

    def on_control(self, conn: kernels.Connection, kind: int, body: bytes) -> None:
        """A PING or PONG arrived."""
        if isinstance(conn.owner, Link):
            self.monitor.on_control(conn.owner, kind, body)

    def on_writable(self, conn: kernels.Connection) -> None:
        """A link that refused a send has drained."""
        link = conn.owner
        if not isinstance(link, Link):
            return
        self._life.tell_writable(link)
        if link.has_user_handlers:  # netcore's own do not care what is queued
            self.on_measured(link, self.monitor.measure(link))
        else:
            self.drain()

    def on_measured(self, link: Link, stats: ConnectionStats) -> None:
        """Give a measurement to every handler of the link."""
        if link.is_open:
            self._life.tell_measured(link, stats)
            self.drain()

    def on_link_alive(self, link: Link) -> None:
        """A link answered a probe."""
        self.admission.on_link_alive(link)

    def _on_tick(self) -> None:
        now_ms, interval_ms = self._loop.now_ms, self._config.tick_ms
        missed = max(0, now_ms - self._next_tick_ms) // interval_ms
        self._next_tick_ms += (missed + 1) * interval_ms
        self._tick_timer = self._loop.call_at(self._next_tick_ms, self._on_tick)
        for behavior, agent in self._behaviors:
            self._hooks.run(behavior.on_tick, agent, now_ms, interval_ms)
            self.drain()
        for link in self.links:
            for handler, handler_agent in link.handlers:
                self._hooks.run(handler.on_tick, handler_agent, now_ms, interval_ms)
                self.drain()
