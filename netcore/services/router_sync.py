"""router_sync: neighbours tell each other their paths, at once when they change.

Facts first:

- ``LayeredRouter`` decides; this service measures links for it, and carries what it announces.
  The bytes are in ``sync_wire``.
- Each link is a generation of its own: everything announced and everything learned is kept per
  link, begins empty with ``on_opened`` and is forgotten with ``on_closed``.
- Outwards, a link has a set of entries the neighbour was told (``Outbox.told``). A change in the
  router makes its places *dirty*; a flush compares each dirty place with what each neighbour was
  told, and sends the differences. The first change is told in the same turn, those that follow
  within ``BATCH_MS`` together. A place that keeps changing is slowed down, others are not.
- A node that loses its last link to a neighbour names that hop *lost* (``sync_losses``), in the
  message that carries what changes with it. Who was told a way over a hop is told of its loss,
  before anything newer that makes the hop. So on each link whatever makes the hop is outdated
  before the loss is named, and up to date behind it; also when the link comes back at once. A node
  that hears of a loss uses no way over that hop until the neighbour that announced the way has
  named the loss too: nobody hunts through ways that are gone, and nobody waits for a timer.
- A link that could not take a message, or has used up its byte budget, *needs a full* state
  instead: nothing is lost silently, and a neighbour that asks again and again gets no more than
  the budget. The budget also keeps a full state within the control queue of a link.
- Inwards, sequence numbers find what is missing, a digest every few seconds finds everything else;
  both lead to a request for the full state. A neighbour that says nothing at all for
  ``SILENCE_MS`` while its link lives is believed no longer, except that it is there.
- A suspect link is the last resort, here and, as it is announced with what it costs now, for all
  others, who hear at the same time that the hop is lost. Its neighbour is told nothing and not
  heard; what it said before stands, except over hops that are named lost since. Back alive, the
  link starts over with a full state in both directions.
- Calm at the source: a link's latency changes only for a reason, see ``is_other_latency``.
"""

from __future__ import annotations

from .. import wire
from .._typing import TYPE_CHECKING, Final, final
from ..behavior import ConnectionHandler, NetworkBehavior
from ..values import dataclass
from .sync_link import LinkSync
from .sync_losses import Losses

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    from .._backend import kernels
    from ..agent import BehaviorAgent, ConnectionSender, Later
    from ..choices import Hop
    from ..routing import LayeredRouter
    from .sync_losses import Allowance

__all__ = ["RouterSyncService", "RouterSyncStats"]

BATCH_MS: Final = 5  # changes that follow another one so soon travel together
#: A place may change this often at once, afterwards once per interval.
PLACE_BURST: Final = 5
PLACE_INTERVAL_MS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSyncStats:
    """Counters of the service since its start.

    Attributes:
        fulls_sent: Full states.
        deltas_sent: Messages with changes.
        requests_sent: Times that a full state was asked for.
        fulls_received: Complete full states taken in.
        deltas_received: Messages with changes taken in.
        mismatches: Digests that did not fit.
        gaps: Messages that came without the one before them.
        losses_named: Own hops that were named lost.
        losses_heard: Losses that others have made, each counted once.
        losses_limited: Losses that were not passed on, as the neighbour names too many.
        silences: Neighbours that lived and said nothing for too long.
        sends_refused: Messages a link did not take; a full state followed.
        malformed: Messages that closed their link.
        ignored: Messages of later versions, of others than the neighbour, or on links that are
            suspect or closing.
    """

    fulls_sent: int = 0
    deltas_sent: int = 0
    requests_sent: int = 0
    fulls_received: int = 0
    deltas_received: int = 0
    mismatches: int = 0
    gaps: int = 0
    losses_named: int = 0
    losses_heard: int = 0
    losses_limited: int = 0
    silences: int = 0
    sends_refused: int = 0
    malformed: int = 0
    ignored: int = 0


