"""HalfOpen: a node's account of handshakes under way, and who gives way when there are too many.

Facts first:

- A *source* is what can be told apart of strangers: an IPv4 address, an IPv6 prefix of 64 bits
  (one subscriber has a whole one), all of unix, all of memory. Many honest nodes may share one.
- A stranger costs a slot from accept on, so silent ones could hold every slot until they time out.
  When all are taken, the oldest of the source that has the most gives way. So whoever comes alone
  gets in, however many slots others hold.
- Within a source those go first who have not said who they are: an honest HELLO comes with the
  connection. Those whose secret was verified go last.
- A source that has the most itself pushes nobody out who has just come: a burst of honest nodes
  would otherwise end each other's handshakes, and none would ever get through. Its newcomers are
  refused instead, and come again.
- Sorting them by source and age is for nodes that are full: it begins when all slots are taken and
  ends when half of them are free, so that a calm node pays nothing for it with each link.
- The budget is for those who prove nothing: connection after connection, each closed as soon as it
  was refused, holds few slots and costs a core. Who proves to know the secret gets the token back.
"""

from __future__ import annotations

from .._typing import TYPE_CHECKING, Final, final
from ..errors import DestinationNotFound, HandshakeTimeout

if TYPE_CHECKING:
    from ..address import Endpoint
    from .base import Stream
    from .negotiation import Negotiation

__all__ = ["HalfOpen", "SourceBudget", "source_of"]

#: How long a newcomer is left in peace by others of its own source: a HELLO that came with the
#: connection has been read by then.
SILENT_GRACE_MS: Final = 50
#: Likewise once it has said its name: the rest takes a round trip.
SPOKEN_GRACE_MS: Final = 1_000
#: What a source may spend at once, in seconds' worth of its budget.
BURST_S: Final = 4
MAX_SOURCES: Final = 4_096

#: Sources that are this machine: those of unix, memory, and of ::1 (its prefix has no others).
_LOCAL: Final = frozenset({"", "unix", "memory", "00" * 8})


def source_of(remote: Endpoint | None) -> str:
    """Return what a stranger has in common with those that it cannot be told apart from."""
    if remote is None:
        return ""
    if remote.kind == "ip4":
        return remote.host
    if remote.kind != "ip6":
        return remote.kind
    import socket  # of whoever has such a connection, it is there already

    return socket.inet_pton(socket.AF_INET6, remote.host.partition("%")[0])[:8].hex()


def has_budget(source: str) -> bool:
    """Return whether a source is counted: this machine's own processes are not strangers."""
    return source not in _LOCAL and not source.startswith("127.")


@final
class SourceBudget:
    """How many connections each source may still open without proving that it knows the secret.

    A token bucket for each source, kept as the one moment at which it would be full again: a token
    moves it on by an interval, and it must not be more than ``BURST_S`` away.

    Args:
        per_s: Tokens per second and source.
    """

    def __init__(self, per_s: int) -> None:
        self._interval_us = 1_000_000 // per_s
        self._full_at_us: dict[str, int] = {}  # the one that spent last is the last

    def __len__(self) -> int:
        return len(self._full_at_us)

    def spend(self, source: str, now_ms: int) -> bool:
        """Take a token of a source; return False when it has none."""
        now_us = now_ms * 1_000
        full_at_us = max(self._full_at_us.pop(source, now_us), now_us)
        allowed = full_at_us - now_us + self._interval_us <= BURST_S * 1_000_000
        self._full_at_us[source] = full_at_us + self._interval_us * allowed
        self._forget(now_us)
        return allowed

    def give_back(self, source: str) -> None:
        """Return a token."""
        if source in self._full_at_us:
            self._full_at_us[source] -= self._interval_us

    def _forget(self, now_us: int) -> None:
        """Drop sources that have spent nothing for long, and the first of too many."""
        table = self._full_at_us
        while table:
            first = next(iter(table))
            if table[first] > now_us and len(table) <= MAX_SOURCES:
                break
            del table[first]


@final
class _Crowd:
    """Handshakes by source and age; which source has the most is known at any time.

    ``_by_size[n]`` are the sources that have n, so that finding the largest takes no look at all
    the others: there may be as many sources as handshakes, and a newcomer for each millisecond.
    """

    def __init__(self) -> None:
        # source -> handshake -> since when; in order of age, first silent ones, then the others
        self._silent: dict[str, dict[Negotiation, int]] = {}
        self._spoken: dict[str, dict[Negotiation, int]] = {}
        self._sizes: dict[str, int] = {}
        self._by_size: list[dict[str, None]] = [{}]

    def __bool__(self) -> bool:
        return bool(self._sizes)

    def size_of(self, source: str) -> int:
        """Return how many a source has."""
        return self._sizes.get(source, 0)

    def largest(self) -> str:
        """Return the source that has the most; the crowd is not empty."""
        return next(iter(self._by_size[-1]))

    def add(self, source: str, item: Negotiation, since_ms: int) -> None:
        """Add the youngest of a source."""
        self._silent.setdefault(source, {})[item] = since_ms
        size = self._sizes.get(source, 0)
        self._move(source, size, size + 1)

    def discard(self, source: str, item: Negotiation) -> None:
        """Remove one that is there."""
        for table in (self._silent, self._spoken):
            items = table.get(source)
            if items is not None and items.pop(item, None) is not None:
                if not items:
                    del table[source]
                size = self._sizes[source]
                self._move(source, size, size - 1)
                return

    def oldest(self, source: str) -> tuple[Negotiation, int, bool]:
        """Return who gives way first of a source: who, since when, and whether it has spoken."""
        silent = self._silent.get(source, {})
        while silent:
            item, since_ms = next(iter(silent.items()))
            if item.peer is None:
                return item, since_ms, False
            # It has said its name since we looked last; each does so once.
            del silent[item]
            self._spoken.setdefault(source, {})[item] = since_ms
        self._silent.pop(source, None)
        item, since_ms = next(iter(self._spoken[source].items()))
        return item, since_ms, True

    def _move(self, source: str, old: int, new: int) -> None:
        by_size = self._by_size
        by_size[old].pop(source, None)
        if new == len(by_size):
            by_size.append({})
        if new:
            by_size[new][source] = None
            self._sizes[source] = new
        else:
            del self._sizes[source]
        while len(by_size) > 1 and not by_size[-1]:
            by_size.pop()


