"""The layered router: learns paths from its neighbours, decides, and writes the table.

Facts first:

- A *place* is a slot or a service as one number, see ``netcore.router``; ``RouteTable`` tells what
  slots are: one slot stands for all nodes behind that byte of the id.
- A path's hops are listed from the destination to the first hop, this node not included: a direct
  link to B is ``[B]``, C over B is ``[C, B]``. That is at the same time what this node announces:
  the list "from the destination up to, but without, the sender". Who hears it appends the sender.
  A service of this node itself is announced with no hops at all.
- At a place there is at most one path per link: the direct one, or what the neighbour announced,
  prolonged by the link. The *best* one has the lowest score; the *alternate* is the best one over
  another neighbour, where paths that do not visit the best one's neighbour at all come first, so
  that it also survives the loss of that node.
- A neighbour is told what this node would do with *its* frames, which is: the best path, or the
  alternate when the best one leads to that very neighbour; and only when that path does not visit
  the neighbour. A second choice that would not be taken is not announced. Therefore nobody can
  fail over to a way that leads back, and hop lists are what frames really do.
- Every score grows with every hop (``HOP_COST_MS``) and own ids in hop lists are refused, so the
  tables settle after any change: nothing counts to infinity.
- There is no clock and no calming here: the answer depends only on what was last set.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from . import wire
from ._typing import TYPE_CHECKING, Final
from .errors import LocalError
from .ids import check_conn_id, check_key, check_node_id, check_service_id, differing_layer
from .route import Metric, RouteAction
from .router import (
    FIRST_SERVICE,
    PLACES,
    Candidate,
    ForceLocalRouter,
    ForceNodeRouter,
    Path,
    RouterSync,
    RouterTable,
    as_alternate,
    candidate_of,
    choose,
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


class _Link:
    """What is known through one link."""

    __slots__ = ("conn_id", "direct", "layer", "metric", "node_id", "place", "received")

    def __init__(self, conn_id: int, node_id: int, layer: int, place: int, metric: Metric) -> None:
        self.conn_id = conn_id
        self.node_id = node_id
        self.layer = layer  # the highest byte in which the two ids differ
        self.place = place  # the neighbour's own slot
        self.metric = metric
        self.direct: Metric | None = None
        self.received: dict[int, Metric] = {}


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
        self._links: dict[int, _Link] = {}
        self._candidates: dict[int, dict[int, Candidate]] = {}  # place -> conn -> candidate
        self._chosen: dict[int, tuple[Path, Path | None]] = {}  # place -> best, alternate
        self._offered: set[int] = set()
        self._changes: set[int] = set()
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
        for place in self._chosen:
            self._write(place)

    # -- what is known --------------------------------------------------------------------------

    def set_direct(self, conn_id: int, node_id: int, metric: Metric) -> None:
        """Take a link in, or its new metric; every path learned over it changes along.

        Args:
            conn_id: The link.
            node_id: The neighbour at its other end.
            metric: Of the link: its only hop is the neighbour.

        Raises:
            LocalError: An id is out of range or this node's own, or the hops are not [node_id].
        """
        link = self._link(conn_id, node_id, metric)
        link.direct = metric
        self._put(link.place, Path(conn_id, node_id, metric))
        self._recompute(self._rebase(link, metric) | {link.place}, conn_id)

    def del_direct(self, conn_id: int) -> None:
        """Forget a link and everything learned over it; unknown ones are ignored."""
        link = self._links.pop(conn_id, None)
        if link is None:
            return
        touched = set(link.received)
        if link.direct is not None:
            touched.add(link.place)
        for place in touched:
            del self._candidates[place][conn_id]
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
            if announced is not None and not self._is_acceptable(link, place, announced):
                self.routes_refused += 1
                announced = None
            if announced == link.received.get(place):
                continue
            touched.add(place)
            if announced is None:
                del link.received[place], self._candidates[place][conn_id]
            else:
                link.received[place] = announced
                self._learn(link, place)
        if link.direct is None and not link.received:
            del self._links[conn_id]
        self._recompute(touched, conn_id)

    def _link(self, conn_id: int, node_id: int, metric: Metric) -> _Link:
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
            layer = differing_layer(self.node_id, node_id)
            link = _Link(conn_id, node_id, layer, self._place_of(node_id), metric)
            self._links[conn_id] = link
        return link

    def _is_acceptable(self, link: _Link, place: int, metric: Metric) -> bool:
        if not 0 <= place < PLACES:
            return False
        hops = metric.hops
        if place < FIRST_SERVICE:
            layer = place >> 8
            own = place & 0xFF == self._own[layer]
            if layer < link.layer or own or place == link.place or not hops:
                return False
        if len(hops) > wire.MAX_PATH_HOPS or self.node_id in hops or link.node_id in hops:
            return False
        return len(set(hops)) == len(hops) and all(0 <= h <= wire.MAX_NODE_ID for h in hops)

    def _rebase(self, link: _Link, metric: Metric) -> set[int]:
        if metric == link.metric:
            return set()
        link.metric = metric
        for place in link.received:
            self._learn(link, place)
        return set(link.received)

    def _learn(self, link: _Link, place: int) -> None:
        metric = link.received[place].over(link.metric)
        self._put(place, Path(link.conn_id, link.node_id, metric))

    def _put(self, place: int, path: Path) -> None:
        self._candidates.setdefault(place, {})[path.conn_id] = candidate_of(path)

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

    def _recompute(self, places: Iterable[int], conn_id: int) -> None:
        """Choose again at the places where this link's candidate has changed."""
        changed = set()
        for place in places:
            if self._is_spare(place, conn_id):
                continue
            before, after = self._chosen.get(place), choose(self._candidates[place].values())
            if after == before:
                continue
            changed.add(place)
            if after is None:
                del self._chosen[place], self._candidates[place]
            else:
                self._chosen[place] = after
            self._write(place)
        if changed:
            self._tell(changed)

    def _tell(self, changed: set[int]) -> None:
        self._changes |= changed
        if self.on_change is not None:
            self.on_change()

    def _is_spare(self, place: int, conn_id: int) -> bool:
        """Return whether a link was not chosen and is not now: in a dense network the usual case.

        Looking at all candidates for each change would cost their number squared at each place.
        """
        best, other = self._chosen.get(place, (None, None))
        if best is None or conn_id == best.conn_id or (other and conn_id == other.conn_id):
            return False
        candidates = self._candidates[place]
        new = candidates.get(conn_id)
        if new is None:
            return True
        if new < candidates[best.conn_id]:
            return False
        if new[3] == best.node_id:
            return True
        if other is None:
            return False
        return as_alternate(new, best) > as_alternate(candidates[other.conn_id], best)

    def _write(self, place: int) -> None:
        chosen = self._chosen.get(place)
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

    def _place_of(self, node_id: int) -> int:
        layer = differing_layer(self.node_id, node_id)
        return layer << 8 | (node_id >> (8 * layer) & 0xFF)

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
        places = {*self._chosen, *(FIRST_SERVICE + service for service in self._offered)}
        found = {place: self.announcement(place, for_node) for place in sorted(places)}
        return {place: metric for place, metric in found.items() if metric is not None}

    def announcement(self, place: int, for_node: int) -> Metric | None:
        """Return what a neighbour is told about one place; None: there is no way."""
        if place - FIRST_SERVICE in self._offered:
            return _AT_HOME
        chosen = self._chosen.get(place)
        if chosen is None:
            return None
        if place < FIRST_SERVICE:
            layer = differing_layer(self.node_id, for_node)
            if place >> 8 < layer or place == self._place_of(for_node):
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
        return self._best(self._place_of(dest), excepts)

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
            path = self._best(base | closest, excepts)
            if path is not None and closest ^ byte < self._own[layer] ^ byte:
                return path.conn_id, path.node_id, layer, closest
        return None

    def _distance(self, place: int, byte: int, excepts: Collection[int]) -> int:
        return place & 0xFF ^ byte if self._best(place, excepts) is not None else wire.SLOTS

    def _best(self, place: int, excepts: Collection[int]) -> Path | None:
        chosen = self._chosen.get(place)
        if chosen is None or chosen[0].node_id not in excepts:
            return chosen and chosen[0]
        usable = [c for c in self._candidates[place].values() if c[3] not in excepts]
        return min(usable)[5] if usable else None

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
        assert known == {place: set(found) for place, found in self._candidates.items()}
        assert known.keys() == self._chosen.keys()
        written: dict[int, list[int]] = {
            layer << 8 | index: entry for layer, index, *entry in self.table.slots()
        }
        for service, is_local, *entry in self.table.services():
            assert is_local is (service in self._offered)
            if entry[0]:
                written[FIRST_SERVICE + service] = entry
        assert written.keys() == known.keys()
        for place, (best, other) in self._chosen.items():
            assert (best, other) == choose(self._candidates[place].values())
            alternate = (other.conn_id, other.node_id) if other else (0, wire.NO_NODE)
            assert written[place] == [best.conn_id, best.node_id, *alternate]
        self.table.check()

    def dump(self) -> dict[str, object]:
        """Return everything as plain data that ``json`` takes, candidates best first."""
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
            "slots": [
                {"layer": place >> 8, "index": place & 0xFF, "candidates": self._dump_place(place)}
                for place in sorted(self._chosen)
                if place < FIRST_SERVICE
            ],
            "services": [
                {
                    "service_id": service,
                    "local": service in self._offered,
                    "candidates": self._dump_place(FIRST_SERVICE + service),
                }
                for service in range(wire.SERVICES)
                if service in self._offered or FIRST_SERVICE + service in self._chosen
            ],
        }

    def _dump_place(self, place: int) -> list[dict[str, object]]:
        best, other = self._chosen.get(place, (None, None))
        return [
            {
                "conn_id": path.conn_id,
                "node_id": path.node_id,
                "latency_ms": path.metric.latency_ms,
                "hops": list(path.metric.hops),
                "bandwidth_kbps": path.metric.bandwidth_kbps,
                "score": path.metric.score,
                "role": "best" if path == best else "alternate" if path == other else "spare",
            }
            for *_, path in sorted(self._candidates.get(place, {}).values())
        ]
