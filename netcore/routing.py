"""The layered router: learns paths from its neighbours, decides, and writes the table.

Facts first:

- A *place* is a slot or a service as one number, see ``netcore.router``; ``RouteTable`` tells what
  slots are: one slot stands for all nodes behind that byte of the id.
- A path's hops are listed from the destination to the first hop, this node not included: a direct
  link to B is ``[B]``, C over B is ``[C, B]``. That is at the same time what this node announces:
  the list "from the destination up to, but without, the sender". Who hears it appends the sender.
  A service of this node itself is announced with no hops at all.
- At a place there is at most one path per link: the direct one, or what the neighbour announced,
  prolonged by the link. Which one is used, and which one takes over, is in ``netcore.choices``.
- A neighbour is told what this node would do with *its* frames, which is: the best path, or the
  alternate when the best one leads to that very neighbour; and only when that path does not visit
  the neighbour. A second choice that would not be taken is not announced. Therefore nobody can
  fail over to a way that leads back, and hop lists are what frames really do.
- Every score grows with every hop (``HOP_COST_MS``) and own ids in hop lists are refused, so the
  tables settle after any change: nothing counts to infinity.
- A link that is suspect stays, with a metric that makes every way over it the last resort here and,
  as it is announced like any other, everywhere. The hop is lost as far as others are concerned:
  what they have announced over it so far is not true any more.
- There is no clock and no calming here: the answer depends only on what was last set.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from . import wire
from ._typing import TYPE_CHECKING, Final
from .choices import Choices
from .errors import LocalError
from .ids import check_conn_id, check_key, check_node_id, check_service_id, differing_layer
from .learned import Learned, place_of
from .route import Metric, RouteAction
from .router import (
    FIRST_SERVICE,
    PLACES,
    ForceLocalRouter,
    ForceNodeRouter,
    Path,
    RouterSync,
    RouterTable,
    path_of,
)

if TYPE_CHECKING:
    from ._backend import kernels

__all__ = [
    "FIRST_SERVICE",
    "PLACES",
    "ForceLocalRouter",
    "ForceNodeRouter",
    "LayeredRouter",
    "Path",
    "RouterSync",
    "RouterTable",
]

_AT_HOME: Final = Metric(0, ())
MAX_LOST: Final = 1_024  # neighbours that ``take_lost`` tells of at once


class LayeredRouter(RouterTable):
    """Learns paths from its neighbours and writes the best ones into a ``RouteTable``.

    Usable by itself: it knows nothing of sockets, clocks or messages. Only what a change touches
    is computed and written again.

    Attributes:
        node_id: This node.
        table: The forwarding table, which the switch asks without any Python in between.
        routes_refused: Announced entries that broke a rule and were skipped.
        on_change: Called, when set, after something that neighbours may have to be told has
            changed; ``take_changes`` tells what. It is called within the changing method.
    """

    def __init__(self, node_id: int, table: kernels.RouteTable | None = None) -> None:
        """Make a router that knows no link.

        Args:
            node_id: 0..2**32 - 2.
            table: What to write into; a new one of the default backend when not given.

        Raises:
            LocalError: ``node_id`` is no node id, or the table is another node's.
        """
        self.node_id = check_node_id(node_id)
        self.routes_refused = 0
        self.on_change: Callable[[], None] | None = None
        self._own = [node_id >> (8 * layer) & 0xFF for layer in range(wire.LAYERS)]
        self._links: dict[int, Learned] = {}
        self._choices = Choices()
        self._offered: set[int] = set()
        self._changes: set[int] = set()
        self._lost: set[int] = set()
        if table is None:
            from ._backend import kernels

            table = kernels.RouteTable(node_id)
        self.use_table(table)

    def use_table(self, table: kernels.RouteTable) -> None:
        """Write everything into another table, for example another backend's, from now on.

        Args:
            table: Of the same node; what was in it is removed.

        Raises:
            LocalError: The table is another node's.
        """
        if table.local_node != self.node_id:
            raise LocalError(f"a table of node {table.local_node} is no use to {self.node_id}")
        self.table = table
        for layer, index, *_ in table.slots():
            table.clear_next(layer, index)
        for service, *_ in table.services():
            table.clear_service_next(service)
            table.set_service_local(service, service in self._offered)
        for service in self._offered:
            table.set_service_local(service, True)
        for place in self._choices.chosen:
            self._write(place)

    # -- what is known --------------------------------------------------------------------------

    def set_direct(self, conn_id: int, node_id: int, metric: Metric) -> None:
        """Take a link in, or its new metric; every path learned over it changes along.

        Args:
            conn_id: The link.
            node_id: The neighbour at its other end.
            metric: Of the link: its only hop is the neighbour. From ``wire.SUSPECT_LATENCY_MS``
                on the link is suspect.

        Raises:
            LocalError: An id is out of range or this node's own, or the hops are not [node_id].
        """
        link = self._link(conn_id, node_id, metric)
        if link.direct is not None and metric.is_last_resort and not link.direct.is_last_resort:
            self._note_lost(link)
        link.direct = metric
        self._choices.put(link.place, Path(conn_id, node_id, metric))
        self._recompute(self._rebase(link, metric) | {link.place}, conn_id)

    def del_direct(self, conn_id: int) -> None:
        """Forget a link and everything learned over it; unknown ones are ignored."""
        link = self._links.pop(conn_id, None)
        if link is None:
            return
        touched = set(link.received)
        if link.direct is not None:
            touched.add(link.place)
            self._note_lost(link)
        self._choices.distrust(conn_id)
        for place in touched:
            self._choices.remove(place, conn_id)
        self._recompute(touched, conn_id)

    def register_service(self, service_id: int) -> None:
        """This node offers a service."""
        self._offer(check_service_id(service_id), True)

    def unregister_service(self, service_id: int) -> None:
        """This node offers it no longer."""
        self._offer(check_service_id(service_id), False)

    def apply_sync(self, conn_id: int, node_id: int, metric: Metric, sync: RouterSync) -> None:
        """Replace everything learned over a link; what ``sync`` does not hold was withdrawn.

        Entries are skipped and counted in ``routes_refused`` when their hops hold this node, the
        neighbour, a repeat, no node id, or more than ``MAX_PATH_HOPS`` entries; when the slot is
        this node's own or the neighbour's, or in a layer below the highest byte in which the two
        ids differ; when a slot is announced without any hop.

        Args:
            conn_id: The link.
            node_id: The neighbour, who sent it.
            metric: Of the link; paths learned before are re-based when it is a new one.
            sync: Its snapshot.

        Raises:
            LocalError: As for ``set_direct``.
        """
        changes: dict[int, Metric | None] = dict(sync.places())
        link = self._links.get(conn_id)
        if link is not None:
            changes.update((place, None) for place in link.received if place not in changes)
        self.apply_changes(conn_id, node_id, metric, changes)

    def apply_changes(
        self, conn_id: int, node_id: int, metric: Metric, changes: Mapping[int, Metric | None]
    ) -> None:
        """Take in a part of what a neighbour announces.

        Args:
            conn_id: The link.
            node_id: The neighbour.
            metric: Of the link.
            changes: Place -> announced metric, None = withdrawn. Refusals as in ``apply_sync``; a
                refused entry withdraws what was there.

        Raises:
            LocalError: As for ``set_direct``.
        """
        link = self._link(conn_id, node_id, metric)
        touched = self._rebase(link, metric)
        for place, announced in changes.items():
            if announced is not None and not link.is_acceptable(place, announced):
                self.routes_refused += 1
                announced = None
            if announced == link.received.get(place):
                continue
            touched.add(place)
            if announced is None:
                del link.received[place]
                self._choices.remove(place, conn_id)
            else:
                link.received[place] = announced
                self._learn(link, place)
        if link.direct is None and not link.received:
            del self._links[conn_id]
        self._recompute(touched, conn_id)

    # -- what is doubted ------------------------------------------------------------------------

    def doubt(self, far: int, near: int) -> set[int]:
        """Use no path on which ``near`` hands over to ``far``: that link is said to be lost.

        What a neighbour announces is used again from ``trust`` on.

        Returns:
            The places to which such a path was the best one or the alternate.
        """
        if near == self.node_id:  # whoever made that up will hear otherwise
            return self._choices.over_neighbour(far)
        places = self._choices.doubt((far, near))
        self._recompute(places)
        return places

    def trust(self, far: int, near: int, conn_id: int) -> None:
        """Use such paths if they are announced over this link: its neighbour knows of the loss."""
        self._recompute(self._choices.trust((far, near), conn_id))

    def end_doubt(self, far: int, near: int) -> None:
        """Use such paths again, whoever announces them."""
        self._recompute(self._choices.end_doubt((far, near)))

    def _link(self, conn_id: int, node_id: int, metric: Metric) -> Learned:
        check_conn_id(conn_id)
        if check_node_id(node_id) == self.node_id:
            raise LocalError(f"node {node_id} is this node: it has no link to itself")
        if metric.hops != (node_id,):
            raise LocalError(f"the metric of a link to {node_id} has that hop only: {metric.hops}")
        link = self._links.get(conn_id)
        if link is not None and link.node_id != node_id:
            self.del_direct(conn_id)
            link = None
        if link is None:
            link = self._links[conn_id] = Learned(conn_id, self.node_id, node_id, metric)
        return link

    def _note_lost(self, link: Learned) -> None:
        """Remember that a neighbour is lost unless another link to it is as good as this was."""
        was_suspect = link.is_suspect
        is_lost = all(
            other is link or other.node_id != link.node_id or (other.is_suspect and not was_suspect)
            for other in self._links.values()
        )
        # Nobody asks, perhaps: then it is not to grow for ever.
        if is_lost and len(self._lost) < MAX_LOST:
            self._lost.add(link.node_id)

    def _rebase(self, link: Learned, metric: Metric) -> set[int]:
        if metric == link.metric:
            return set()
        link.metric = metric
        for place in link.received:
            self._learn(link, place)
        return set(link.received)

    def _learn(self, link: Learned, place: int) -> None:
        metric = link.received[place].over(link.metric)
        self._choices.put(place, path_of(link.conn_id, link.node_id, metric))

    def _offer(self, service: int, is_offered: bool) -> None:
        if (service in self._offered) is is_offered:
            return
        if is_offered:
            self._offered.add(service)
        else:
            self._offered.remove(service)
        self.table.set_service_local(service, is_offered)
        self._tell({FIRST_SERVICE + service})

    # -- what follows from it -------------------------------------------------------------------

    def _recompute(self, places: Iterable[int], conn_id: int | None = None) -> None:
        """Choose again at these places; with a link: where only its candidate has changed."""
        changed = {place for place in places if self._choices.choose_again(place, conn_id)}
        for place in changed:
            self._write(place)
        if changed:
            self._tell(changed)

    def _tell(self, changed: set[int]) -> None:
        self._changes |= changed
        if self.on_change is not None:
            self.on_change()

    def _write(self, place: int) -> None:
        chosen = self._choices.chosen.get(place)
        number = place & 0xFF
        if chosen is None:
            if place < FIRST_SERVICE:
                self.table.clear_next(place >> 8, number)
            else:
                self.table.clear_service_next(number)
            return
        best, other = chosen
        alternate = (other.conn_id, other.node_id) if other else (0, wire.NO_NODE)
        if place < FIRST_SERVICE:
            self.table.set_next(place >> 8, number, best.conn_id, best.node_id, *alternate)
        else:
            self.table.set_service_next(number, best.conn_id, best.node_id, *alternate)

    # -- what neighbours are told ---------------------------------------------------------------

    def create_sync(self, for_node: int) -> RouterSync:
        """Return everything that a neighbour is told.

        Per slot and service the path that this node takes for that neighbour's frames, unless it
        visits the neighbour. Layers below the highest byte in which the two ids differ mean
        nothing to it and are empty.

        Args:
            for_node: The neighbour.

        Raises:
            LocalError: It is no node id, or this node's own.
        """
        return RouterSync.of_places(self.announcements(for_node))

    def announcements(self, for_node: int) -> dict[int, Metric]:
        """Return the same by place."""
        if check_node_id(for_node) == self.node_id:
            raise LocalError(f"node {for_node} is this node: it announces nothing to itself")
        found = {place: self.announcement(place, for_node) for place in self.places()}
        return {place: metric for place, metric in found.items() if metric is not None}

    def announcement(self, place: int, for_node: int) -> Metric | None:
        """Return what a neighbour is told about one place; None: there is no way."""
        if place - FIRST_SERVICE in self._offered:
            return _AT_HOME
        chosen = self._choices.chosen.get(place)
        if chosen is None:
            return None
        if place < FIRST_SERVICE:
            layer = differing_layer(self.node_id, for_node)
            at = layer << 8 | (for_node >> 8 * layer & 0xFF)  # the neighbour's own
            if place >> 8 < layer or place == at:
                return None
        best, other = chosen
        path = other if best.node_id == for_node else best
        if path is None or for_node in path.metric.hops:
            return None
        # What has more hops than an entry can hold is too far away to be of use to anybody.
        return path.metric if len(path.metric.hops) <= wire.MAX_PATH_HOPS else None

    def take_changes(self) -> set[int]:
        """Return the places whose announcements may have changed since the last call."""
        changes, self._changes = self._changes, set()
        return changes

    def take_lost(self) -> set[int]:
        """Return the neighbours whose last link was lost since the last call, be it back or not."""
        lost, self._lost = self._lost, set()
        return lost

    # -- questions ------------------------------------------------------------------------------

    def next(self, dest: int, excepts: Collection[int] = ()) -> tuple[int, int] | None:
        """Return (conn_id, node_id) of the best way to a node not over these neighbours."""
        path = self.next_path(dest, excepts)
        return None if path is None else (path.conn_id, path.node_id)

    def next_path(self, dest: int, excepts: Collection[int] = ()) -> Path | None:
        """Return the best way to a node.

        Args:
            dest: Node id.
            excepts: Neighbours that must not be the first hop.

        Returns:
            None when there is no such way, or ``dest`` is this node.
        """
        if check_node_id(dest) == self.node_id:
            return None
        return self._choices.best(place_of(self.node_id, dest), excepts)

    def closest_node(
        self, key: int, excepts: Collection[int] = ()
    ) -> tuple[int, int, int, int] | None:
        """Return the way towards the node closest to a key.

        Args:
            key: 0..2**32 - 1.
            excepts: Neighbours that must not be the first hop.

        Returns:
            (conn_id, node_id, layer, slot), or None: this node is the closest.
        """
        check_key(key)
        for layer in range(wire.LAYERS - 1, -1, -1):
            byte = key >> (8 * layer) & 0xFF
            base = layer << 8
            closest = min(range(wire.SLOTS), key=lambda i: self._distance(base | i, byte, excepts))
            path = self._choices.best(base | closest, excepts)
            if path is not None and closest ^ byte < self._own[layer] ^ byte:
                return path.conn_id, path.node_id, layer, closest
        return None

    def _distance(self, place: int, byte: int, excepts: Collection[int]) -> int:
        is_there = self._choices.best(place, excepts) is not None
        return place & 0xFF ^ byte if is_there else wire.SLOTS

    def places(self) -> list[int]:
        """Return every place that there is a way to, and the services of this node, ascending."""
        return sorted(
            {*self._choices.chosen, *(FIRST_SERVICE + service for service in self._offered)}
        )

    def ways(self, place: int) -> list[Path]:
        """Return all ways to a place, the best first."""
        return [
            candidate[5] for candidate in sorted(self._choices.candidates.get(place, {}).values())
        ]

    def chosen(self, place: int) -> tuple[Path | None, Path | None]:
        """Return the best way to a place, and the alternate."""
        return self._choices.chosen.get(place, (None, None))

    def offers(self, service_id: int) -> bool:
        """Return whether this node offers a service."""
        return service_id in self._offered

    def path_to_node(self, dest: int) -> RouteAction:
        """Return the way to the node with this id."""
        return RouteAction(*self.table.path_to_node(dest))

    def path_to_key(self, key: int) -> RouteAction:
        """Return the way to the node closest to this key."""
        return RouteAction(*self.table.path_to_key(key))

    def path_to_service(self, service_id: int) -> RouteAction:
        """Return the way to a node that offers this service."""
        return RouteAction(*self.table.path_to_service(service_id))

    def check(self) -> None:
        """Verify that what is chosen and written follows from what is known; for tests.

        Raises:
            AssertionError: It does not.
        """
        known: dict[int, set[int]] = {}
        for link in self._links.values():
            for place in (*link.received, *([link.place] if link.direct else [])):
                known.setdefault(place, set()).add(link.conn_id)
        candidates, chosen = self._choices.candidates, self._choices.chosen
        assert known == {place: set(found) for place, found in candidates.items()}
        self._choices.check()
        written: dict[int, list[int]] = {
            layer << 8 | index: entry for layer, index, *entry in self.table.slots()
        }
        for service, is_local, *entry in self.table.services():
            assert is_local is (service in self._offered)
            if entry[0]:
                written[FIRST_SERVICE + service] = entry
        assert written.keys() == chosen.keys()
        for place, (best, other) in chosen.items():
            alternate = (other.conn_id, other.node_id) if other else (0, wire.NO_NODE)
            assert written[place] == [best.conn_id, best.node_id, *alternate]
        self.table.check()

    def dump(self) -> dict[str, object]:
        """Return everything as plain data that ``json`` takes, candidates best first."""
        from .explain import dump_places  # which nobody needs for routing

        return {
            "node_id": int(self.node_id),
            "routes_refused": self.routes_refused,
            "links": [
                {
                    "conn_id": link.conn_id,
                    "node_id": link.node_id,
                    "latency_ms": link.metric.latency_ms,
                    "bandwidth_kbps": link.metric.bandwidth_kbps,
                    "direct": link.direct is not None,
                    "learned": len(link.received),
                }
                for link in self._links.values()
            ],
            **dump_places(self),
        }
