"""The part of router_sync that belongs to one link; see ``router_sync`` for the facts."""

from __future__ import annotations

from itertools import pairwise

from .. import wire
from .._typing import TYPE_CHECKING, Final, final
from ..behavior import ConnectionHandler
from ..errors import FrameError, LocalError
from ..ids import format_conn
from ..logs import logger_of
from ..roundtrips import is_other_latency
from ..route import Metric
from ..stats import ConnectionStats
from .sync_losses import Allowance
from .sync_state import EntrySet, Inbox
from .sync_wire import (
    Delta,
    Digest,
    Full,
    Lost,
    Request,
    decode,
    encode_delta,
    encode_digest,
    encode_entry,
    encode_full,
    encode_lost,
    encode_request,
    hops_of,
    metric_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from .._backend import kernels
    from ..agent import ConnectionAgent, Later
    from ..choices import Hop
    from .router_sync import RouterSyncService

__all__ = ["LinkSync"]

logger = logger_of("netcore.router_sync")

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


@final
class LinkSync(ConnectionHandler):
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
        self._allowance = Allowance()
        self._told = EntrySet()
        self._named: dict[Hop, int] = {}  # hop -> serial of the loss that the neighbour was told
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
        self._service.add_link(agent.conn_id, self._node, self)
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
                self._inbox.suspend()
                self._set_direct()
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
        if self._agent.is_open:  # the router has forgotten a link that is closing
            self._router.set_direct(self._agent.conn_id, self._node, self._used_metric())

    def _used_metric(self) -> Metric:
        if not self._is_suspect:
            return self._metric
        return Metric(wire.SUSPECT_LATENCY_MS + self._metric.latency_ms, (self._node,))

    def forget_hops(self, hops: Collection[Hop]) -> None:
        """Believe no longer what a suspect link's neighbour said of these hops, which are lost.

        It may know of that and cannot say so; when it speaks again it says what is true.
        """
        if self._is_suspect:
            changes: dict[int, Metric | None] = dict.fromkeys(
                self._inbox.forget_hops(hops, self._node)
            )
            if changes:
                metric = self._used_metric()
                self._router.apply_changes(self._agent.conn_id, self._node, metric, changes)

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

    def _take(self, message: Full | Delta | Digest | Lost) -> None:
        was_synced = self._inbox.is_synced
        fault = "gaps"
        if isinstance(message, Digest):
            if not self._inbox.take_digest(message):
                fault = "mismatches"
        elif isinstance(message, Delta):
            self._learn(self._inbox.take_delta(message))
            self._service.count("deltas_received")
        elif isinstance(message, Lost):
            self._take_lost(message)
            self._service.count("deltas_received")
        else:
            self._learn(self._inbox.take_full(message))
            if message.is_last and self._inbox.is_synced:
                self._service.count("fulls_received")
        if was_synced and not self._inbox.is_synced:
            self._service.count(fault)
            self._ask()

    def _take_lost(self, message: Lost) -> None:
        changes = self._inbox.take_lost(message, self._node)
        if changes is None:
            return
        now_ms, conn_id = self._agent.now_ms, self._agent.conn_id
        self._service.hear_losses(message.losses, self._allowance, now_ms)
        self._learn(changes)
        self._service.trust(message.losses, conn_id)

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

    def flush(self, places: Collection[int], others: Collection[int], now_ms: int) -> set[int]:
        """Tell the neighbour what it does not know yet.

        Args:
            places: Those that may have changed.
            others: Those that may have changed and have to wait.
            now_ms: The time.

        Returns:
            The places whose change it was told.
        """
        wait_ms = self.wait_ms(now_ms)
        if wait_ms is None and not self._is_suspect:
            return self._flush_changes(places, others, now_ms)
        if wait_ms == 0:
            self._flush_full(now_ms)
        return set()

    def wait_ms(self, now_ms: int) -> int | None:
        """Return how long a full state that is due has to wait; None: none is due."""
        if not self._needs_full or self._is_suspect:
            return None
        return max(0, self.retry_ms - now_ms)

    def _flush_changes(
        self, places: Collection[int], others: Collection[int], now_ms: int
    ) -> set[int]:
        told = self._told.entries
        changes: dict[int, bytes | None] = {}
        for place in places:
            entry = self._entry(place)
            if entry != told.get(place):
                changes[place] = entry
        void: dict[int, bytes | None] = {}
        losses: dict[Hop, int] = {}
        if self._service.losses:
            losses = self._new_losses(told.get(place) for place in (*places, *others))
            losses |= self._new_losses(changes.values())
        if losses:
            void = self._void(losses, changes)
            changes = {p: entry for p, entry in changes.items() if entry or p not in void}
            messages = encode_lost(self._seq, losses, changes)
        else:
            messages = encode_delta(self._seq, changes)
        if self._shortage(sum(map(len, messages)), now_ms):
            # Too much for now: everything at once is less than all that is yet to come.
            self._needs_full = True
        elif self._send_numbered(messages):
            self._named.update(losses)
            self._told.apply(void)
            self._told.apply(changes)
            self._service.count("deltas_sent", len(messages))
        return {*changes, *void}

    def _void(
        self, losses: dict[Hop, int], changes: dict[int, bytes | None]
    ) -> dict[int, bytes | None]:
        """Return what these losses withdraw; what is announced there now joins the changes.

        That may make other hops of which the neighbour has to hear first.
        """
        void: dict[int, bytes | None] = {}
        news = losses
        while news:
            gone = [p for p in self._told.making(news, self._router.node_id) if p not in void]
            void.update(dict.fromkeys(gone))
            again = {place: self._entry(place) for place in gone if place not in changes}
            changes |= again
            news = {
                hop: serial
                for hop, serial in self._new_losses(again.values()).items()
                if hop not in losses
            }
            losses |= news
        return void

    def _entry(self, place: int) -> bytes | None:
        metric = self._router.announcement(place, self._node)
        return None if metric is None else encode_entry(place, metric)

    def _new_losses(self, entries: Iterable[bytes | None]) -> dict[Hop, int]:
        """Return the losses of hops in these entries that the neighbour has not heard of."""
        losses, node_id = self._service.losses, self._router.node_id
        found: dict[Hop, int] = {}
        for entry in entries:
            for hop in pairwise((*hops_of(entry), node_id)) if entry else ():
                serial = losses.serial_of(hop)
                if serial is not None and self._named.get(hop) != serial:
                    found[hop] = serial
        return found

    def _flush_full(self, now_ms: int) -> None:
        announced = self._router.announcements(self._node)
        entries = {place: encode_entry(place, metric) for place, metric in announced.items()}
        named, self._named = self._named, {}
        losses = self._new_losses(entries.values())
        messages = encode_lost(self._seq, losses, {}) if losses else []
        messages += encode_full(self._seq + len(messages) & wire.MAX_U32, entries)
        shortage = self._shortage(max(sum(map(len, messages)), FULL_COST_BYTES), now_ms)
        if shortage:
            self._named = named
            self.retry_ms = now_ms + -(-shortage // BUDGET_BYTES_PER_MS)
        elif self._send_numbered(messages):
            self._named = losses
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
