"""Fabric: what a simulated network consists of, as nodes and streams see it."""

from __future__ import annotations

from collections.abc import Callable

from .._typing import TYPE_CHECKING, Final, final
from ..errors import LocalError, OutgoingConnectionError
from .clock import VirtualTime
from .nodes import HookError, NodeWatcher, SimNode
from .paths import Path, Quality
from .trace import Trace

if TYPE_CHECKING:
    from .links import Link
    from .streams import End, Machine

__all__ = ["Fabric"]

#: Hook errors that are kept; more are only counted.
KEPT_ERRORS: Final = 1_000


@final
class Fabric(NodeWatcher):
    """Nodes, paths, links, one clock and one trace.

    Attributes:
        seed: Of all randomness.
        window_bytes: Room of one direction of a stream.
        time: The clock.
        trace: What happened.
        nodes: By id.
        links: By both ids, the smaller one first.
        is_closing: Nodes are closed one after the other: that sends fail says nothing any more.
        tap: Called with the bytes that leave an end of a stream; for campaigns.
        hook_errors: The first ones.
        hook_errors_count: How many there were.
    """

    def __init__(self, seed: int, window_bytes: int, keep_events: int) -> None:
        self.seed = seed
        self.window_bytes = window_bytes
        self.time = VirtualTime()
        self.trace = Trace(keep_events)
        self.nodes: dict[int, SimNode] = {}
        self.links: dict[tuple[int, int], Link] = {}
        self.is_closing = False
        self.tap: Callable[[End, bytes], object] | None = None
        self.hook_errors: list[HookError] = []
        self.hook_errors_count = 0
        self._names: dict[str, SimNode] = {}
        self._paths: dict[tuple[int, int], Path] = {}

    def add_node(self, node: SimNode) -> None:
        """Let a node be found."""
        self.nodes[node.node_id] = self._names[node.name] = node

    def node(self, node_id: int) -> SimNode:
        """Return a node, be it dead.

        Raises:
            LocalError: There is none.
        """
        node = self.nodes.get(node_id)
        if node is None:
            raise LocalError(f"there is no node {node_id}: add_node it first")
        return node

    def running(self, node_id: int) -> SimNode:
        """Return a node.

        Raises:
            LocalError: It does not run.
        """
        node = self.node(node_id)
        _ = node.node  # raises when it does not
        return node

    def path(self, a: int, b: int) -> Path:
        """Return the way from a to b."""
        path = self._paths.get((a, b))
        if path is None:
            path = self._paths[a, b] = Path(f"{self.seed}/{a}>{b}", Quality())
        return path

    def paths(self) -> list[Path]:
        """Return all that were used or set."""
        return list(self._paths.values())

    def machine_of(self, name: str) -> Machine | None:
        """Return whose name that is."""
        return self._names.get(name)

    # -- what nodes tell ---------------------------------------------------------------------------

    def on_link_up(self, node: SimNode, peer: int, conn_id: int) -> None:
        """Note the end of a dial."""
        self._tell_link(node, peer, lambda link: link.on_up(conn_id))

    def on_link_down(self, node: SimNode, peer: int, conn_id: int) -> None:
        """Dial again, if that is wanted."""
        self._tell_link(node, peer, lambda link: link.on_down(node))

    def on_dial_failed(
        self, node: SimNode, peer: int | None, conn_id: int, error: OutgoingConnectionError
    ) -> None:
        """Dial again, if that is wanted."""
        if peer is not None:
            self._tell_link(node, peer, lambda link: link.on_dial_failed(conn_id, error))

    def on_death(self, node: SimNode) -> None:
        """Forget its dials."""
        for link in self.links.values():
            link.on_death(node)

    def on_hook_failed(self, error: HookError) -> None:
        """Keep it, if it is among the first."""
        if self.is_closing and isinstance(error.error, LocalError):
            return
        self.hook_errors_count += 1
        if len(self.hook_errors) < KEPT_ERRORS:
            self.hook_errors.append(error)

    def _tell_link(self, node: SimNode, peer: int, tell: Callable[[Link], object]) -> None:
        link = self.links.get((min(node.node_id, peer), max(node.node_id, peer)))
        if link is not None:
            tell(link)

    # -- whether everything is as it must become ---------------------------------------------------

    def missing(self) -> list[str]:
        """Return the links that are neither up nor gone, in words."""
        missing = [str(link) for link in self.links.values() if self._must_come(link)]
        for node in self.nodes.values():
            if node.is_awake:
                missing += [
                    f"node {node.node_id} still has its dead link to node {peer}"
                    for peer in node.peers
                    if not self._is_whole(node, peer)
                ]
        return missing

    def _must_come(self, link: Link) -> bool:
        wanted = link.redial_ms is not None or link.is_dialing
        return wanted and self._is_able(link.a, link.b) and not link.is_up

    def _is_able(self, a: int, b: int) -> bool:
        """Return whether bytes can go to and fro."""
        awake = self.nodes[a].is_awake and self.nodes[b].is_awake
        return awake and not (self.path(a, b).is_cut or self.path(b, a).is_cut)

    def _is_whole(self, node: SimNode, peer: int) -> bool:
        return self._is_able(node.node_id, peer) and node.node_id in self.nodes[peer].peers
