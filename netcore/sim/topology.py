"""Topology: whole networks by one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from random import Random

from .._typing import TYPE_CHECKING, Any, Final, final
from ..errors import LocalError

if TYPE_CHECKING:
    from .network import Network
    from .nodes import Behaviors

__all__ = ["Topology", "nth_id"]

GROUP: Final = 255  # ids 1..255 in the lowest byte
MOST_NODES: Final = GROUP << 8


def nth_id(at: int) -> int:
    """Return the id of the ``at``-th node, from 0: 1 .. 255, then the next group of 255.

    Routing wants each group connected in itself; see the guide about ids.
    """
    return at // GROUP << 8 | at % GROUP + 1


@final
class Topology:
    """Adds nodes, as far as they are not there yet, and links them.

    ``nodes`` is a number, for ids as ``nth_id`` has them, or the ids themselves. ``link`` is what
    ``Network.link`` takes. Each method returns the ids.
    """

    def __init__(self, network: Network) -> None:
        self._network = network

    def line(
        self, nodes: int | Sequence[int], behaviors: Behaviors = (), **link: Any
    ) -> tuple[int, ...]:
        """Link each node to the next."""
        ids = self._add(nodes, behaviors)
        return self._link(ids, pairwise(ids), link)

    def ring(
        self, nodes: int | Sequence[int], behaviors: Behaviors = (), **link: Any
    ) -> tuple[int, ...]:
        """Link each node to the next, and the last to the first."""
        ids = self._add(nodes, behaviors)
        return self._link(ids, [*pairwise(ids), *([(ids[-1], ids[0])] if ids[2:] else [])], link)

    def star(
        self, nodes: int | Sequence[int], behaviors: Behaviors = (), **link: Any
    ) -> tuple[int, ...]:
        """Link all nodes to the first."""
        ids = self._add(nodes, behaviors)
        return self._link(ids, [(node_id, ids[0]) for node_id in ids[1:]], link)

    def mesh(
        self, nodes: int | Sequence[int], behaviors: Behaviors = (), **link: Any
    ) -> tuple[int, ...]:
        """Link every node to every other."""
        ids = self._add(nodes, behaviors)
        return self._link(ids, [(a, b) for at, a in enumerate(ids) for b in ids[:at]], link)

    def grid(
        self, width: int, height: int, behaviors: Behaviors = (), **link: Any
    ) -> tuple[int, ...]:
        """Link each node to its neighbours in a grid; ids row by row."""
        ids = self._add(width * height, behaviors)
        rows = [(at, at + 1) for at in range(len(ids)) if (at + 1) % width]
        columns = [(at, at + width) for at in range(len(ids) - width)]
        return self._link(ids, [(ids[a], ids[b]) for a, b in sorted(rows + columns)], link)

    def random(
        self,
        nodes: int | Sequence[int],
        behaviors: Behaviors = (),
        *,
        degree: float = 3.0,
        seed: int | None = None,
        **link: Any,
    ) -> tuple[int, ...]:
        """Link nodes at random, each group of 256 ids connected in itself.

        Args:
            nodes: Ids, or how many.
            behaviors: Of new nodes.
            degree: Links per node in the mean; at least as many as connect all of them.
            seed: Of the choice of links; None: the network's.
            link: See the class.
        """
        ids = self._add(nodes, behaviors)
        rnd = Random(f"{self._network.seed if seed is None else seed}/topology")
        pairs: dict[tuple[int, int], None] = {}
        groups: dict[int, list[int]] = {}
        for at, node_id in enumerate(ids):
            group = groups.setdefault(node_id >> 8, [])
            others = group or ids[:at]
            if others:
                pairs[node_id, rnd.choice(others)] = None
            group.append(node_id)
        most = len(ids) * (len(ids) - 1) // 2
        while len(pairs) < min(most, int(len(ids) * degree / 2)):
            a, b = rnd.sample(ids, 2)
            if (b, a) not in pairs:
                pairs[a, b] = None
        return self._link(ids, pairs, link)

    def _add(self, nodes: int | Sequence[int], behaviors: Behaviors) -> tuple[int, ...]:
        if isinstance(nodes, int):
            if not 1 <= nodes <= MOST_NODES:
                raise LocalError(f"a topology has 1..{MOST_NODES} nodes, not {nodes}")
            nodes = [nth_id(at) for at in range(nodes)]
        for node_id in nodes:
            if node_id not in self._network:
                self._network.add_node(node_id, behaviors)
        return tuple(nodes)

    def _link(
        self, ids: tuple[int, ...], pairs: Iterable[tuple[int, int]], link: dict[str, Any]
    ) -> tuple[int, ...]:
        for a, b in pairs:
            self._network.link(a, b, **link)
        return ids
