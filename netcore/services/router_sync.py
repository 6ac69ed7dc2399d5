"""router_sync: neighbours tell each other their paths, at once when they change.

Facts first:

- ``LayeredRouter`` decides; this service measures links for it, and carries what it announces.
  The bytes are in ``sync_wire``.
- Each link is a generation of its own: everything announced and everything learned is kept per
  link, begins empty with ``on_opened`` and is forgotten with ``on_closed``.
- Outwards, a link has a set of entries the neighbour was told (``_LinkSync._told``). A change in
  the router makes its places *dirty*; a flush, at most ``BATCH_MS`` later, compares each dirty
  place with what each neighbour was told, and sends the differences. A place that keeps changing
  is slowed down, others are not.
- A link that could not take a message, or has used up its byte budget, *needs a full* state
  instead: nothing is lost silently, and a neighbour that asks again and again gets no more than
  the budget. The budget also keeps a full state within the control queue of a link.
- Inwards, sequence numbers find what is missing, a digest every few seconds finds everything else;
  both lead to a request for the full state. A neighbour that says nothing at all for
  ``SILENCE_MS`` while its link lives is believed no longer, except that it is there.
- A suspect link has no paths: they are withdrawn, and nothing is sent. Back alive, it starts over
  with a full state in both directions.
- Calm at the source: a link's latency changes only for a reason, see ``is_other_latency``.
"""

from __future__ import annotations

