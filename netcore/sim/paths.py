"""Paths: how long bytes take from one node to another, and whether they get there.

Facts first:

- A path has one direction. What travels on it are the bytes of streams, as TCP would carry them:
  nothing is lost, doubled or overtaken. A lost packet is late, and so is all that is behind it.
- Bytes are cut into packets by their number alone, never by how they were written, so that both
  backends get the same times for the same bytes.
- A path that loses or jitters has a random source of its own, made from the seed and the two ids:
  what happens on it does not depend on what happens elsewhere.
- While a path is cut, what is on it waits at its beginning; it leaves with the first
  retransmission after the path was healed, and those get rarer as they do in TCP.
"""

from __future__ import annotations

from random import Random

from .._typing import TYPE_CHECKING, Final, Protocol, final
from ..errors import LocalError
from ..values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Path", "Quality", "Waiting", "resend_ms"]

PACKET_BYTES: Final = 1_448  # of TCP over Ethernet
#: RFC 6298 section 2.4 wants a second, every system takes this.
LEAST_RTO_MS: Final = 200
MOST_RTO_MS: Final = 120_000
#: So many packets behind a lost one let the sender notice without waiting for a timeout.
FAST_RESEND_PACKETS: Final = 3
MOST_LOSSES: Final = 10  # of one packet in a row


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How good a path is; the same in both directions.

    Attributes:
        latency_ms: One way.
        jitter_ms: At most so much more, at random.
        loss: Share of packets that have to be sent again, 0 <= loss < 1.
        bandwidth_kbps: Kilobits per second, shared by all streams; 0: no limit.
    """

    latency_ms: int = 1
    jitter_ms: int = 0
    loss: float = 0.0
    bandwidth_kbps: int = 0

    def __post_init__(self) -> None:
        for name in ("latency_ms", "jitter_ms", "bandwidth_kbps"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise LocalError(f"{name} must be an int of 0 or more, not {value!r}")
        if not isinstance(self.loss, int | float) or not 0 <= self.loss < 1:
            raise LocalError(f"loss must be a number in 0 <= loss < 1, not {self.loss!r}")


class Waiting(Protocol):
    """What is told of cuts: the sending end of a stream, or a connect under way."""

    def on_cut(self) -> None:
        """What is under way goes back to the beginning."""

    def on_heal(self) -> None:
        """It may leave again."""


def resend_ms(first_ms: int, now_ms: int, latency_ms: int) -> int:
    """Return when that is sent again which was first sent, in vain, at ``first_ms``.

    Not before ``now_ms``; each wait is twice the one before.
    """
    rto_ms = max(LEAST_RTO_MS, 3 * latency_ms)
    when_ms = first_ms
    while when_ms < now_ms:
        when_ms += rto_ms
        rto_ms = min(MOST_RTO_MS, 2 * rto_ms)
    return when_ms


@final
class Path:
    """The way from one node to another.

    Attributes:
        is_cut: Whether nothing gets through.
        steady_ms: What everything takes at any time; None while that is not so simple.
        streams: Who is told of cuts, oldest first.
        resent: Packets that had to be sent again.
    """

    __slots__ = (
        "_busy_until_us",
        "_quality",
        "_rng",
        "_seed",
        "is_cut",
        "resent",
        "steady_ms",
        "streams",
    )

    def __init__(self, seed: str, quality: Quality) -> None:
        self.is_cut = False
        self.quality = quality
        self.streams: dict[Waiting, None] = {}  # not a set: its order is not by address
        self.resent = 0
        self._seed = seed
        self._rng: Random | None = None
        self._busy_until_us = 0

    @property
    def quality(self) -> Quality:
        """How good it is; may be changed at any time."""
        return self._quality

    @quality.setter
    def quality(self, quality: Quality) -> None:
        self._quality = quality
        self._set_steady()

    def _set_steady(self) -> None:
        quality = self._quality
        varies = quality.jitter_ms or quality.loss or quality.bandwidth_kbps
        self.steady_ms = None if self.is_cut or varies else quality.latency_ms

    def cut(self) -> None:
        """Let nothing through any more."""
        if not self.is_cut:
            self.is_cut = True
            self._set_steady()
            for stream in list(self.streams):
                stream.on_cut()

    def heal(self) -> None:
        """Let everything through again."""
        if self.is_cut:
            self.is_cut = False
            self._set_steady()
            self._busy_until_us = 0
            for stream in list(self.streams):
                stream.on_heal()

    def carry(self, size: int, now_ms: int) -> Iterator[tuple[int, int]]:
        """Yield (when it arrives, how much) for all of ``size`` bytes that leave now, in order."""
        quality = self.quality
        if not (quality.loss or quality.bandwidth_kbps):
            yield now_ms + quality.latency_ms + self._jitter_ms(), size
            return
        jitter_ms = self._jitter_ms()
        for at in range(0, size, PACKET_BYTES):
            packet = min(PACKET_BYTES, size - at)
            behind = (size - at - 1) // PACKET_BYTES
            left_ms = self._leave_ms(packet, now_ms)
            late_ms = self._loss_ms(behind) if quality.loss else 0
            yield left_ms + quality.latency_ms + jitter_ms + late_ms, packet

    def delay_ms(self) -> int:
        """Return what a packet without data takes now."""
        return self.quality.latency_ms + self._jitter_ms()

    def _random(self) -> Random:
        if self._rng is None:
            self._rng = Random(self._seed)  # of a text: the same in every process
        return self._rng

    def _jitter_ms(self) -> int:
        jitter_ms = self.quality.jitter_ms
        return self._random().randint(0, jitter_ms) if jitter_ms else 0

    def _leave_ms(self, packet: int, now_ms: int) -> int:
        """Return when the last bit of a packet has left."""
        kbps = self.quality.bandwidth_kbps
        if not kbps:
            return now_ms
        begin_us = max(now_ms * 1_000, self._busy_until_us)
        self._busy_until_us = begin_us + packet * 8_000 // kbps
        return -(-self._busy_until_us // 1_000)

    def _loss_ms(self, behind: int) -> int:
        """Return how much later a packet arrives for having been lost, perhaps repeatedly."""
        rng, loss = self._random(), self.quality.loss
        late_ms = 0
        rtt_ms = 2 * self.quality.latency_ms
        rto_ms = max(LEAST_RTO_MS, rtt_ms + LEAST_RTO_MS // 2)
        for _ in range(MOST_LOSSES):
            if rng.random() >= loss:
                break
            self.resent += 1
            if not late_ms and behind >= FAST_RESEND_PACKETS:
                late_ms += max(1, rtt_ms)
            else:
                late_ms += rto_ms
                rto_ms = min(MOST_RTO_MS, 2 * rto_ms)
        return late_ms
