"""The live links of a node, by conn id and by neighbour.

What an idle link costs is decided here: no dict and no object per link that can be shared, derived
or made when it is needed. The switch knows its connections by id, so nobody else does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ._typing import TYPE_CHECKING, cast, final
from .wire import FIRST_RESERVED_SERVICE

if TYPE_CHECKING:
    from ._backend import kernels
    from .agent import ConnectionAgent
    from .behavior import ConnectionHandler

__all__ = ["Link", "LinkTable"]

#: Handler, agent, handler, agent, ...: one object where pairs would be two.
_Handlers = tuple["ConnectionHandler | ConnectionAgent", ...]


@final
class Link:
    """One live link, as the plane knows it.

    Attributes:
        conn: The kernel's part.
        vitals: Its numbers, the neighbour's epoch among them.
        remote_addr: As text, for people.
    """

    __slots__ = ("_handlers", "conn", "remote_addr", "vitals")

    def __init__(self, conn: kernels.Connection, vitals: kernels.Vitals, remote_addr: str) -> None:
        self.conn = conn
        self.vitals = vitals
        self.remote_addr = remote_addr
        self._handlers: _Handlers = ()

    @property
    def is_open(self) -> bool:
        """Whether neither end has begun to close it."""
        return self.conn.state == 0

    @property
    def has_handlers(self) -> bool:
        """Whether somebody is there to be told of measurements."""
        return bool(self._handlers)

    @property
    def has_user_handlers(self) -> bool:
        """Whether one of them is not netcore's own."""
        flat = self._handlers
        return bool(flat) and cast("ConnectionAgent", flat[1]).service_id < FIRST_RESERVED_SERVICE

    @property
    def handlers(self) -> Iterable[tuple[ConnectionHandler, ConnectionAgent]]:
        """Its handlers as they are now, and their agents, ascending service id."""
        flat = self._handlers
        if not flat:
            return ()
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return cast("Iterable[tuple[ConnectionHandler, ConnectionAgent]]", pairs)

    def add_handler(self, handler: ConnectionHandler, agent: ConnectionAgent) -> None:
        """Add one whose service id is higher than those of the others."""
        self._handlers = (*self._handlers, handler, agent)

    def find_handler(self, service_id: int) -> tuple[ConnectionHandler, ConnectionAgent] | None:
        """Return the handler of a service, and its agent."""
        for target in self.handlers:
            if target[1].service_id == service_id:
                return target
        return None

    def drop_handlers(self) -> None:
        """Forget the handlers: their link is gone."""
        self._handlers = ()


@final
class _Group:
    """Two or more links to one node, oldest first.

    Attributes:
        links: The links.
        epoch: The neighbour's, of the first link.
        strangers: How many links, as far as is known, lead to another incarnation than that.
    """

    __slots__ = ("epoch", "links", "strangers")

    def __init__(self, first: Link) -> None:
        self.links = [first]
        self.epoch = first.vitals.epoch
        self.strangers = 0

    def add(self, link: Link) -> None:
        """Add the newest."""
        self.links.append(link)
        self.strangers += link.vitals.epoch != self.epoch

    def remove(self, link: Link) -> bool:
        """Remove a link; return whether it was there."""
        try:
            self.links.remove(link)
        except ValueError:
            return False
        self.strangers -= link.vitals.epoch != self.epoch
        return True


@final
class LinkTable:
    """All links, oldest first."""

    def __init__(self) -> None:
        self._switch: kernels.Switch | None = None
        self._by_node: dict[int, Link | _Group] = {}
        self._count = 0

    def bind(self, switch: kernels.Switch) -> None:
        """Use this switch, which has the connections; once, before anything else."""
        self._switch = switch

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Link]:
        conns = () if self._switch is None else self._switch.connections()
        return iter([conn.owner for conn in conns if isinstance(conn.owner, Link)])

    def add(self, link: Link) -> None:
        """Add a link whose conn id is not there yet."""
        node_id = link.conn.remote_node_id
        link.conn.owner = link
        self._count += 1
        there = self._by_node.get(node_id)
        if there is None:
            self._by_node[node_id] = link
            return
        if isinstance(there, Link):
            there = self._by_node[node_id] = _Group(there)
        there.add(link)

    def remove(self, link: Link) -> None:
        """Remove a link; unknown ones are ignored."""
        node_id = link.conn.remote_node_id
        there = self._by_node.get(node_id)
        if isinstance(there, _Group):
            self._count -= there.remove(link)
            if not there.links:
                del self._by_node[node_id]
        elif there is link:
            self._count -= 1
            del self._by_node[node_id]

    def find(self, conn_id: int) -> Link | None:
        """Return the link with this id."""
        conn = None if self._switch is None else self._switch.find_connection(conn_id)
        owner = None if conn is None else conn.owner
        return owner if isinstance(owner, Link) else None

    def find_conn(self, conn_id: int) -> kernels.Connection | None:
        """Return the kernel's part of the link with this id, also while there is no link yet."""
        return None if self._switch is None else self._switch.find_connection(conn_id)

    def to_node(self, node_id: int) -> list[Link]:
        """Return the links to a node, closing ones included, oldest first."""
        there = self._by_node.get(node_id)
        if there is None:
            return []
        return [there] if isinstance(there, Link) else list(there.links)

    def leads_to(self, node_id: int) -> bool:
        """Return whether there is a link to a node, a closing one included."""
        return node_id in self._by_node

    def is_open_to(self, node_id: int) -> bool:
        """Return whether there is a link to a node that neither end has begun to close."""
        there = self._by_node.get(node_id)
        if there is None:
            return False
        if isinstance(there, Link):
            return there.is_open
        # From the newest one: nobody has to look at thousands of links to find an open one.
        return any(link.is_open for link in reversed(there.links))

    def is_same_epoch(self, node_id: int, epoch: int) -> bool:
        """Return whether all open links to a node lead to this incarnation of it."""
        there = self._by_node.get(node_id)
        if isinstance(there, _Group) and not there.strangers:
            return there.epoch == epoch  # in constant time, however many
        return all(link.vitals.epoch == epoch for link in self.to_node(node_id) if link.is_open)
