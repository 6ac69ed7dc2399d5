"""SimNode: a machine with one node on it, which can die, come back, and stand still."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from .._typing import TYPE_CHECKING, Any, final
from ..behavior import NetworkBehavior
from ..errors import LocalError, OutgoingConnectionError
from ..node import Node
from ..values import dataclass
from .streams import End
from .transport import SimListener, SimTransport

if TYPE_CHECKING:
    from .._backend import BackendName, kernels
    from ..routing import RouterTable
    from ..stats import NodeStats
    from .streams import World

__all__ = ["Behaviors", "HookError", "NodeWatcher", "SimNode", "address_of", "name_of"]

#: A sequence of behaviors or of classes (or functions) that make one, or a function that gets the
#: node id and returns such a sequence.
Behaviors = Sequence[Any] | Callable[[int], Sequence[Any]]


def name_of(node_id: int) -> str:
    """Return the name under which a node listens."""
    return f"n{node_id}"


def address_of(node_id: int) -> str:
    """Return the address to dial, also from inside a behavior."""
    return f"{node_id}@/memory/{name_of(node_id)}"


@final
@dataclass(frozen=True, slots=True)
class HookError:
    """An exception that left user code.

    Attributes:
        now_ms: When.
        node_id: Where.
        hook: The name of the hook or callback.
        error: What it raised.
    """

    now_ms: int
    node_id: int
    hook: str
    error: Exception

    def __str__(self) -> str:
        return f"{self.hook} on node {self.node_id} at {self.now_ms} ms: {self.error!r}"


class NodeWatcher:
    """What a network wants to know of its nodes."""

    def on_link_up(self, node: SimNode, peer: int, conn_id: int) -> None:
        """A link is up at this end."""

    def on_link_down(self, node: SimNode, peer: int, conn_id: int) -> None:
        """A link is gone at this end."""

    def on_death(self, node: SimNode) -> None:
        """A process is gone."""

    def on_dial_failed(
        self, node: SimNode, peer: int | None, conn_id: int, error: OutgoingConnectionError
    ) -> None:
        """A dial ended in an error."""

    def on_hook_failed(self, error: HookError) -> None:
        """User code raised."""


@final
class SimNode:
    """A machine with one node on it. Its methods are for the network; users read it.

    Attributes:
        node_id: Its id, also of its later incarnations.
        incarnation: 0 for the first process, one more with each restart.
        is_frozen: Whether the process stands still.
        is_on: Whether the machine runs, be it without a process.
        outbox: Ends of streams with something that leaves after this turn.
        ends: All ends of streams of the process.
        peers: How many links the process has to each neighbour.
        past: The last counters of earlier processes.
        behaviors: Those of the process, or of the last one.
    """

    def __init__(
        self,
        world: World,
        watcher: NodeWatcher,
        node_id: int,
        behaviors: Behaviors,
        *,
        seed: str,
        backend: BackendName | None,
        router: Callable[[int], RouterTable] | None,
        config: dict[str, Any],
    ) -> None:
        self.node_id = node_id
        self.incarnation = 0
        self.is_frozen = False
        self.is_on = True
        self.outbox: list[End] = []
        self.ends: dict[End, None] = {}
        self.peers: dict[int, int] = {}
        self.past: list[NodeStats] = []
        self.behaviors: list[NetworkBehavior] = []
        self._world = world
        self._watcher = watcher
        self._make = behaviors
        self._seed = seed
        self._backend = backend
        self._router = router
        self._config = config
        self._node: Node | None = None
        self._transport: SimTransport | None = None
        self._is_ready = False
        self._due_ms: int | None = None
        self._armed_ms: int | None = None

    @property
    def node(self) -> Node:
        """The running node.

        Raises:
            LocalError: It was killed or stopped.
        """
        if self._node is None:
            raise LocalError(f"node {self.node_id} is not running: restart it first")
        return self._node

    @property
    def name(self) -> str:
        """The name under which it listens."""
        return name_of(self.node_id)

    @property
    def is_awake(self) -> bool:
        """Whether there is a process that is not frozen."""
        return self._node is not None and not self.is_frozen

    @property
    def is_running(self) -> bool:
        """Whether there is a process, frozen or not."""
        return self._node is not None

    @property
    def loop(self) -> kernels.Loop | None:
        """The loop of the process."""
        return None if self._transport is None else self._transport.host.loop

    @property
    def listener(self) -> SimListener | None:
        """Where the process takes connections."""
        return None if self._transport is None else self._transport.listener

    def __repr__(self) -> str:
        state = "frozen" if self.is_frozen else "running" if self.is_running else "dead"
        return f"<SimNode {self.node_id} incarnation {self.incarnation} {state}>"

    # -- life --------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start a process."""
        time = self._world.time
        self.behaviors = _make_behaviors(self._make, self.node_id)
        transport = SimTransport(self._world, self)
        node = Node(
            self.node_id,
            self.behaviors,
            None if self._router is None else self._router(self.node_id),
            [transport],
            backend=self._backend,
            clock_ms=time.read,
            rng=Random(f"{self._seed}/{self.incarnation}"),
            wake=self.wake,
            observer=_Observer(self, self._world, self._watcher),
            **self._config,
        )
        self.is_on = True
        self._transport, self._node = transport, node
        self._next_deadline_ms = transport.host.loop.next_deadline_ms
        node.listen(f"/memory/{self.name}")
        self.wake()

    def kill(self, *, silent: bool) -> None:
        """End the process at once; ``silent``: and its machine."""
        node, self._node = self.node, None
        self.past.append(node.stats())
        node._vanish()
        self._gone(silent=silent)

    def stop(self) -> None:
        """Close the node as a program does that ends."""
        node, self._node = self.node, None
        node.close(0)
        self.past.append(node.stats())
        self._gone(silent=False)

    def check_restart(self, behaviors: Behaviors | None) -> None:
        """Raise LocalError when the behaviors cannot be made anew."""
        if behaviors is None and not callable(self._make):
            for item in self._make:
                if isinstance(item, NetworkBehavior):
                    raise LocalError(
                        f"node {self.node_id} was added with a {type(item).__name__} object, which "
                        "has the old node's state: add nodes with behavior classes or a function "
                        "that returns behaviors, or give new ones to restart()"
                    )

    def restart(self, behaviors: Behaviors | None) -> None:
        """Start a new process."""
        if behaviors is not None:
            self._make = behaviors
        if self._node is not None:
            self.kill(silent=False)
        self.incarnation += 1
        self.boot()

    def freeze(self) -> None:
        """Do no turns any more."""
        self.is_frozen = True

    def thaw(self) -> None:
        """Go on."""
        self.is_frozen = False
        self.wake()

    def _gone(self, *, silent: bool) -> None:
        self.is_frozen = False
        self.is_on = not silent
        self._transport = None
        self._watcher.on_death(self)
        self._due_ms = None
        self.peers.clear()
        if silent:
            self.outbox.clear()  # nothing of the last turn may be left; be sure
        for end in list(self.ends):
            end.die(silent=silent)
        self._let_go()

    # -- what there is to see ----------------------------------------------------------------------

    def routing_state(self) -> tuple[int, ...]:
        """Return numbers that change with every route."""
        if self._node is None:
            return (self.incarnation,)
        table = getattr(self._node.router, "table", None)
        return (self.incarnation, getattr(table, "version", 0))

    def total(self, counter: str) -> int:
        """Return the sum of a counter over all processes."""
        now = [] if self._node is None else [self._node.stats()]
        return sum(int(getattr(stats, counter)) for stats in [*self.past, *now])

    # -- turns -------------------------------------------------------------------------------------

    def wake(self) -> None:
        """There is something to do."""
        if not self._is_ready:
            self._is_ready = True
            self._world.time.ready.append(self)

    def turn(self) -> None:
        """Let the node do what there is to do now."""
        self._is_ready = False
        node = self._node
        if node is None or self.is_frozen:
            return
        try:
            node._turn()
        finally:
            if self.outbox:
                outbox, self.outbox = self.outbox, []
                for end in outbox:  # sends on its way what was written in this turn
                    end.depart()
            if node._closed:  # by its own code
                self._end(node)
            else:
                self._sleep(self._next_deadline_ms())

    def _end(self, node: Node) -> None:
        if self._node is node:
            self._node = None
            self.past.append(node.stats())
            self._gone(silent=False)

    def _sleep(self, wait_ms: int | None) -> None:
        """Get the next turn in so many ms, if not before."""
        if not wait_ms:
            self._due_ms = None
            if wait_ms == 0:
                self.wake()
            return
        time = self._world.time
        self._due_ms = due_ms = time.now_ms + wait_ms
        if self._armed_ms is None or due_ms < self._armed_ms:
            self._armed_ms = due_ms
            time.call_at(due_ms, self._on_alarm)

    def _on_alarm(self) -> None:
        time = self._world.time
        if self._armed_ms is None or self._armed_ms > time.now_ms:
            return  # an alarm before it was for an earlier deadline
        self._armed_ms = None
        if self._due_ms is None:
            return
        if self._due_ms <= time.now_ms:
            if not self._is_ready:
                self._is_ready = True
                time.ready.append(self)
        else:  # the deadline moved: a link was heard of, say
            self._armed_ms = self._due_ms
            time.call_at(self._due_ms, self._on_alarm)

    def _let_go(self) -> None:
        """Send on its way what was written in this turn."""
        outbox, self.outbox = self.outbox, []
        for end in outbox:
            end.depart()


