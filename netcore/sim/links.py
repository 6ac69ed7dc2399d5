"""Link: two nodes of which one dials the other, and dials again."""

from __future__ import annotations

from .._typing import TYPE_CHECKING, final
from .nodes import address_of

if TYPE_CHECKING:
    from ..errors import OutgoingConnectionError
    from .clock import VirtualTime
    from .nodes import SimNode

__all__ = ["Link"]


@final
class Link:
    """Two nodes that are to be joined.

    Attributes:
        a: Who dials.
        b: Who is dialled.
        redial_ms: After a failure or a loss a dials again after so long; None: never.
        dials: How often a has dialled.
        last_error: Why the last dial failed; None when it did not.
    """

    def __init__(
        self, time: VirtualTime, one: SimNode, two: SimNode, redial_ms: int | None
    ) -> None:
        self.a, self.b = one.node_id, two.node_id
        self.redial_ms = redial_ms
        self.dials = 0
        self.last_error: OutgoingConnectionError | None = None
        self._time = time
        self._one, self._two = one, two
        self._dialing: int | None = None
        self._waits = False

    @property
    def is_up(self) -> bool:
        """Whether both ends have it."""
        return self.b in self._one.peers and self.a in self._two.peers

    @property
    def is_dialing(self) -> bool:
        """Whether a dial is under way."""
        return self._dialing is not None

    def __str__(self) -> str:
        state = "up" if self.is_up else "not up"
        why = "" if self.last_error is None else f", the last dial failed: {self.last_error}"
        return f"link {self.a}-{self.b} is {state} after {self.dials} dials{why}"

    def dial(self) -> None:
        """Dial now, unless there is a link, or nobody who could."""
        self._waits = False
        if self._one.is_running and self.b not in self._one.peers and self._dialing is None:
            self.dials += 1
            self._dialing = self._one.node.connect(address_of(self.b))

    def on_down(self, node: SimNode) -> None:
        """The link is gone at this end."""
        if node is self._one:
            self._later()

    def on_up(self, conn_id: int) -> None:
        """A dial has become a link."""
        if conn_id == self._dialing:
            self._dialing = self.last_error = None

    def on_dial_failed(self, conn_id: int, error: OutgoingConnectionError) -> None:
        """A dial has ended."""
        if conn_id == self._dialing:
            self._dialing, self.last_error = None, error
            self._later()

    def on_death(self, node: SimNode) -> None:
        """A process is gone, with its dials."""
        if node is self._one:
            self._dialing = None

    def _later(self) -> None:
        if self.redial_ms is not None and not self._waits:
            self._waits = True
            self._time.call_at(self._time.now_ms + self.redial_ms, self.dial)
