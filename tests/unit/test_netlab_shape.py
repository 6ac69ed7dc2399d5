"""What a shaped link does to packets, on virtual time."""

from __future__ import annotations

import random

import pytest

from tools.netlab import Shape
from tools.netlab.shape import Lane


def lane(**shape: float) -> Lane:
    """Return one direction of a link."""
    return Lane(Shape(**shape), random.Random(1))  # type: ignore[arg-type]


def test_packet_comes_out_after_the_latency_and_not_before() -> None:
    way = lane(latency_ms=5)
    way.put(1_000, b"one")
    assert way.next_us() == 6_000
    assert way.take(5_999) == []
    assert way.take(6_000) == [b"one"]
    assert way.next_us() is None
    assert way.counts.carried == 1


def test_jitter_spreads_packets_and_keeps_their_order() -> None:
    way = lane(latency_ms=5, jitter_ms=10)
    packets = [b"%d" % number for number in range(200)]
    delays, out = set(), []
    for at, packet in enumerate(packets):
        way.put(at * 20_000, packet)
        due_us = way.next_us()
        assert due_us is not None
        delays.add(due_us - at * 20_000)
        out += way.take(due_us)
    assert out == packets
    assert 5_000 <= min(delays) < 6_000
    assert 14_000 < max(delays) <= 15_000
    for at, packet in enumerate(packets):  # closer together than the jitter
        way.put(10_000_000 + at, packet)
    assert way.take(20_000_000) == packets


def test_loss_takes_its_share_and_counts_it() -> None:
    way = lane(loss=0.25)
    for _ in range(4_000):
        way.put(0, b"x")
        way.take(0)
    assert way.counts.carried + way.counts.lost == 4_000
    assert 900 < way.counts.lost < 1_100


def test_rate_lets_bytes_through_one_after_the_other() -> None:
    way = lane(rate_kbps=8)  # a byte per ms
    way.put(0, bytes(100))
    way.put(0, bytes(50))
    assert way.take(99_999) == []
    assert len(way.take(100_000)) == 1
    assert way.next_us() == 150_000
    way.take(150_000)
    way.put(1_000_000, bytes(10))  # idle time is not saved up
    assert way.next_us() == 1_010_000


def test_full_queue_drops_the_newest_and_counts_it() -> None:
    way = lane(latency_ms=1, queue_packets=2)
    for packet in (b"a", b"b", b"c"):
        way.put(0, packet)
    assert way.take(1_000) == [b"a", b"b"]
    assert way.counts.overflowed == 1


@pytest.mark.parametrize(
    "wrong", [{"loss": 1.1}, {"loss": -0.1}, {"latency_ms": -1}, {"queue_packets": 0}]
)
def test_shape_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="not"):
        Shape(**wrong)  # type: ignore[arg-type]
