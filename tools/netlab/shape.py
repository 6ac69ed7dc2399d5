"""What a link does to packets: latency, jitter, loss, rate. No I/O and no clock."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Final

__all__ = ["Counts", "Lane", "Shape"]

_US_PER_MS: Final = 1_000


@dataclass(frozen=True)
class Shape:
    """What one direction of a link does to each packet.

    Attributes:
        latency_ms: From one end to the other.
        jitter_ms: Added at random, 0 to this, evenly; packets do not overtake each other.
        loss: Share of the packets that vanish, each by itself.
        rate_kbps: Bits per millisecond that pass; 0: no limit.
        queue_packets: Under way or waiting; those beyond are dropped.

    Raises:
        ValueError: A number is out of range.
    """

    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    rate_kbps: int = 0
    queue_packets: int = 1_000

    def __post_init__(self) -> None:
        if min(self.latency_ms, self.jitter_ms, self.rate_kbps) < 0:
            raise ValueError(f"latency, jitter and rate are not negative: {self}")
        if not 0 <= self.loss <= 1:
            raise ValueError(f"loss is a share, 0 to 1, not {self.loss}")
        if self.queue_packets < 1:
            raise ValueError(f"a queue holds at least one packet, not {self.queue_packets}")


@dataclass
class Counts:
    """Packets of one direction: ``carried + lost + overflowed`` came in and are done with."""

    carried: int = 0
    lost: int = 0
    overflowed: int = 0


@dataclass
class Lane:
    """One direction of a link: packets go in, and come out when it is time.

    Attributes:
        shape: May be replaced at any time; what is under way keeps its time.
        rng: Decides on loss and jitter.
        counts: What became of the packets.
    """

    shape: Shape
    rng: random.Random
    counts: Counts = field(default_factory=Counts)
    _queue: deque[tuple[int, bytes]] = field(default_factory=deque)
    _free_us: int = 0  # when the last byte accepted has entered the line
    _due_us: int = 0  # when the last packet accepted comes out

    def put(self, now_us: int, packet: bytes) -> None:
        """Take a packet in."""
        shape = self.shape
        if shape.loss and self.rng.random() < shape.loss:
            self.counts.lost += 1
            return
        if len(self._queue) >= shape.queue_packets:
            self.counts.overflowed += 1
            return
        begin_us = max(now_us, self._free_us)
        if shape.rate_kbps:
            begin_us += len(packet) * 8 * _US_PER_MS // shape.rate_kbps
            self._free_us = begin_us
        delay_ms = shape.latency_ms + shape.jitter_ms * self.rng.random()
        self._due_us = max(self._due_us, begin_us + int(delay_ms * _US_PER_MS))
        self._queue.append((self._due_us, packet))

    def take(self, now_us: int) -> list[bytes]:
        """Return the packets that come out by now, in the order they went in."""
        queue, out = self._queue, []
        while queue and queue[0][0] <= now_us:
            out.append(queue.popleft()[1])
        self.counts.carried += len(out)
        return out

    def next_us(self) -> int | None:
        """Return when the next packet comes out; None: nothing is under way."""
        return self._queue[0][0] if self._queue else None
