"""Spread: who has heard a broadcast, and who must have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from .probe import Life

__all__ = ["LEVELS", "Spread"]

LEVELS: Final = range(4)  # global, zone, sub-zone, group


@final
class Spread:
    """A broadcast that a node accepted.

    Attributes:
        source: Where it began.
        level: How many bytes of the id its receivers share with that node, from the highest.
        service: Whom it is for.
    """

    __slots__ = ("_heard", "level", "service", "source")

    def __init__(self, source: int, level: int, service: int) -> None:
        self.source = source
        self.level = level
        self.service = service
        self._heard: set[Life] = set()

    def concerns(self, node_id: int) -> bool:
        """Return whether a node is within the level."""
        shift = 8 * (4 - self.level)
        return node_id >> shift == self.source >> shift

    def hear(self, life: Life, service: int) -> str | None:
        """A process hears it; return what is wrong with that."""
        if life in self._heard:
            return "was delivered to that process before"
        if service != self.service:
            return f"was for service {self.service}, not {service}"
        if not self.concerns(life.node_id):
            return f"was sent within level {self.level} of node {self.source} only"
        self._heard.add(life)
        return None

    def missing(self, services: Mapping[int, Iterable[int]]) -> list[int]:
        """Return the nodes that should have heard it and have not."""
        heard = {life.node_id for life in self._heard}
        return [
            node_id
            for node_id, offered in services.items()
            if self.service in offered and self.concerns(node_id) and node_id not in heard
        ]
