"""What is known about one link, as plain numbers: a few hundred bytes less per idle link."""

from __future__ import annotations

import math

from .. import wire
from .._typing import Final, final

__all__ = ["Vitals"]

_NEVER_MS: Final = -(1 << 62)  # before any time a clock may show
_SUSPECT_INTERVALS: Final = 3  # two PINGs may be late before the third is missed
_SUSPECT_RTTS: Final = 4
_UNKNOWN_RTT_LIMIT_MS: Final = 1_000  # RFC 6298 section 2.1: the RTO before the first measurement
_SHARED_TURNS: Final = 64  # per interval: PINGs of many links go out together, in so many turns


@final
class Vitals:
    """The numbers of one link. ``Liveness`` keeps most of them, its node the rest.

    Args:
        key: The link's name, its conn id.
        epoch: Which incarnation of the neighbour it leads to, u64.
        now_ms: When it came up.

    Attributes:
        key: As given.
        epoch: As given.
        slot: Where ``Liveness`` has it; -1: nowhere.
        due_ms: When it is to be looked at; long ago for one that is not scheduled.
        received_ms: When a byte had last been received, at the last visit.
        heard_ms: The same on the clock from which our own lateness is subtracted.
        excused_ms: The lateness subtracted so far, at the last visit.
        announced_ms: Our interval, as the last PING said.
        peer_ms: Theirs, as their last PING said; 0 before it.
        interval_ms: The larger of the two.
        granted_ms: A longer interval that the other end may still use ...
        granted_until_ms: ... until then.
        srtt_ms: Smoothed round-trip time; None while unknown.
        is_guess: It comes from the handshake; the first PONG replaces it.
        early: Share of an interval by which the next PING is early.
        pinged_ms: When we last sent a PING.
        token_ms: When the last one had a token.
        fit_from_us: Tokens sent before this measure something else than the round trip.
        tokens: Those not answered, the oldest first: (number, token, when it was sent in us).
        numbers: How many tokens were made.
        answered: Number of the newest token answered.
        unheard: We have not heard them for too long.
        flagged: They say that of us.
        suspect: Either, as told by the last action.
        measured_ms: When the rates were last measured.
        measured_sent: Bytes that had been sent then.
        measured_received: Bytes that had been received then.
    """

    __slots__ = (
        "announced_ms",
        "answered",
        "due_ms",
        "early",
        "epoch",
        "excused_ms",
        "fit_from_us",
        "flagged",
        "granted_ms",
        "granted_until_ms",
        "heard_ms",
        "interval_ms",
        "is_guess",
        "key",
        "measured_ms",
        "measured_received",
        "measured_sent",
        "numbers",
        "peer_ms",
        "pinged_ms",
        "received_ms",
        "slot",
        "srtt_ms",
        "suspect",
        "token_ms",
        "tokens",
        "unheard",
    )

    def __init__(self, key: int, epoch: int, now_ms: int) -> None:
        self.key = key
        self.epoch = epoch
        self.slot = -1
        self.due_ms = self.pinged_ms = self.token_ms = _NEVER_MS
        self.received_ms = self.heard_ms = self.measured_ms = now_ms
        self.excused_ms = self.granted_until_ms = self.fit_from_us = 0
        self.announced_ms = self.peer_ms = self.interval_ms = self.granted_ms = 0
        self.measured_sent = self.measured_received = 0
        self.numbers = self.answered = 0
        self.srtt_ms: float | None = None
        self.early = 0.0
        self.is_guess = self.unheard = self.flagged = self.suspect = False
        self.tokens: tuple[tuple[int, int, int], ...] = ()

    def silence_ms(self, received_ms: int, now_ms: int, excused_ms: int) -> int:
        """Return for how long the link has been silent, our own lateness subtracted.

        Args:
            received_ms: When a byte was last received.
            now_ms: The time.
            excused_ms: Our own lateness until now.
        """
        here_ms = now_ms - excused_ms
        if received_ms > self.received_ms:
            self.received_ms = received_ms
            self.heard_ms = received_ms - self.excused_ms
        self.excused_ms = excused_ms
        silence_ms = here_ms - self.heard_ms
        if silence_ms < 0:  # what was excused since the last visit is older than the byte
            self.heard_ms = here_ms
            return 0
        return silence_ms

    def limit_ms(self, now_ms: int) -> int:
        """Return how long the link may be silent now."""
        interval_ms = self.interval_ms
        if now_ms < self.granted_until_ms and self.granted_ms > interval_ms:
            interval_ms = self.granted_ms
        return self._base_limit_ms(interval_ms)

    def _base_limit_ms(self, interval_ms: int) -> int:
        """Return how long a link may be silent that uses this interval."""
        srtt_ms = self.srtt_ms
        by_rtt = _UNKNOWN_RTT_LIMIT_MS if srtt_ms is None else math.ceil(_SUSPECT_RTTS * srtt_ms)
        by_interval = _SUSPECT_INTERVALS * interval_ms
        return by_rtt if by_rtt > by_interval else by_interval

    def update_interval(self, now_ms: int) -> bool:
        """Take the larger of both announced intervals; return whether it shrank."""
        before, after = self.interval_ms, max(self.announced_ms, self.peer_ms)
        self.interval_ms = after
        if after >= before:
            return False
        if now_ms < self.granted_until_ms and self.granted_ms > before:
            before = self.granted_ms
        self.granted_ms = before
        self.granted_until_ms = now_ms + self._base_limit_ms(after)
        return True

    def ping_due_ms(self, sent_ms: int, rtt_interval_ms: int) -> int:
        """Return when a PING is owed: for our silence, or for the measurement.

        Args:
            sent_ms: When a byte was last sent.
            rtt_interval_ms: Between two measurements.
        """
        # What we sent last may be a PING that still waits in a full queue.
        pinged_ms, interval_ms = self.pinged_ms, self.interval_ms
        due_ms = sent_ms if sent_ms > pinged_ms else pinged_ms
        due_ms += interval_ms - int(interval_ms * self.early)
        due_ms -= due_ms % (interval_ms // _SHARED_TURNS or 1)
        if self.unheard:
            return due_ms
        # An idle link has sent a token with an ordinary PING by then; this is for busy ones.
        token_due_ms = self.token_ms + rtt_interval_ms + interval_ms
        return token_due_ms if token_due_ms < due_ms else due_ms

    def is_known_ping(self, body: bytes) -> bool:
        """Return whether a PING says only what the one before it said, and wants no answer.

        Then the sign of life is all there is to it. Not while the link is unheard: there it is news
        that somebody is there.
        """
        if len(body) != wire.PING_BYTES or self.unheard:
            return False
        word = int.from_bytes(body, "big")
        return (
            not word >> 24  # the token
            and word >> 8 == self.peer_ms
            and bool(word & wire.PING_FLAG_SUSPECT) == self.flagged
        )