from .. import wire
from .._typing import TYPE_CHECKING, Final, final
from ..behavior import ConnectionHandler, NetworkBehavior
from ..errors import FrameError, LocalError
from ..ids import format_conn
from ..logs import logger_of
from ..roundtrips import is_other_latency
from ..route import Metric
from ..stats import ConnectionStats
from ..values import dataclass
from .sync_state import EntrySet, Inbox
from .sync_wire import (
    Delta,
    Digest,
    Full,
    Request,
    decode,
    encode_delta,
    encode_digest,
    encode_entry,
    encode_full,
    encode_request,
    metric_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from random import Random

    from .._backend import kernels
    from ..agent import BehaviorAgent, ConnectionAgent, ConnectionSender, Later
    from ..routing import LayeredRouter

__all__ = ["RouterSyncService", "RouterSyncStats"]

logger = logger_of("netcore.router_sync")

BATCH_MS: Final = 5  # changes of one moment travel together
#: A place may change this often at once, afterwards once per interval.
PLACE_BURST: Final = 5
PLACE_INTERVAL_MS: Final = 100
DIGEST_MS: Final = 3_000  # the mean; jittered by a quarter
SILENCE_MS: Final = 5 * DIGEST_MS
ASK_MS: Final = 1_000  # a full state is asked for at most this often
RETRY_MS: Final = 1_000  # after a link refused a send
#: A new link costs this until it has been measured: it is used when there is no other.
UNKNOWN_LATENCY_MS: Final = wire.UNKNOWN_LATENCY_MS
#: Room for the largest full state (1280 entries of 139 bytes), below the control queue's bound.
BUDGET_BYTES: Final = 192 * 1024
BUDGET_BYTES_PER_MS: Final = 64
#: What a full state costs at least, so that asking for a small one all the time does not pay.
FULL_COST_BYTES: Final = 4_096


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
        self._links: dict[int, _LinkSync] = {}
        self._dirty: set[int] = set()
        # place -> the time at which its burst will be whole again
        self._busy_until_ms: dict[int, int] = {}
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
        return _LinkSync(self)

    def on_outgoing_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> ConnectionHandler:
        """Return the handler of the link."""
        return _LinkSync(self)

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

    def add_link(self, conn_id: int, link: _LinkSync) -> None:
        """Tell this neighbour from now on, everything to begin with."""
        self._links[conn_id] = link
        self.schedule()

    def remove_link(self, conn_id: int) -> None:
        """Forget a link."""
        self._links.pop(conn_id, None)
        self.router.del_direct(conn_id)

    # -- flushing -------------------------------------------------------------------------------

    def schedule(self, delay_ms: int = BATCH_MS) -> None:
        """See to it that a flush comes, in ``delay_ms`` at the latest."""
        if self._agent is None:
            return
        when_ms = self._agent.now_ms + delay_ms
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
        self._dirty |= self.router.take_changes()
        ready = {place for place in self._dirty if self._place_wait_ms(place, now_ms) == 0}
        self._dirty -= ready
        told: set[int] = set()
        for link in list(self._links.values()):
            told |= link.flush(ready, now_ms)
        for place in told:
            busy_until_ms = max(self._busy_until_ms.get(place, 0), now_ms)
            self._busy_until_ms[place] = busy_until_ms + PLACE_INTERVAL_MS
        waits = [self._place_wait_ms(place, now_ms) for place in self._dirty]
        full_waits = [link.wait_ms(now_ms) for link in self._links.values()]
        waits += [wait_ms for wait_ms in full_waits if wait_ms is not None]
        if waits:
            self.schedule(max(min(waits), BATCH_MS))

    def _place_wait_ms(self, place: int, now_ms: int) -> int:
        room_ms = (PLACE_BURST - 1) * PLACE_INTERVAL_MS
        return max(0, self._busy_until_ms.get(place, 0) - now_ms - room_ms)


class _LinkSync(ConnectionHandler):
    """The service on one link."""

    _agent: ConnectionAgent
    _node: int
    _metric: Metric

    def __init__(self, service: RouterSyncService) -> None:
        self._service = service
        self._router = service.router
        self._timer: Later | None = None
        self._is_suspect = False
        self._is_measured = False
        self._inbox = Inbox()
        self._heard_ms = 0
        self._asked_ms: int | None = None
        self._told = EntrySet()
        self._seq = 0
        self._needs_full = True
        self.retry_ms = 0
        self._budget = BUDGET_BYTES
        self._budget_ms = 0

    # -- hooks ----------------------------------------------------------------------------------

    def on_opened(self, agent: ConnectionAgent) -> None:
        """Take the link in, and tell the neighbour everything."""
        self._agent = agent
        self._node = agent.remote_node_id
        self._heard_ms = self._budget_ms = agent.now_ms
        self._metric = Metric(UNKNOWN_LATENCY_MS, (self._node,))
        self._measure(agent.rtt_ms)
        self._router.set_direct(agent.conn_id, self._node, self._metric)
        self._service.add_link(agent.conn_id, self)
        self._arm()

    def on_event(self, agent: ConnectionAgent, event: kernels.Message | ConnectionStats) -> None:
        """Take in what the neighbour says, or what the link has measured."""
        if isinstance(event, ConnectionStats):
            self._on_stats(event)
        elif event.route.kind != wire.ROUTE_DIRECT or not event.sender_verified:
            # Somebody further away speaks to this service: nobody but the neighbour may.
            self._service.count("ignored")
        else:
            self._on_payload(event.payload)

    def on_closed(self, agent: ConnectionAgent) -> None:
        """Forget the link."""
        if self._timer is not None:
            self._timer.cancel()
        self._service.remove_link(agent.conn_id)

    # -- the link -------------------------------------------------------------------------------

    def _on_stats(self, stats: ConnectionStats) -> None:
        is_new = self._measure(stats.rtt_ms)
        if stats.suspect:
            if not self._is_suspect:
                self._is_suspect = True
                self._inbox.forget()
                self._router.del_direct(self._agent.conn_id)
        elif self._is_suspect:
            self._is_suspect = False
            self._needs_full = True
            self._heard_ms = self._agent.now_ms
            self._set_direct()
            self._ask()
            self._service.schedule()
        elif is_new:
            self._set_direct()

    def _measure(self, rtt_ms: float | None) -> bool:
        """Return whether the metric of the link is another one now."""
        if rtt_ms is None:
            return False
        if self._is_measured and not is_other_latency(self._metric.latency_ms, rtt_ms):
            return False
        self._is_measured = True
        self._metric = Metric(round(rtt_ms), (self._node,))
        return True

    def _set_direct(self) -> None:
        self._router.set_direct(self._agent.conn_id, self._node, self._metric)

    # -- inwards --------------------------------------------------------------------------------

    def _on_payload(self, payload: bytes) -> None:
        try:
            message = decode(payload)
        except FrameError as error:
            self._service.count("malformed")
            logger.warning(
                "link %s to node %s closes: %s in a routing message",
                format_conn(self._agent.conn_id),
                self._node,
                error,
            )
            self._agent.close_conn()
            return
        # On a closing link paths still arrive; learned, they would lead nowhere until it is gone.
        if message is None or self._is_suspect or not self._agent.is_open:
            self._service.count("ignored")
        elif isinstance(message, Request):
            self._needs_full = True
            self._service.schedule()
        else:
            self._heard_ms = self._agent.now_ms
            self._take(message)

    def _take(self, message: Full | Delta | Digest) -> None:
        was_synced = self._inbox.is_synced
        fault = "gaps"
        if isinstance(message, Digest):
            if not self._inbox.take_digest(message):
                fault = "mismatches"
        elif isinstance(message, Delta):
            self._learn(self._inbox.take_delta(message))
            self._service.count("deltas_received")
        else:
            self._learn(self._inbox.take_full(message))
            if message.is_last and self._inbox.is_synced:
                self._service.count("fulls_received")
        if was_synced and not self._inbox.is_synced:
            self._service.count(fault)
            self._ask()

    def _learn(self, changes: Mapping[int, bytes | None]) -> None:
        if changes:
            metrics = {p: None if e is None else metric_of(e) for p, e in changes.items()}
            self._router.apply_changes(self._agent.conn_id, self._node, self._metric, metrics)

    def _ask(self) -> None:
        now_ms = self._agent.now_ms
        if self._asked_ms is not None and now_ms - self._asked_ms < ASK_MS:
            # The next digest is too far off when the answer was forgotten: by a second suspicion.
            self._set_timer(self._asked_ms + ASK_MS - now_ms, self._ask_again)
            return
        if self._send([encode_request()]):
            self._asked_ms = now_ms
            self._service.count("requests_sent")

    def _arm(self) -> None:
        quarter_ms = DIGEST_MS // 4
        delay_ms = DIGEST_MS + self._service.rng.randint(-quarter_ms, quarter_ms)
        self._set_timer(delay_ms, self._on_timer)

    def _set_timer(self, delay_ms: int, fn: Callable[[], object]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._agent.call_later(delay_ms, fn)

    def _ask_again(self) -> None:
        self._arm()
        if not self._is_suspect and not self._inbox.is_synced:
            self._ask()

    def _on_timer(self) -> None:
        self._arm()
        if self._is_suspect:
            return
        if self._agent.now_ms - self._heard_ms >= SILENCE_MS and self._inbox.known.entries:
            self._service.count("silences")
            self._learn(dict.fromkeys(self._inbox.known.entries))
            self._inbox.forget()
        if not self._inbox.is_synced:
            self._ask()
        if not self._needs_full:
            self._send_numbered([encode_digest(self._seq, self._told.digest)])

    # -- outwards -------------------------------------------------------------------------------

    def flush(self, places: Collection[int], now_ms: int) -> set[int]:
        """Tell the neighbour what it does not know yet.

        Args:
            places: Those that may have changed.
            now_ms: The time.

        Returns:
            The places whose change it was told.
        """
        wait_ms = self.wait_ms(now_ms)
        if wait_ms is None and not self._is_suspect:
            return self._flush_changes(places, now_ms)
        if wait_ms == 0:
            self._flush_full(now_ms)
        return set()

    def wait_ms(self, now_ms: int) -> int | None:
        """Return how long a full state that is due has to wait; None: none is due."""
        if not self._needs_full or self._is_suspect:
            return None
        return max(0, self.retry_ms - now_ms)

    def _flush_changes(self, places: Collection[int], now_ms: int) -> set[int]:
        changes: dict[int, bytes | None] = {}
        for place in places:
            metric = self._router.announcement(place, self._node)
            entry = None if metric is None else encode_entry(place, metric)
            if entry != self._told.entries.get(place):
                changes[place] = entry
        messages = encode_delta(self._seq, changes)
        if self._shortage(sum(map(len, messages)), now_ms):
            # Too much for now: everything at once is less than all that is yet to come.
            self._needs_full = True
        elif self._send_numbered(messages):
            self._told.apply(changes)
            self._service.count("deltas_sent", len(messages))
        return set(changes)

    def _flush_full(self, now_ms: int) -> None:
        announced = self._router.announcements(self._node)
        entries = {place: encode_entry(place, metric) for place, metric in announced.items()}
        messages = encode_full(self._seq, entries)
        shortage = self._shortage(max(sum(map(len, messages)), FULL_COST_BYTES), now_ms)
        if shortage:
            self.retry_ms = now_ms + -(-shortage // BUDGET_BYTES_PER_MS)
        elif self._send_numbered(messages):
            self._told.apply(self._told.changes_to(entries))
            self._needs_full = False
            self._service.count("fulls_sent")

    def _shortage(self, size: int, now_ms: int) -> int:
        """Spend so many bytes of the budget, or return how many of them it lacks."""
        earned = (now_ms - self._budget_ms) * BUDGET_BYTES_PER_MS
        self._budget = min(BUDGET_BYTES, self._budget + earned)
        self._budget_ms = now_ms
        if size > self._budget:
            return size - self._budget
        self._budget -= size
        return 0

    def _send_numbered(self, messages: list[bytes]) -> bool:
        """Send messages that were encoded with the next numbers; a refusal leads to a full."""
        self._seq = self._seq + len(messages) & wire.MAX_U32
        if self._send(messages):
            return True
        self._needs_full = True
        self.retry_ms = self._agent.now_ms + RETRY_MS
        self._service.schedule(RETRY_MS)
        return False

    def _send(self, messages: list[bytes]) -> bool:
        try:
            for message in messages:
                self._agent.send(message)
        except LocalError:
            self._service.count("sends_refused")
            return False
        return True
