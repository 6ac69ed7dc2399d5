"""Learned: what a node knows through one link, and what it believes of what comes over it."""

from __future__ import annotations

from . import wire
from ._typing import final
from .ids import differing_layer
from .route import Metric
from .router import FIRST_SERVICE, PLACES

__all__ = ["Learned", "place_of"]


def place_of(local_node: int, node_id: int) -> int:
    """Return the slot in which a node finds another one."""
    layer = differing_layer(local_node, node_id)
    return layer << 8 | (node_id >> (8 * layer) & 0xFF)


@final
class Learned:
    """A link, as the router sees it.

    Attributes:
        conn_id: The link.
        node_id: The neighbour.
        local_node: This node.
        place: The neighbour's own slot.
        metric: Of the link.
        direct: The same while the link may be used, else None.
        received: Place -> what the neighbour has announced there.
    """

    __slots__ = ("conn_id", "direct", "local_node", "metric", "node_id", "place", "received")

    def __init__(self, conn_id: int, local_node: int, node_id: int, metric: Metric) -> None:
        self.conn_id = conn_id
        self.local_node = local_node
        self.node_id = node_id
        self.place = place_of(local_node, node_id)
        self.metric = metric
        self.direct: Metric | None = None
        self.received: dict[int, Metric] = {}

    @property
    def is_suspect(self) -> bool:
        """Whether it is in use as the last resort only."""
        return self.direct is not None and self.direct.is_last_resort

    def is_acceptable(self, place: int, metric: Metric) -> bool:
        """Return whether an entry of the neighbour breaks no rule; see ``apply_sync``."""
        if not 0 <= place < PLACES:
            return False
        hops = metric.hops
        if place < FIRST_SERVICE:
            layer = place >> 8
            own = place & 0xFF == self.local_node >> 8 * layer & 0xFF
            # Below the highest byte in which the two ids differ slots mean something else there.
            if layer < self.place >> 8 or own or place == self.place or not hops:
                return False
        if len(hops) > wire.MAX_PATH_HOPS or self.local_node in hops or self.node_id in hops:
            return False
        if len(set(hops)) != len(hops):
            return False
        return not hops or (min(hops) >= 0 and max(hops) <= wire.MAX_NODE_ID)
