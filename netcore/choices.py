"""Choices: the ways to each place, which of them is in use, and which are doubted.

Facts first:

- At a place there is at most one way per link. The *best* one has the lowest score; the *alternate*
  is the best one over another neighbour, where ways that do not visit the best one's neighbour at
  all come first, so that it also survives the loss of that node.
- A *hop* of a way is a pair of nodes, ``(far, near)``: ``near`` hands over to ``far``. When a hop
  is said to be lost, every way that makes it is *doubted*: what a neighbour announced before it
  heard of the loss is likely to be untrue. Such a way is kept and not chosen, until the neighbour
  that announced it has spoken of the loss too, or the doubt ends. That holds for ``near`` itself:
  over a slow link its word may come later than that of others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import pairwise

from ._typing import final
from .router import Candidate, Path, as_alternate, candidate_of, choose

__all__ = ["Choices", "Hop"]

#: (far, near)
Hop = tuple[int, int]


def _makes(path: Path, hop: Hop) -> bool:
    """Return whether a way makes a hop."""
    far, near = hop
    hops = path.metric.hops
    return far in hops and near in hops and hop in pairwise(hops)


@final
class Choices:
    """All ways to all places.

    Attributes:
        candidates: Place -> link -> way; only places with a way.
        chosen: Place -> best way and alternate; only places with a way that is not doubted.
    """

    __slots__ = ("_doubts", "_held", "candidates", "chosen")

    def __init__(self) -> None:
        self.candidates: dict[int, dict[int, Candidate]] = {}
        self.chosen: dict[int, tuple[Path, Path | None]] = {}
        self._doubts: dict[
            Hop, set[int]
        ] = {}  # hop -> links over which it is believed all the same
        self._held: dict[Hop, set[int]] = {}  # hop -> places where a way was passed over for it

    def put(self, place: int, path: Path) -> None:
        """Know a way; it takes the place of what was known over that link."""
        self.candidates.setdefault(place, {})[path.conn_id] = candidate_of(path)

    def remove(self, place: int, conn_id: int) -> None:
        """Know the way over a link no longer."""
        known = self.candidates[place]
        del known[conn_id]
        if not known:
            del self.candidates[place]

    # -- choosing -------------------------------------------------------------------------------

    def choose_again(self, place: int, conn_id: int | None = None) -> bool:
        """Choose from what is known now.

        Args:
            place: Where.
            conn_id: Only the way over this link has changed; None: look at all.

        Returns:
            Whether the choice is another one.
        """
        if conn_id is not None and self._is_spare(place, conn_id):
            return False
        before, after = self.chosen.get(place), choose(self._usable(place))
        if after == before:
            return False
        if after is None:
            del self.chosen[place]
        else:
            self.chosen[place] = after
        return True

    def best(self, place: int, excepts: Collection[int] = ()) -> Path | None:
        """Return the best way not over these neighbours."""
        chosen = self.chosen.get(place)
        if chosen is None or chosen[0].node_id not in excepts:
            return chosen and chosen[0]
        usable = [c for c in self._usable(place) if c[3] not in excepts]
        return min(usable)[5] if usable else None

    def _usable(self, place: int) -> Collection[Candidate]:
        known = self.candidates.get(place, {})
        if not self._doubts:
            return known.values()
        return [c for c in known.values() if not self._is_doubted(place, c[5])]

    def _is_spare(self, place: int, conn_id: int) -> bool:
        """Return whether a link was not chosen and is not now: in a dense network the usual case.

        Looking at all candidates for each change would cost their number squared at each place.
        """
        best, other = self.chosen.get(place, (None, None))
        if best is None or conn_id == best.conn_id or (other and conn_id == other.conn_id):
            return False
        candidates = self.candidates[place]
        new = candidates.get(conn_id)
        if new is None or (self._doubts and self._is_doubted(place, new[5])):
            return True
        if new < candidates[best.conn_id]:
            return False
        if new[3] == best.node_id:
            return True
        if other is None:
            return False
        return as_alternate(new, best) > as_alternate(candidates[other.conn_id], best)

    # -- doubts ---------------------------------------------------------------------------------

    def doubt(self, hop: Hop) -> set[int]:
        """Doubt a hop from now on, whoever has announced it; whatever was said of it before.

        Returns:
            The places whose best way or alternate makes it.
        """
        self._doubts[hop] = set()
        self._held.setdefault(hop, set())
        return {
            place
            for place, (best, other) in self.chosen.items()
            if _makes(best, hop) or (other is not None and _makes(other, hop))
        }

    def over_neighbour(self, node_id: int) -> set[int]:
        """Return the places whose best way or alternate begins at a neighbour."""
        return {
            place
            for place, (best, other) in self.chosen.items()
            if best.node_id == node_id or (other is not None and other.node_id == node_id)
        }

    def trust(self, hop: Hop, conn_id: int) -> Iterable[int]:
        """Believe what is announced over a link also of this hop; return where to choose again."""
        trusted = self._doubts.get(hop)
        if trusted is None or conn_id in trusted:
            return ()
        trusted.add(conn_id)
        return list(self._held[hop])

    def end_doubt(self, hop: Hop) -> Iterable[int]:
        """Doubt a hop no longer; return where to choose again."""
        self._doubts.pop(hop, None)
        return list(self._held.pop(hop, ()))

    def distrust(self, conn_id: int) -> None:
        """Forget what was said over a link about doubted hops."""
        for trusted in self._doubts.values():
            trusted.discard(conn_id)

    def _is_doubted(self, place: int, path: Path) -> bool:
        """Return whether a way is not to be chosen, and remember where that was asked."""
        for hop in pairwise(path.metric.hops):
            trusted = self._doubts.get(hop)
            if trusted is not None and path.conn_id not in trusted:
                self._held[hop].add(place)
                return True
        return False

    def check(self) -> None:
        """Verify that what is chosen follows from what is known; for tests.

        Raises:
            AssertionError: It does not.
        """
        for place, known in self.candidates.items():
            assert known
            assert self.chosen.get(place) == choose(self._usable(place))
        assert self.chosen.keys() <= self.candidates.keys()
        assert self._held.keys() == self._doubts.keys()
