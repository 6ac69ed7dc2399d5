"""View: what there is to see of a simulated network."""

from __future__ import annotations

from .._typing import TYPE_CHECKING
from ..errors import LocalError
from .clock import SimulationError
from .fabric import Fabric

if TYPE_CHECKING:
    from typing import TypeVar

    from ..behavior import NetworkBehavior
    from ..node import Node
    from ..stats import NodeStats
    from .links import Link
    from .nodes import HookError
    from .paths import Path
    from .trace import Trace

    B = TypeVar("B", bound=NetworkBehavior)

__all__ = ["View"]


class View:
    """A network, to be looked at.

    Attributes:
        allow_hook_errors: Whether ``check`` takes them well.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.allow_hook_errors = False
        self._fabric = fabric
        self._time = fabric.time

    @property
    def seed(self) -> int:
        """The seed."""
        return self._fabric.seed

    @property
    def trace(self) -> Trace:
        """What happened."""
        return self._fabric.trace

    @property
    def hook_errors(self) -> list[HookError]:
        """What user code raised, the first thousand."""
        return self._fabric.hook_errors

    # -- nodes and links ---------------------------------------------------------------------------

    def node(self, node_id: int) -> Node:
        """Return the running node of that id.

        Raises:
            LocalError: There is none.
        """
        return self._fabric.node(node_id).node

    def __getitem__(self, node_id: int) -> Node:
        return self.node(node_id)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._fabric.nodes

    @property
    def node_ids(self) -> tuple[int, ...]:
        """The ids of all nodes ever added, in that order."""
        return tuple(self._fabric.nodes)

    def is_running(self, node_id: int) -> bool:
        """Return whether the node's process is there, frozen or not."""
        return self._fabric.node(node_id).is_running

    def is_frozen(self, node_id: int) -> bool:
        """Return whether the node stands still."""
        return self._fabric.node(node_id).is_frozen

    def incarnation(self, node_id: int) -> int:
        """Return how often the node was restarted."""
        return self._fabric.node(node_id).incarnation

    def behavior(self, node_id: int, kind: type[B]) -> B:
        """Return the node's behavior of that class.

        Raises:
            LocalError: It has none.
        """
        for behavior in self._fabric.node(node_id).behaviors:
            if isinstance(behavior, kind):
                return behavior
        raise LocalError(f"node {node_id} has no {kind.__name__}")

    @property
    def links(self) -> tuple[Link, ...]:
        """The links that were made by ``link``, oldest first."""
        return tuple(self._fabric.links.values())

    def is_cut(self, a: int, b: int) -> bool:
        """Return whether nothing gets from a to b."""
        return self.path(a, b).is_cut

    def path(self, a: int, b: int) -> Path:
        """Return the way from a to b; any two have one, 1 ms long until ``link`` says more."""
        self._both(a, b)
        return self._fabric.path(a, b)

    # -- time and events ---------------------------------------------------------------------------

    @property
    def now_ms(self) -> int:
        """The virtual time, of all nodes; it begins with 0."""
        return self._time.now_ms

    @property
    def hash(self) -> str:
        """The hash over everything that happened so far."""
        return self.trace.hash

    def stats(self) -> dict[int, NodeStats]:
        """Return the counters of the running nodes."""
        return {i: node.node.stats() for i, node in self._fabric.nodes.items() if node.is_running}

    def total(self, counter: str) -> int:
        """Return the sum of a counter of ``NodeStats``, over all nodes and their past."""
        return sum(node.total(counter) for node in self._fabric.nodes.values())

    def check(self) -> None:
        """Complain about hook errors, unless they are allowed.

        Raises:
            SimulationError: User code raised; the first error is its cause.
        """
        if self.hook_errors and not self.allow_hook_errors:
            first, count = self.hook_errors[0], self._fabric.hook_errors_count
            raise SimulationError(
                f"hook errors: {count} (seed {self.seed}), the first: {first}"
            ) from first.error

    def _both(self, a: int, b: int) -> None:
        self._fabric.node(a)
        self._fabric.node(b)