@final
class HalfOpen:
    """One node's account of handshakes under way and of streams that only wait for their end.

    Attributes:
        limit: ``max_half_open``: bound of each of the three numbers.
        outgoing: Dials under way; counted by them.
        refused: Incoming connections closed at once because of the limit.
        evicted: Incoming handshakes that gave way to newcomers.
        over_budget: Incoming connections closed at once because their source had no budget left.
    """

    def __init__(self, limit: int, budget_per_s: int = 1 << 20) -> None:
        self.limit = limit
        self.outgoing = 0
        self.refused = 0
        self.evicted = 0
        self.over_budget = 0
        self._budget = SourceBudget(budget_per_s)
        # handshake -> source, since when, whether its secret was verified; by age within each kind
        self._incoming: dict[Negotiation, tuple[str, int, bool]] = {}
        self._sorted = False  # the two crowds hold what is incoming, else nothing
        self._strangers = _Crowd()
        self._known = _Crowd()  # their secret was verified
        self._lingering: set[Stream] = set()

    @property
    def incoming(self) -> int:
        """Incoming handshakes under way."""
        return len(self._incoming)

    @property
    def lingering(self) -> int:
        """Streams that wait for the other side's end."""
        return len(self._lingering)

    def admit_incoming(self, remote: Endpoint | None, now_ms: int) -> bool:
        """Return whether another incoming handshake may begin; count it if not.

        Another one may be ended for it.
        """
        source = source_of(remote)
        if has_budget(source) and not self._budget.spend(source, now_ms):
            self.over_budget += 1
            return False
        if len(self._incoming) < self.limit or self._make_room(source, now_ms):
            return True
        self.refused += 1
        return False

    def add(self, negotiation: Negotiation) -> None:
        """Count an incoming negotiation until it is discarded."""
        source, now_ms = source_of(negotiation.remote), negotiation.host.loop.now_ms
        self._incoming[negotiation] = (source, now_ms, False)
        if self._sorted:
            self._strangers.add(source, negotiation, now_ms)

    def verified(self, negotiation: Negotiation) -> None:
        """Its initiator has proved to know the secret."""
        source, _, known = self._incoming.get(negotiation, ("", 0, True))
        if known:
            return
        now_ms = negotiation.host.loop.now_ms
        del self._incoming[negotiation]  # it becomes the youngest of its kind
        self._incoming[negotiation] = (source, now_ms, True)
        self._budget.give_back(source)
        if self._sorted:
            self._strangers.discard(source, negotiation)
            self._known.add(source, negotiation, now_ms)

    def discard(self, negotiation: Negotiation) -> None:
        """The negotiation has ended."""
        entry = self._incoming.pop(negotiation, None)
        if self._sorted and entry is not None:
            (self._known if entry[2] else self._strangers).discard(entry[0], negotiation)
            if len(self._incoming) <= self.limit // 2:
                self._unsort()

    def linger(self, stream: Stream) -> bool:
        """Count a stream that waits for its end; return False when it must not."""
        if len(self._lingering) >= self.limit:
            return False
        self._lingering.add(stream)
        return True

    def end_linger(self, stream: Stream) -> None:
        """The stream is closed."""
        self._lingering.discard(stream)

    def close(self) -> None:
        """End every incoming handshake and every lingering stream."""
        for negotiation in list(self._incoming):
            negotiation.abort(DestinationNotFound("the node is closing"))
        for stream in list(self._lingering):
            stream.close()

    def _make_room(self, source: str, now_ms: int) -> bool:
        """End the handshake that a newcomer may push out, if there is one."""
        if not self._sorted:
            self._sort()
        crowd = self._strangers if self._strangers else self._known
        largest = crowd.largest()
        oldest, since_ms, spoken = crowd.oldest(largest)
        if crowd.size_of(source) >= crowd.size_of(largest):
            grace_ms = SPOKEN_GRACE_MS if spoken else SILENT_GRACE_MS
            if crowd is self._known or now_ms - since_ms < grace_ms:
                return False
        self.evicted += 1
        oldest.abort(HandshakeTimeout(f"{self.limit} are under way (max_half_open)"))
        return True

    def _sort(self) -> None:
        """Fill the crowds: all slots are taken."""
        self._sorted = True
        for item, (source, since_ms, known) in self._incoming.items():
            (self._known if known else self._strangers).add(source, item, since_ms)

    def _unsort(self) -> None:
        """Empty them: half of the slots are free, so it takes as many newcomers to fill them."""
        self._sorted = False
        self._strangers, self._known = _Crowd(), _Crowd()