@final
class RouterSyncService(NetworkBehavior):
    """Keeps a ``LayeredRouter`` informed, and its neighbours.

    Args:
        router: The node's router. Its ``on_change`` belongs to this service from now on.
        rng: Spreads the digests of different links and nodes.
    """

    service_id = wire.SERVICE_ROUTER_SYNC

    def __init__(self, router: LayeredRouter, rng: Random) -> None:
        self.router = router
        self.rng = rng
        self._agent: BehaviorAgent | None = None
        self._timer: Later | None = None
        self._timer_ms = 0
        self._links: dict[int, LinkSync] = {}
        self._flushed_ms: int | None = None  # when something was told last
        self._dirty: set[int] = set()
        # place -> the time at which its burst will be whole again
        self._busy_until_ms: dict[int, int] = {}
        self._losses = Losses()
        self._counts = dict.fromkeys(RouterSyncStats.__annotations__, 0)

    def stats(self) -> RouterSyncStats:
        """Return the counters."""
        return RouterSyncStats(**self._counts)

    def count(self, name: str, number: int = 1) -> None:
        """Count something of ``RouterSyncStats``."""
        self._counts[name] += number

    # -- hooks ----------------------------------------------------------------------------------

    def on_started(self, agent: BehaviorAgent) -> None:
        """Begin to listen to the router."""
        self._agent = agent
        self.router.on_change = self.schedule

    def on_stopped(self, agent: BehaviorAgent) -> None:
        """Leave the router alone."""
        self.router.on_change = None
        self._agent = None
        if self._timer is not None:
            self._timer.cancel()

    def on_incoming_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> ConnectionHandler:
        """Return the handler of the link."""
        return LinkSync(self)

    def on_outgoing_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> ConnectionHandler:
        """Return the handler of the link."""
        return LinkSync(self)

    def on_connection_writable(self, agent: BehaviorAgent, conn: ConnectionSender) -> None:
        """Try again what the link refused."""
        link = self._links.get(conn.conn_id)
        if link is not None:
            link.retry_ms = agent.now_ms
            self.schedule()

    def on_message(self, agent: BehaviorAgent, message: kernels.Message) -> None:
        """Ignore what did not come over a link."""
        self.count("ignored")

    # -- links ----------------------------------------------------------------------------------

    def add_link(self, conn_id: int, node_id: int, link: LinkSync) -> None:
        """Tell this neighbour from now on, everything to begin with."""
        self._links[conn_id] = link
        # What it says of its own hops over a link that is younger than their losses is newer, even
        # if it does not know them any more, for it is a new process.
        for hop in self._losses.active_of(node_id):
            self.router.trust(*hop, conn_id)
        self.schedule()

    def remove_link(self, conn_id: int) -> None:
        """Forget a link."""
        self._links.pop(conn_id, None)
        self.router.del_direct(conn_id)

    # -- losses ---------------------------------------------------------------------------------

    @property
    def losses(self) -> Losses:
        """What was named lost lately."""
        return self._losses

    def hear_losses(self, losses: Mapping[Hop, int], allowance: Allowance, now_ms: int) -> None:
        """Take in which hops a neighbour names lost, before what changes with it."""
        self._end_doubts(now_ms)
        for link in self._links.values():
            link.forget_hops(losses)
        for hop, serial in losses.items():
            if not self._losses.is_news(hop, serial):
                continue
            if not allowance.take(now_ms):
                self.count("losses_limited")
                continue
            self.count("losses_heard")
            for old in self._losses.hear(hop, serial, now_ms):
                self.router.end_doubt(*old)
            # Also where nothing changes the neighbours wait to hear that this node knows.
            self._dirty |= self.router.doubt(*hop)
            self.schedule()

    def trust(self, losses: Mapping[Hop, int], conn_id: int) -> None:
        """Believe a neighbour that has named these hops lost, after what changed with it."""
        for hop, serial in losses.items():
            if not self._losses.is_news(hop, serial) and self._losses.serial_of(hop) == serial:
                self.router.trust(*hop, conn_id)

    def _name_losses(self, now_ms: int) -> None:
        for node_id in self.router.take_lost():
            if self._losses.name((node_id, self.router.node_id), now_ms):
                self.count("losses_named")

    def _end_doubts(self, now_ms: int) -> None:
        for hop in self._losses.end(now_ms):
            self.router.end_doubt(*hop)

    # -- flushing -------------------------------------------------------------------------------

    def schedule(self, delay_ms: int | None = None) -> None:
        """See to it that a flush comes.

        Args:
            delay_ms: In so many ms at the latest; None: as soon as the last one is ``BATCH_MS``
                ago, and so in the same turn when nothing was told lately.
        """
        if self._agent is None:
            return
        now_ms = self._agent.now_ms
        if delay_ms is None:
            ago_ms = BATCH_MS if self._flushed_ms is None else now_ms - self._flushed_ms
            delay_ms = max(0, BATCH_MS - ago_ms)
        when_ms = now_ms + delay_ms
        if self._timer is not None:
            if self._timer_ms <= when_ms:
                return
            self._timer.cancel()
        self._timer_ms = when_ms
        self._timer = self._agent.call_later(delay_ms, self._flush)

    def _flush(self) -> None:
        self._timer = None
        if self._agent is None:
            return
        now_ms = self._agent.now_ms
        self._end_doubts(now_ms)
        self._name_losses(now_ms)
        self._dirty |= self.router.take_changes()
        ready = {place for place in self._dirty if self._place_wait_ms(place, now_ms) == 0}
        self._dirty -= ready
        told: set[int] = set()
        for link in list(self._links.values()):
            told |= link.flush(ready, self._dirty, now_ms)
        if told:
            self._flushed_ms = now_ms
        for place in told:
            busy_until_ms = max(self._busy_until_ms.get(place, 0), now_ms)
            self._busy_until_ms[place] = busy_until_ms + PLACE_INTERVAL_MS
        waits = [self._place_wait_ms(place, now_ms) for place in self._dirty]
        others = [link.wait_ms(now_ms) for link in self._links.values()]
        others.append(self._losses.wait_ms(now_ms))
        waits += [wait_ms for wait_ms in others if wait_ms is not None]
        if waits:
            self.schedule(max(min(waits), BATCH_MS))

    def _place_wait_ms(self, place: int, now_ms: int) -> int:
        room_ms = (PLACE_BURST - 1) * PLACE_INTERVAL_MS
        return max(0, self._busy_until_ms.get(place, 0) - now_ms - room_ms)
