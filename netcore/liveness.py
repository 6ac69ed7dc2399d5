"""Liveness: when to ping a link, when its silence makes it suspect, and when dead.

Facts first:

- Any received byte is life. So this module keeps no clock of its own for traffic: it asks for the
  last times of a link (``activity``) when the link is due, and a link is due about once per
  interval, however much it carries. The cost of a turn is that of the links due in it.
- A PING is owed after one interval without sending. The interval grows with the number of links,
  so that the cost of idle links stays flat; both ends use the larger of their two. An interval
  counts for sending only once a PING has announced it, else the other end would expect us earlier
  than we come. When it shrinks, the other end's longer one is still granted until it must have
  heard of the shorter one.
- PINGs are up to a quarter of an interval early, at random, and never late: links that were opened
  together drift apart.
- Our own absence is not the neighbour's silence. ``poll`` knows when it should have been called;
  what it is late, beyond a tolerance, does not count as silence. The tolerance is there because
  time must also pass for a loop that is always a little behind.
- A round trip during which our own loop was away, or the link was silent, measures that and not the
  link, so it proves life but is no RTT.
- Nobody else decides how long silence is borne: an interval is at most so long that a link becomes
  suspect before it is dead, ours as well as what a neighbour announces. One that announces more is
  asked for a PONG with every PING, so it is heard often enough however rarely it speaks by itself.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Callable

from . import wire
from ._typing import TYPE_CHECKING, Final, NamedTuple, final
from .config import NodeConfig
from .pingpong import encode_ping
from .roundtrips import RoundTrips
from .values import dataclass

if TYPE_CHECKING:
    from random import Random

    from ._backend import kernels

__all__ = [
    "Action",
    "Alive",
    "Dead",
    "Liveness",
    "Probe",
    "SendPing",
    "Suspect",
]

#: Link -> (when a byte was last received, when one was last sent), in ms.
Activity = Callable[[int], tuple[int, int]]

SUSPECT_INTERVALS: Final = 3  # two PINGs may be late before the third is missed
MAX_TOKENS: Final = 4  # unanswered ones per link
EARLY_SHARE: Final = 0.25  # of an interval, by which a PING may be early
_EARLY_OF_BITS: Final = EARLY_SHARE / (1 << 64)
LATE_SHARE: Final = 4  # lateness up to a 4th of the ping interval is not excused
_BLOCK: Final = struct.Struct("!64Q")
#: A heap with this many more items than twice the links is rebuilt (cheap, and rare).
_HEAP_SLACK: Final = 64
#: An item of the heap is one int, ``due_ms << _SLOT_BITS | slot``: a tuple would cost three objects
#: more per link. Config allows 2**20 links.
_SLOT_BITS: Final = 24
_SLOT_MASK: Final = (1 << _SLOT_BITS) - 1
_NEVER_MS: Final = -(1 << 62)  # before any time a clock may show


# -- what poll() asks for ------------------------------------------------------------------------


class SendPing(NamedTuple):  # made for every PING: a tuple costs a fifth of a dataclass
    """Send a PING with this body."""

    key: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Suspect:
    """Move the routes away where there are others; the socket stays."""

    key: int


@dataclass(frozen=True, slots=True)
class Alive:
    """A suspect link lives: the routes may return."""

    key: int


@dataclass(frozen=True, slots=True)
class Dead:
    """Close the link; it is not heard of again here, but still has to be removed."""

    key: int


Action = SendPing | Suspect | Alive | Dead


@dataclass(frozen=True, slots=True)
class Probe:
    """A question to a link.

    Attributes:
        number: For ``Liveness.is_answered``.
        payload: Body of the PING to be sent.
    """

    number: int
    payload: bytes


@final
class Liveness:
    """The liveness of all links of a node; each keeps its numbers in ``Vitals``.

    ``now_ms`` and ``now_us`` are the same monotonic clock, or two of the same speed.

    Attributes:
        suspects: How often a link became suspect.
        interval_ms: This node's own ping interval, as its PINGs say it.
    """

    def __init__(self, config: NodeConfig, rng: Random) -> None:
        self.suspects = 0
        self._ping_interval_ms = config.ping_interval_ms
        self._longest_ms = config.dead_ms // SUSPECT_INTERVALS
        self._max_interval_ms = min(config.max_ping_interval_ms, self._longest_ms)
        self._shortest_rtt_interval_ms = config.rtt_interval_ms
        self._dead_ms = config.dead_ms
        self._trips = RoundTrips()
        self._late_tolerance_ms = config.ping_interval_ms // LATE_SHARE
        self._rng = rng
        self._drawn: list[int] = []
        self._count = 0
        self._count_one(0)
        self._links: list[kernels.Vitals | None] = []  # by slot
        self._free: list[int] = []  # slots
        self._heap: list[int] = []
        self._excused_ms = 0
        self._fit_from_us = 0
        self._polled = (_NEVER_MS, 0)  # (now_ms, now_us) of the last poll

    def __len__(self) -> int:
        return self._count

    def _count_one(self, change: int) -> None:
        self._count += change
        shortest_ms = self._ping_interval_ms
        self.interval_ms = min(self._max_interval_ms, max(shortest_ms, self._count))
        # A PONG costs as much as a PING, so they get rarer together.
        factor = max(1.0, self.interval_ms / shortest_ms)
        self._rtt_interval_ms = int(self._shortest_rtt_interval_ms * factor)

    def add(self, link: kernels.Vitals, now_ms: int, handshake_rtt_ms: float | None = None) -> None:
        """Begin to watch a link; the next ``poll`` pings it.

        Args:
            link: New; filled in from here on.
            now_ms: The time; the link counts as heard then.
            handshake_rtt_ms: What the handshake took; stands until the first PONG.

        Raises:
            ValueError: The link is watched already.
        """
        if link.slot >= 0:
            raise ValueError(f"link {link.key} is watched already")
        interval_ms = self.interval_ms
        link.due_ms = _NEVER_MS
        link.received_ms = now_ms
        link.heard_ms = now_ms - self._excused_ms
        link.excused_ms = self._excused_ms
        link.announced_ms = link.interval_ms = interval_ms
        link.srtt_ms = handshake_rtt_ms
        link.is_guess = handshake_rtt_ms is not None
        if self._free:
            link.slot = self._free.pop()
            self._links[link.slot] = link
        else:
            link.slot = len(self._links)
            self._links.append(link)
        self._count_one(1)
        self._schedule(link, now_ms)

    def remove(self, link: kernels.Vitals) -> None:
        """Watch a link no more; one that is not watched is ignored."""
        if link.slot >= 0:
            self._trips.forget(link)
            self._links[link.slot] = None
            self._free.append(link.slot)
            link.slot = -1
            self._count_one(-1)
        self._compact()

    # -- what arrives ----------------------------------------------------------------------------

    def on_ping(
        self, link: kernels.Vitals, token: int, interval_ms: int, flags: int, now_ms: int
    ) -> int | None:
        """Take a PING in.

        Returns:
            The token to be sent back in a PONG; None: none wanted, or the link is not watched.
        """
        if link.slot < 0:
            return None
        flagged = bool(flags & wire.PING_FLAG_SUSPECT)
        link.peer_ms = min(interval_ms, self._longest_ms)
        shrank = link.update_interval(now_ms)
        if shrank or link.unheard or flagged != link.flagged:
            link.flagged = flagged
            self._hurry(link, now_ms)
        return token or None

    def on_pong(self, link: kernels.Vitals, token: int, now_us: int) -> float | None:
        """Take a PONG in.

        Returns:
            The round trip in ms; None for a token that is not ours, or that is no measurement.
        """
        if link.slot < 0:
            return None
        tokens = link.tokens
        at = next((at for at, sent in enumerate(tokens) if sent[1] == token), -1)
        if at < 0 or now_us - tokens[at][2] > self._dead_ms * 1_000:
            return None
        number, _, sent_us = tokens[at]
        # Both directions keep the order, so older ones will not be answered any more.
        link.tokens = tokens[at + 1 :]
        link.answered = number
        if link.unheard:
            self._hurry(link, self._estimate_ms(now_us))
        fit_from_us = max(link.fit_from_us, self._fit_from_us)
        if sent_us < fit_from_us or self._is_late(now_us):
            return None
        rtt_ms = max(0, now_us - sent_us) / 1_000
        if self._trips.take(link, rtt_ms):
            self._measure_again(link, self._estimate_ms(now_us))
        return rtt_ms

    def _measure_again(self, link: kernels.Vitals, now_ms: int) -> None:
        """Let the next PING have a token, and come within an interval."""
        link.token_ms = now_ms - self._rtt_interval_ms
        if link.due_ms > now_ms + link.interval_ms:
            self._schedule(link, now_ms + link.interval_ms)

    # -- asking now ------------------------------------------------------------------------------

    def probe(self, link: kernels.Vitals, now_us: int) -> Probe | None:
        """Ask a link whether it lives, outside of the schedule; None for one not watched.

        Send the PING at once; ``is_answered`` tells.
        """
        if link.slot < 0:
            return None
        token = self._new_token(link, now_us)
        return Probe(link.numbers, self._encode(link, token))

    def is_answered(self, link: kernels.Vitals, number: int) -> bool:
        """Return whether the probe of this number, or a PING after it, was answered."""
        return link.slot >= 0 and link.answered >= number

    # -- the clock -------------------------------------------------------------------------------

    def next_deadline_ms(self) -> int | None:
        """Return when ``poll`` is to be called next (not: in how long); None: no link."""
        heap, links = self._heap, self._links
        while heap:
            item = heap[0]
            link, due_ms = links[item & _SLOT_MASK], item >> _SLOT_BITS
            if link is not None and link.due_ms == due_ms:
                return due_ms
            heapq.heappop(heap)
        return None

    def poll(self, now_ms: int, now_us: int, activity: Activity) -> list[Action]:
        """Look at the links that are due.

        Call it at ``next_deadline_ms``, after what has arrived was read; earlier does no harm, and
        how much later it is called is how late the loop is.

        Args:
            now_ms: The time.
            now_us: The same with the precision that round trips want.
            activity: Asked for every link that is due.

        Returns:
            What to do, in this order.
        """
        self._excuse_lateness(now_ms, now_us)
        actions: list[Action] = []
        heap = self._heap
        while heap and heap[0] >> _SLOT_BITS <= now_ms:
            link = self._live(heapq.heappop(heap))
            if link is not None:
                link.due_ms = _NEVER_MS
                self._visit(link, now_ms, now_us, activity(link.key), actions)
                heap = self._heap  # it may have been rebuilt
        self._polled = (now_ms, now_us)
        return actions

    def _visit(
        self,
        link: kernels.Vitals,
        now_ms: int,
        now_us: int,
        activity: tuple[int, int],
        actions: list[Action],
    ) -> None:
        received_ms, sent_ms = activity
        dead_ms = self._dead_ms
        silence_ms = link.silence_ms(received_ms, now_ms, self._excused_ms)
        if silence_ms >= dead_ms:
            actions.append(Dead(link.key))
            return  # not scheduled again: it was told
        limit_ms = link.limit_ms(now_ms)
        is_unheard = silence_ms >= limit_ms
        turned = link.unheard != is_unheard
        if turned:
            link.unheard = is_unheard
            link.fit_from_us = now_us
        if link.suspect != (is_unheard or link.flagged):
            self._judge(link, actions)
        due_ms = link.ping_due_ms(sent_ms, self._rtt_interval_ms)
        if turned or due_ms <= now_ms:
            actions.append(self._ping(link, now_ms, now_us))
            due_ms = link.ping_due_ms(sent_ms, self._rtt_interval_ms)
        if is_unheard or limit_ms > dead_ms:
            limit_ms = dead_ms
        late_ms = now_ms + limit_ms - silence_ms
        if late_ms < due_ms:
            due_ms = late_ms
        self._schedule(link, due_ms if due_ms > now_ms else now_ms + 1)

    def _judge(self, link: kernels.Vitals, actions: list[Action]) -> None:
        """Say that it became suspect, or is suspect no more."""
        suspect = link.suspect = link.unheard or link.flagged
        if suspect:
            self.suspects += 1
            actions.append(Suspect(link.key))
        else:
            actions.append(Alive(link.key))

    def _ping(self, link: kernels.Vitals, now_ms: int, now_us: int) -> SendPing:
        """Return the next PING, with a token when it is time for one."""
        token = 0
        wanted = link.peer_ms >= self._longest_ms or (
            now_ms - link.token_ms >= self._rtt_interval_ms
        )
        if wanted and not link.unheard:
            token = self._new_token(link, now_us)
            link.token_ms = now_ms
        link.pinged_ms = now_ms
        link.early = self._draw() * _EARLY_OF_BITS
        payload = self._encode(link, token)
        if link.announced_ms != self.interval_ms:
            link.announced_ms = self.interval_ms
            link.update_interval(now_ms)
        return SendPing(link.key, payload)

    def _draw(self) -> int:
        """Return 64 random bits, of a block: a system call for each would cost more than a PING."""
        if not self._drawn:
            self._drawn = [*_BLOCK.unpack(self._rng.randbytes(_BLOCK.size))]
        return self._drawn.pop()

    def _new_token(self, link: kernels.Vitals, now_us: int) -> int:
        token = self._draw() or 1
        link.numbers += 1
        link.tokens = (*link.tokens[1 - MAX_TOKENS :], (link.numbers, token, now_us))
        return token

    def _encode(self, link: kernels.Vitals, token: int) -> bytes:
        return encode_ping(token, self.interval_ms, wire.PING_FLAG_SUSPECT if link.unheard else 0)

    # -- our own lateness ------------------------------------------------------------------------

    def _excuse_lateness(self, now_ms: int, now_us: int) -> None:
        due_ms = self.next_deadline_ms()
        late_ms = 0 if due_ms is None else now_ms - due_ms
        if late_ms > self._late_tolerance_ms:
            self._excused_ms += late_ms - self._late_tolerance_ms
        if late_ms > self._ping_interval_ms:
            self._fit_from_us = now_us

    def _is_late(self, now_us: int) -> bool:
        """Return whether the loop has been away; frames are read before ``poll`` is called."""
        due_ms = self.next_deadline_ms()
        return due_ms is not None and self._estimate_ms(now_us) - due_ms > self._ping_interval_ms

    def _estimate_ms(self, now_us: int) -> int:
        """Return the time in ms, counted from the last poll."""
        polled_ms, polled_us = self._polled
        return polled_ms + (now_us - polled_us) // 1_000

    # -- the heap --------------------------------------------------------------------------------

    def _hurry(self, link: kernels.Vitals, now_ms: int) -> None:
        if link.due_ms > now_ms:
            self._schedule(link, now_ms)

    def _schedule(self, link: kernels.Vitals, due_ms: int) -> None:
        if due_ms == link.due_ms:
            return  # that item is in the heap
        link.due_ms = due_ms
        heapq.heappush(self._heap, due_ms << _SLOT_BITS | link.slot)
        if len(self._heap) > 2 * self._count + _HEAP_SLACK:
            self._compact()

    def _live(self, item: int) -> kernels.Vitals | None:
        """Return the link that an item is about, None for an outdated item."""
        link = self._links[item & _SLOT_MASK]
        return link if link is not None and link.due_ms == item >> _SLOT_BITS else None

    def _compact(self) -> None:
        if len(self._heap) > 2 * self._count + _HEAP_SLACK:
            self._heap = [item for item in self._heap if self._live(item) is not None]
            heapq.heapify(self._heap)
