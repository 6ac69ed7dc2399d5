"""Network: simulated nodes, the links between them, the faults, and time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from .._typing import TYPE_CHECKING, Any, Final, final
from ..errors import LocalError, OutgoingConnectionError
from ..ids import check_node_id
from ..wire import MAX_HANDSHAKE_BYTES
from .clock import SimulationError, VirtualTime
from .links import Link
from .nodes import Behaviors, HookError, NodeWatcher, SimNode
from .paths import Path, Quality
from .trace import Trace

if TYPE_CHECKING:
    from types import TracebackType
    from typing import TypeVar

    from .._backend import BackendName
    from ..behavior import NetworkBehavior
    from ..config import Secret
    from ..node import Node
    from ..route import RouteRule
    from ..routing import RouterTable
    from ..stats import NodeStats
    from .streams import Machine

    B = TypeVar("B", bound=NetworkBehavior)

__all__ = ["Network"]

#: Hook errors that are kept; more are only counted.
KEPT_ERRORS: Final = 1_000
STEP_MS: Final = 50  # settle() looks around so often


@final
class Network(NodeWatcher):
    """Nodes on one virtual clock; the same seed and the same calls give the same events.

    Calls that change something (``add_node``, ``link``, ``cut`` ...) are for the test that drives
    the network, between the turns of the nodes; they are written down in ``operations``.

    Args:
        seed: Of all randomness.
        backend: "fast" or "pure" for all nodes; None: what was chosen at import.
        window_bytes: How much is between a write at one end of a stream and the read at the other.
        keep_events: How many events ``trace`` keeps.
        secret: Shared by all nodes; it is not written down.
        config: Fields of ``NodeConfig`` for all nodes.

    Attributes:
        seed: The seed.
        time: The clock.
        trace: What happened.
        operations: What was done to the network, as ``[time in ms, name, arguments]``; plain
            values, for JSON.
        hook_errors: What user code raised, the last thousand.
        hook_errors_count: How often.
        allow_hook_errors: Whether ``check`` and the end of a ``with`` block take that well.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        backend: BackendName | None = None,
        window_bytes: int = 256 * 1024,
        keep_events: int = 10_000,
        secret: Secret | None = None,
        **config: int | bool,
    ) -> None:
        if not isinstance(seed, int):
            raise LocalError(f"seed must be an int, not {seed!r}")
        self.seed = seed
        self.time = VirtualTime()
        self.trace = Trace(keep_events)
        self.operations: list[list[Any]] = []
        self.hook_errors: deque[HookError] = deque(maxlen=KEPT_ERRORS)
        self.hook_errors_count = 0
        self.allow_hook_errors = False
        self.window_bytes = max(window_bytes, 2 * MAX_HANDSHAKE_BYTES)
        self._backend = backend
        self._config: dict[str, Any] = {"secret": secret, **config}
        self._nodes: dict[int, SimNode] = {}
        self._names: dict[str, SimNode] = {}
        self._paths: dict[tuple[int, int], Path] = {}
        self._links: dict[tuple[int, int], Link] = {}
        self._closed = False

    # -- nodes -------------------------------------------------------------------------------------

    def add_node(
        self,
        node_id: int,
        behaviors: Behaviors = (),
        *,
        router: Callable[[int], RouterTable] | None = None,
        **config: int | bool,
    ) -> Node:
        """Add a node and start it.

        Args:
            node_id: Its id.
            behaviors: Classes, which are called anew for each incarnation; or a function that gets
                the node id and returns behaviors; or behavior objects, which do not survive a
                restart.
            router: Returns the router for a node id; None: a ``LayeredRouter``.
            config: Fields of ``NodeConfig``, for this node.
        """
        check_node_id(node_id)
        if node_id in self._nodes:
            raise LocalError(f"there is a node {node_id} already")
        self._enter("add_node", node_id=node_id, **config)
        node = SimNode(
            self,
            self,
            node_id,
            behaviors,
            seed=f"{self.seed}/{node_id}",
            backend=self._backend,
            router=router,
            config={**self._config, **config},
        )
        self._nodes[node_id] = self._names[node.name] = node
        node.boot()
        return node.node

    def node(self, node_id: int) -> Node:
        """Return the running node of that id.

        Raises:
            LocalError: There is none.
        """
        return self._sim_node(node_id).node

    def __getitem__(self, node_id: int) -> Node:
        return self.node(node_id)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._nodes

    @property
    def node_ids(self) -> tuple[int, ...]:
        """The ids of all nodes ever added, in that order."""
        return tuple(self._nodes)

    def is_running(self, node_id: int) -> bool:
        """Return whether the node's process is there, frozen or not."""
        return self._sim_node(node_id).is_running

    def is_frozen(self, node_id: int) -> bool:
        """Return whether the node stands still."""
        return self._sim_node(node_id).is_frozen

    def incarnation(self, node_id: int) -> int:
        """Return how often the node was restarted."""
        return self._sim_node(node_id).incarnation

    def behavior(self, node_id: int, kind: type[B]) -> B:
        """Return the node's behavior of that class.

        Raises:
            LocalError: It has none.
        """
        for behavior in self._sim_node(node_id).behaviors:
            if isinstance(behavior, kind):
                return behavior
        raise LocalError(f"node {node_id} has no {kind.__name__}")

    def kill(self, node_id: int, *, silent: bool = False) -> None:
        """End a process at once: no hook, no word; the system ends its streams.

        Args:
            node_id: Whose.
            silent: The machine goes with it, as when the power fails: its neighbours see nothing.
        """
        node = self._running(node_id)
        self._enter("kill", node_id=node_id, silent=silent)
        node.kill(silent=silent)

    def stop(self, node_id: int) -> None:
        """Close a node politely, as a program does that ends."""
        node = self._running(node_id)
        self._enter("stop", node_id=node_id)
        node.stop()

    def restart(self, node_id: int, behaviors: Behaviors | None = None) -> Node:
        """Start a new process with the same id, another epoch and new behaviors.

        One that still runs is killed before. The links that it dials are dialled at once.

        Raises:
            LocalError: It was added with behavior objects, and no new ones are given.
        """
        node = self._sim_node(node_id)
        node.check_restart(behaviors)
        self._enter("restart", node_id=node_id)
        node.restart(behaviors)
        for link in self._links.values():
            if link.a == node_id:
                link.dial()
        return node.node

    def freeze(self, node_id: int) -> None:
        """Let a process stand still: it does nothing, and what comes for it piles up."""
        node = self._running(node_id)
        self._enter("freeze", node_id=node_id)
        node.freeze()

    def thaw(self, node_id: int) -> None:
        """Let it go on."""
        node = self._running(node_id)
        self._enter("thaw", node_id=node_id)
        node.thaw()

    # -- links and paths ---------------------------------------------------------------------------

    def link(
        self,
        a: int,
        b: int,
        *,
        latency_ms: int = 1,
        jitter_ms: int = 0,
        loss: float = 0.0,
        bandwidth_kbps: int = 0,
        redial_ms: int | None = 1_000,
    ) -> Link:
        """Join two nodes: a dials b. Once more for the same two: change how good the path is.

        Args:
            a: Who dials.
            b: Who is dialled.
            latency_ms: One way.
            jitter_ms: At most so much more, at random; nothing overtakes anything.
            loss: Share of packets that TCP has to send again: they are late, not lost.
            bandwidth_kbps: Kilobits per second in each direction; 0: no limit.
            redial_ms: When the dial failed or the link is gone, a dials again after so long;
                None: never.
        """
        quality = Quality(
            latency_ms=latency_ms, jitter_ms=jitter_ms, loss=loss, bandwidth_kbps=bandwidth_kbps
        )
        for node_id in (a, b):
            self._sim_node(node_id)
        if a == b:
            raise LocalError(f"a link joins two nodes, not {a} with itself")
        self._enter(
            "link",
            a=a,
            b=b,
            latency_ms=latency_ms,
            jitter_ms=jitter_ms,
            loss=loss,
            bandwidth_kbps=bandwidth_kbps,
            redial_ms=redial_ms,
        )
        self.path(a, b).quality = self.path(b, a).quality = quality
        key = (min(a, b), max(a, b))
        link = self._links.get(key)
        if link is None:
            link = self._links[key] = Link(self.time, self._nodes[a], self._nodes[b], redial_ms)
            link.dial()
        else:
            link.redial_ms = redial_ms
        return link

    @property
    def links(self) -> tuple[Link, ...]:
        """The links that were made by ``link``, oldest first."""
        return tuple(self._links.values())

    def cut(self, a: int, b: int) -> None:
        """Let nothing through between two nodes, in silence."""
        self._both(a, b)
        self._enter("cut", a=a, b=b)
        self.path(a, b).cut()
        self.path(b, a).cut()

    def cut_one_way(self, a: int, b: int) -> None:
        """Let nothing through from a to b."""
        self._both(a, b)
        self._enter("cut_one_way", a=a, b=b)
        self.path(a, b).cut()

    def heal(self, a: int | None = None, b: int | None = None) -> None:
        """Let everything through between two nodes again; without arguments: everywhere."""
        if a is None or b is None:
            if a is not b:
                raise LocalError("heal() takes two nodes or none")
            self._enter("heal")
            for path in list(self._paths.values()):
                path.heal()
            return
        self._both(a, b)
        self._enter("heal", a=a, b=b)
        self.path(a, b).heal()
        self.path(b, a).heal()

    def reset(self, a: int, b: int) -> None:
        """Break all streams between two nodes, at both ends, as a middlebox does."""
        self._both(a, b)
        self._enter("reset", a=a, b=b)
        for here, there in ((a, b), (b, a)):
            for end in list(self._nodes[here].ends):
                if end.peer_id == there:
                    end.reset()

    def is_cut(self, a: int, b: int) -> bool:
        """Return whether nothing gets from a to b."""
        return self.path(a, b).is_cut

    def path(self, a: int, b: int) -> Path:
        """Return the way from a to b; any two have one, 1 ms long until ``link`` says more."""
        path = self._paths.get((a, b))
        if path is None:
            path = self._paths[a, b] = Path(f"{self.seed}/{a}>{b}", Quality())
        return path

    # -- time --------------------------------------------------------------------------------------

    @property
    def now_ms(self) -> int:
        """The virtual time, of all nodes; it begins with 0."""
        return self.time.now_ms

    def run(self, ms: int) -> None:
        """Let so much time pass."""
        self._check()
        if not isinstance(ms, int) or ms < 0:
            raise LocalError(f"ms must be an int of 0 or more, not {ms!r}")
        self.time.run_until(self.time.now_ms + ms)

    def run_until(self, condition: Callable[[], object], timeout_ms: int = 60_000) -> int:
        """Let time pass until the condition holds; return how much did.

        Raises:
            SimulationError: It did not hold in time.
        """
        self._check()
        begin_ms = self.time.now_ms
        end_ms = begin_ms + timeout_ms
        self.time.run_until(begin_ms)
        while not condition():
            next_ms = self.time.next_ms()
            if next_ms is None or next_ms > end_ms:
                self.time.run_until(end_ms)
                raise SimulationError(
                    f"the condition did not hold within {timeout_ms} ms (seed {self.seed})"
                )
            self.time.run_until(next_ms)
        return self.time.now_ms - begin_ms

    def settle(self, timeout_ms: int = 60_000, *, quiet_ms: int = 1_000) -> int:
        """Let time pass until every link is up or gone and no route changes; return how much did.

        Args:
            timeout_ms: At most so much.
            quiet_ms: No table may have changed for so long.

        Raises:
            SimulationError: That did not happen in time; it says what is missing.
        """
        self._check()
        begin_ms = quiet_from_ms = self.time.now_ms
        before: list[tuple[int, ...]] = []
        while True:
            self.time.run_until(self.time.now_ms + STEP_MS)
            now = [node.routing_state() for node in self._nodes.values()]
            missing = self._missing()
            if now != before or missing:
                before, quiet_from_ms = now, self.time.now_ms
            elif self.time.now_ms - quiet_from_ms >= quiet_ms:
                return self.time.now_ms - begin_ms
            if self.time.now_ms - begin_ms >= timeout_ms:
                what = "; ".join(missing[:5]) or "routes keep changing"
                raise SimulationError(
                    f"not settled after {timeout_ms} ms (seed {self.seed}): {what}"
                )

    def call_at(self, when_ms: int, fn: Callable[[], object]) -> None:
        """Call ``fn()`` at that time, between the turns of the nodes."""
        self._check()
        self.time.call_at(when_ms, fn)

    def call(
        self,
        node_id: int,
        route: RouteRule,
        service_id: int,
        payload: bytes,
        timeout_ms: int = 5_000,
    ) -> bytes:
        """Call a service from a node, and let time pass until the answer is there.

        Raises:
            CallError: And its kinds: the call failed.
        """
        self._check()
        answers = self.node(node_id)._begin_call(route, service_id, payload, timeout_ms)
        self.run_until(lambda: answers, timeout_ms + 1_000)
        return answers[0].result()

    # -- what there is to see ----------------------------------------------------------------------

    @property
    def hash(self) -> str:
        """The hash over everything that happened so far."""
        return self.trace.hash

    def stats(self) -> dict[int, NodeStats]:
        """Return the counters of the running nodes."""
        return {i: node.node.stats() for i, node in self._nodes.items() if node.is_running}

    def total(self, counter: str) -> int:
        """Return the sum of a counter of ``NodeStats``, over all nodes and their past."""
        return sum(node.total(counter) for node in self._nodes.values())

    def check(self) -> None:
        """Complain about hook errors, unless they are allowed.

        Raises:
            SimulationError: User code raised; the first error is its cause.
        """
        if self.hook_errors_count and not self.allow_hook_errors:
            first = self.hook_errors[0]
            raise SimulationError(
                f"{self.hook_errors_count} hook errors (seed {self.seed}), the first: {first}"
            ) from first.error

    # -- the end -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Close all nodes politely, each with its last hooks. Idempotent."""
        if not self._closed:
            self._closed = True
            for node in self._nodes.values():
                if node.is_running:
                    node.stop()

    def __enter__(self) -> Network:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        if exc_type is None:
            self.check()

    def __repr__(self) -> str:
        return f"<Network seed={self.seed} {len(self._nodes)} nodes at {self.now_ms} ms>"

    # -- for nodes and streams ---------------------------------------------------------------------

    def machine_of(self, name: str) -> Machine | None:
        """Return whose name that is."""
        return self._names.get(name)

    def on_link_up(self, node: SimNode, peer: int, conn_id: int) -> None:
        """Note the end of a dial."""
        link = self._link_of(node, peer)
        if link is not None:
            link.on_up(conn_id)

    def on_link_down(self, node: SimNode, peer: int, conn_id: int) -> None:
        """Dial again, if that is wanted."""
        link = self._link_of(node, peer)
        if link is not None:
            link.on_down(node)

    def on_death(self, node: SimNode) -> None:
        """Forget its dials."""
        for link in self._links.values():
            link.on_death(node)

    def on_dial_failed(
        self, node: SimNode, peer: int | None, conn_id: int, error: OutgoingConnectionError
    ) -> None:
        """Dial again, if that is wanted."""
        link = None if peer is None else self._link_of(node, peer)
        if link is not None:
            link.on_dial_failed(conn_id, error)

    def on_hook_failed(self, error: HookError) -> None:
        """Keep it."""
        self.hook_errors_count += 1
        if len(self.hook_errors) < KEPT_ERRORS:
            self.hook_errors.append(error)

    # -- inside ------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._closed:
            raise LocalError("the network is closed")

    def _enter(self, name: str, **args: int | float | None) -> None:
        """Write an operation down."""
        self._check()
        if self.time.in_turn:
            raise LocalError(f"{name}() inside a hook: use call_at() to do it between two turns")
        self.operations.append([self.time.now_ms, name, args])
        said = " ".join(f"{key}={value!r}" for key, value in args.items())
        self.trace.add(self.time.now_ms, "operation", name, said)

    def _link_of(self, node: SimNode, peer: int) -> Link | None:
        return self._links.get((min(node.node_id, peer), max(node.node_id, peer)))

    def _sim_node(self, node_id: int) -> SimNode:
        node = self._nodes.get(node_id)
        if node is None:
            raise LocalError(f"there is no node {node_id}: add_node it first")
        return node

    def _running(self, node_id: int) -> SimNode:
        node = self._sim_node(node_id)
        _ = node.node  # raises when it does not run
        return node

    def _both(self, a: int, b: int) -> None:
        self._sim_node(a)
        self._sim_node(b)

    def _missing(self) -> list[str]:
        """Return what is neither up nor gone."""
        missing = [str(link) for link in self._links.values() if self._must_come(link)]
        for node in self._nodes.values():
            if node.is_running and not node.is_frozen:
                missing += [
                    f"node {node.node_id} has a link to {peer} that is dead"
                    for peer in node.peers
                    if not self._is_whole(node, peer)
                ]
        return missing

    def _must_come(self, link: Link) -> bool:
        able = self._is_able(link.a, link.b) and link.redial_ms is not None
        return able and not link.is_up

    def _is_able(self, a: int, b: int) -> bool:
        """Return whether bytes can go to and fro."""
        one, two = self._nodes[a], self._nodes[b]
        awake = one.is_awake and two.is_awake
        return awake and not (self.path(a, b).is_cut or self.path(b, a).is_cut)

    def _is_whole(self, node: SimNode, peer: int) -> bool:
        return self._is_able(node.node_id, peer) and node.node_id in self._nodes[peer].peers
