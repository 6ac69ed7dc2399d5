"""What is known about one link, as plain numbers: a few hundred bytes less per idle link."""

from __future__ import annotations

from .._typing import Final, final

__all__ = ["Vitals"]

_NEVER_MS: Final = -(1 << 62)  # before any time a clock may show


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