def _make_behaviors(behaviors: Behaviors, node_id: int) -> list[NetworkBehavior]:
    items = behaviors(node_id) if callable(behaviors) else behaviors
    return [item if isinstance(item, NetworkBehavior) else item() for item in items]


@final
class _Observer:
    """Enters what a node does into the trace, and tells the network."""

    def __init__(self, node: SimNode, world: World, watcher: NodeWatcher) -> None:
        self._node = node
        self._world = world
        self._watcher = watcher

    def _add(self, kind: str, *details: int | str) -> None:
        self._world.trace.add((self._world.time.now_ms, kind, self._node.node_id, *details))

    def link_up(self, conn: kernels.Connection) -> None:
        peer, peers = conn.remote_node_id, self._node.peers
        self._add("up", peer, conn.conn_id)
        peers[peer] = peers.get(peer, 0) + 1
        self._watcher.on_link_up(self._node, conn.remote_node_id, conn.conn_id)

    def link_down(self, conn: kernels.Connection, code: int, text: str) -> None:
        peer, peers = conn.remote_node_id, self._node.peers
        self._add("down", peer, conn.conn_id, code, text)
        peers[peer] = peers.get(peer, 0) - 1
        if peers[peer] <= 0:
            del peers[peer]
        self._watcher.on_link_down(self._node, conn.remote_node_id, conn.conn_id)

    def dial_failed(
        self, conn_id: int, node_id: int | None, error: OutgoingConnectionError
    ) -> None:
        self._add("dial_failed", -1 if node_id is None else node_id, conn_id, type(error).__name__)
        self._watcher.on_dial_failed(self._node, node_id, conn_id, error)

    def hook_failed(self, hook: str, exc: Exception) -> None:
        # What a process prints of its memory is different in the next one.
        self._add("hook_failed", hook.partition(" at 0x")[0], type(exc).__name__)
        now_ms, node_id = self._world.time.now_ms, self._node.node_id
        self._watcher.on_hook_failed(HookError(now_ms, node_id, hook, exc))
