"""Paths: when bytes arrive."""

from __future__ import annotations

import pytest

from netcore import LocalError
from netcore.sim.paths import LEAST_RTO_MS, PACKET_BYTES, Path, Quality, resend_ms


def arrivals(path: Path, size: int, now_ms: int = 0) -> list[tuple[int, int]]:
    return list(path.carry(size, now_ms))


def test_bytes_take_the_latency() -> None:
    assert arrivals(Path("s", Quality(latency_ms=7)), 100_000, 10) == [(17, 100_000)]


def test_bandwidth_spreads_packets_over_time() -> None:
    path = Path("s", Quality(latency_ms=5, bandwidth_kbps=1_448 * 8))  # a packet per ms

    assert arrivals(path, 3 * PACKET_BYTES) == [(6, 1_448), (7, 1_448), (8, 1_448)]


def test_bandwidth_is_shared_with_what_left_before() -> None:
    path = Path("s", Quality(latency_ms=5, bandwidth_kbps=1_448 * 8))
    arrivals(path, 3 * PACKET_BYTES)

    assert arrivals(path, PACKET_BYTES, now_ms=1) == [(9, 1_448)]


def test_lost_packet_is_late_and_every_byte_arrives() -> None:
    path = Path("s", Quality(latency_ms=5, loss=0.2))
    parts = arrivals(path, 200 * PACKET_BYTES)

    assert sum(size for _, size in parts) == 200 * PACKET_BYTES
    assert path.resent > 10
    assert {when_ms for when_ms, _ in parts} > {5, 15}  # at once, or after one round trip


def test_lost_last_packet_waits_for_a_timeout() -> None:
    path = Path("s", Quality(latency_ms=5, loss=0.5))
    late = {when_ms for _ in range(50) for when_ms, _ in arrivals(path, 1)}

    assert min(late - {5}) >= 5 + LEAST_RTO_MS // 2


def test_same_seed_gives_the_same_losses() -> None:
    quality = Quality(jitter_ms=9, loss=0.3)

    assert arrivals(Path("a", quality), 99_999) == arrivals(Path("a", quality), 99_999)
    assert arrivals(Path("a", quality), 99_999) != arrivals(Path("b", quality), 99_999)


@pytest.mark.parametrize(
    ("now_ms", "when_ms"), [(0, 0), (1, 200), (200, 200), (201, 600), (600, 600), (601, 1_400)]
)
def test_what_was_sent_in_vain_is_sent_again_ever_more_rarely(now_ms: int, when_ms: int) -> None:
    assert resend_ms(0, now_ms, 1) == when_ms


@pytest.mark.parametrize(
    "bad",
    [{"latency_ms": -1}, {"jitter_ms": 0.5}, {"loss": 1}, {"loss": "x"}, {"latency_ms": True}],
)
def test_impossible_quality_is_refused(bad: dict[str, int]) -> None:
    with pytest.raises(LocalError, match=next(iter(bad))):
        Quality(**bad)
