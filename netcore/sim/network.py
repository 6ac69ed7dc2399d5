"""Network: simulated nodes, the links between them, the faults, and time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from .._typing import TYPE_CHECKING, Any, Final, final
from ..errors import LocalError
from ..ids import check_node_id
from ..wire import MAX_HANDSHAKE_BYTES
from .clock import SimulationError
from .fabric import Fabric
from .links import Link
from .nodes import Behaviors, SimNode
from .operations import Operation, OperationLog
from .paths import Quality
from .topology import Topology

if TYPE_CHECKING:
    from types import TracebackType

    from .._backend import BackendName
    from ..config import Secret
    from ..node import Node
    from ..route import RouteRule
    from ..routing import RouterTable

__all__ = ["Network"]

STEP_MS: Final = 50  # settle() looks around so often


@final
class Network(OperationLog):
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
        operations: What was done to the network, as ``[time in ms, name, arguments]``: plain
            values, fit for JSON, for ``replay``.
        actions: What ``do`` can do besides, by name: functions that get the network and arguments.
        topology: Adds whole lines, rings, stars, grids and random networks.
        allow_hook_errors: Whether ``check`` and the end of a ``with`` block take them well.
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
        super().__init__(Fabric(seed, max(window_bytes, 2 * MAX_HANDSHAKE_BYTES), keep_events))
        self.topology = Topology(self)
        self._backend = backend
        self._config: dict[str, Any] = {"secret": secret, **config}

    # -- nodes -------------------------------------------------------------------------------------

    def add_node(
        self,
        node_id: int,
        behaviors: Behaviors = (),
        *,
        router: Callable[[int], RouterTable] | None = None,
        secret: Secret | None = None,
        **config: int | bool,
    ) -> Node:
        """Add a node and start it.

        Args:
            node_id: Its id.
            behaviors: Classes, which are called anew for each incarnation; or a function that gets
                the node id and returns behaviors; or behavior objects, which do not survive a
                restart.
            router: Returns the router for a node id; None: a ``LayeredRouter``.
            secret: None: the network's.
            config: Fields of ``NodeConfig``, for this node.
        """
        check_node_id(node_id)
        if node_id in self:
            raise LocalError(f"there is a node {node_id} already")
        self._enter("add_node", node_id=node_id, **config)
        node = SimNode(
            self._fabric,
            self._fabric,
            node_id,
            behaviors,
            seed=f"{self.seed}/{node_id}",
            backend=self._backend,
            router=router,
            config={**self._config, **config, **({} if secret is None else {"secret": secret})},
        )
        self._fabric.add_node(node)
        node.boot()
        return node.node

    def kill(self, node_id: int, *, silent: bool = False) -> None:
        """End a process at once: no hook, no word; the system ends its streams.

        Args:
            node_id: Whose.
            silent: The machine goes with it, as when the power fails: its neighbours see nothing.
        """
        node = self._fabric.running(node_id)
        self._enter("kill", node_id=node_id, silent=silent)
        node.kill(silent=silent)

    def stop(self, node_id: int) -> None:
        """Close a node politely, as a program does that ends."""
        node = self._fabric.running(node_id)
        self._enter("stop", node_id=node_id)
        node.stop()

    def restart(self, node_id: int, behaviors: Behaviors | None = None) -> Node:
        """Start a new process with the same id, another epoch and new behaviors.

        One that still runs is killed before. The links that it dials are dialled at once.

        Raises:
            LocalError: It was added with behavior objects, and no new ones are given.
        """
        node = self._fabric.node(node_id)
        node.check_restart(behaviors)
        self._enter("restart", node_id=node_id)
        node.restart(behaviors)
        for link in self._fabric.links.values():
            if link.a == node_id:
                link.dial()
        return node.node

    def freeze(self, node_id: int) -> None:
        """Let a process stand still: it does nothing, and what comes for it piles up."""
        node = self._fabric.running(node_id)
        self._enter("freeze", node_id=node_id)
        node.freeze()

    def thaw(self, node_id: int) -> None:
        """Let it go on."""
        node = self._fabric.running(node_id)
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
            self._fabric.node(node_id)
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
        link = self._fabric.links.get(key)
        if link is None:
            link = self._fabric.links[key] = Link(
                self._time, self._fabric.nodes[a], self._fabric.nodes[b], redial_ms
            )
            link.dial()
        else:
            link.redial_ms = redial_ms
        return link

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
            for path in self._fabric.paths():
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
            for end in list(self._fabric.nodes[here].ends):
                if end.peer_id == there:
                    end.reset()

    # -- time --------------------------------------------------------------------------------------

    def run_until(self, condition: Callable[[], object], timeout_ms: int = 60_000) -> int:
        """Let time pass until the condition holds; return how much did.

        Raises:
            SimulationError: It did not hold in time.
        """
        self._check()
        begin_ms = self._time.now_ms
        end_ms = begin_ms + timeout_ms
        self._pass(begin_ms)
        while not condition():
            next_ms = self._next_ms()
            if next_ms is None or next_ms > end_ms:
                self._pass(end_ms)
                raise SimulationError(
                    f"the condition did not hold within {timeout_ms} ms (seed {self.seed})"
                )
            self._pass(next_ms)
        return self._time.now_ms - begin_ms

    def settle(self, timeout_ms: int = 60_000, *, quiet_ms: int = 1_000) -> int:
        """Let time pass until every link is up or gone and no route changes; return how much did.

        Args:
            timeout_ms: At most so much.
            quiet_ms: No table may have changed for so long.

        Raises:
            SimulationError: That did not happen in time; it says what is missing.
        """
        self._check()
        begin_ms = quiet_from_ms = self._time.now_ms
        before: list[tuple[int, ...]] = []
        while True:
            self._pass(self._time.now_ms + STEP_MS)
            now = [node.routing_state() for node in self._fabric.nodes.values()]
            missing = self._fabric.missing()
            if now != before or missing:
                before, quiet_from_ms = now, self._time.now_ms
            elif self._time.now_ms - quiet_from_ms >= quiet_ms:
                return self._time.now_ms - begin_ms
            if self._time.now_ms - begin_ms >= timeout_ms:
                what = "; ".join(missing[:5]) or "routes keep changing"
                raise SimulationError(
                    f"not settled after {timeout_ms} ms (seed {self.seed}): {what}"
                )

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

    @classmethod
    def replay(
        cls,
        operations: Iterable[Operation],
        *,
        behaviors: Behaviors = (),
        actions: Mapping[str, Callable[..., object]] | None = None,
        until_ms: int = 0,
        skip_invalid: bool = False,
        **options: Any,
    ) -> Network:
        """Return a new network to which all this was done again.

        Args:
            operations: ``operations`` of the other network.
            behaviors: For its nodes, as in ``add_node``.
            actions: What ``do`` needs.
            until_ms: Let time pass until then.
            skip_invalid: Leave out what cannot be done.
            options: As for ``Network``: the seed before all.
        """
        network = cls(**options)
        network.actions.update(actions or {})
        network.play(operations, behaviors=behaviors, skip_invalid=skip_invalid)
        network.run(max(0, until_ms - network.now_ms))
        return network

    # -- the end -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Close all nodes politely, each with its last hooks; frozen ones just go. Idempotent."""
        if not self._closed:
            self._closed = self._fabric.is_closing = True
            for node in self._fabric.nodes.values():
                if node.is_awake:
                    node.stop()
                elif node.is_running:
                    node.kill(silent=True)

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
        return f"<Network seed={self.seed} {len(self._fabric.nodes)} nodes at {self.now_ms} ms>"
