"""The live links of a node, by conn id and by neighbour."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, final

from .handshake import PeerInfo

if TYPE_CHECKING:
    from ._backend import kernels
    from .agent import ConnectionAgent
    from .behavior import ConnectionHandler

__all__ = ["Link", "LinkTable"]


@final
class Link:
    """One live link, as the plane knows it.

    Attributes:
        conn: The kernel's part.
        peer: What the handshake told.
        remote_addr: As text, for people.
        handlers: By service id, ascending; empty for most services.
        measured: (now_ms, bytes sent, bytes received) at the last measurement.
    """

    __slots__ = ("conn", "handlers", "measured", "peer", "remote_addr")

    def __init__(
        self, conn: kernels.Connection, peer: PeerInfo, remote_addr: str, now_ms: int
    ) -> None:
        self.conn = conn
        self.peer = peer
        self.remote_addr = remote_addr
        self.handlers: dict[int, tuple[ConnectionHandler, ConnectionAgent]] = {}
        self.measured = (now_ms, 0, 0)

    @property
    def is_open(self) -> bool:
        """Whether neither end has begun to close it."""
        return self.conn.state == 0


@final
class LinkTable:
    """All links, oldest first."""

    def __init__(self) -> None:
        self._by_conn: dict[int, Link] = {}
        self._by_node: dict[int, list[Link]] = {}

    def __len__(self) -> int:
        return len(self._by_conn)

    def __iter__(self) -> Iterator[Link]:
        return iter(list(self._by_conn.values()))

    def add(self, link: Link) -> None:
        """Add a link whose conn id is not there yet."""
        self._by_conn[link.conn.conn_id] = link
        self._by_node.setdefault(link.conn.remote_node_id, []).append(link)

    def remove(self, link: Link) -> None:
        """Remove a link; unknown ones are ignored."""
        if self._by_conn.pop(link.conn.conn_id, None) is None:
            return
        node_id = link.conn.remote_node_id
        rest = [other for other in self._by_node[node_id] if other is not link]
        if rest:
            self._by_node[node_id] = rest
        else:
            del self._by_node[node_id]

    def find(self, conn_id: int) -> Link | None:
        """Return the link with this id."""
        return self._by_conn.get(conn_id)

    def to_node(self, node_id: int) -> list[Link]:
        """Return the links to a node, closing ones included, oldest first."""
        return list(self._by_node.get(node_id, ()))
