"""The average of round trips: calm under jitter, quick when a link has changed."""

from __future__ import annotations

import random

import pytest

from netcore import _backend
from netcore._backend import BackendName, kernels
from netcore.roundtrips import RoundTrips, is_other_latency


@pytest.fixture
def link(backend: BackendName) -> kernels.Vitals:
    made: kernels.Vitals = _backend.load(backend).Vitals(7, 1, 0)
    made.slot = 3
    return made


def averages(link: kernels.Vitals, *trips: float) -> list[float | None]:
    """Return the average after each of these round trips."""
    taken = RoundTrips()
    found = []
    for trip in trips:
        taken.take(link, trip)
        found.append(link.srtt_ms)
    return found


@pytest.mark.parametrize(
    ("used_ms", "rtt_ms", "expected"),
    [
        (0, 2.0, False),
        (0, 2.1, True),
        (4, 6.0, False),
        (4, 6.1, True),
        (4, 1.9, True),
        (100, 125.0, False),
        (100, 125.1, True),
        (100, 75.0, False),
        (100, 74.9, True),
    ],
)
def test_latency_changes_for_more_than_a_quarter_and_two_ms(
    used_ms: int, rtt_ms: float, expected: bool
) -> None:
    assert is_other_latency(used_ms, rtt_ms) is expected


def test_first_round_trip_is_the_average(link: kernels.Vitals) -> None:
    assert averages(link, 8.0, 16.0) == [8.0, 9.0]


def test_round_trip_replaces_what_the_handshake_took(link: kernels.Vitals) -> None:
    link.srtt_ms, link.is_guess = 50.0, True
    assert averages(link, 8.0) == [8.0]
    assert not link.is_guess


def test_three_odd_ones_on_the_same_side_are_a_change_to_the_nearest_of_them(
    link: kernels.Vitals,
) -> None:
    assert averages(link, 5.0, 90.0, 80.0, 85.0)[-1] == 80.0
    assert averages(link, 4.0, 6.0, 5.0)[-1] == 6.0


def test_odd_ones_on_both_sides_are_jitter(link: kernels.Vitals) -> None:
    found = averages(link, 100.0, 150.0, 60.0, 150.0, 60.0, 150.0, 60.0)
    assert all(average is not None and 85 < average < 115 for average in found)


def test_odd_ones_with_an_ordinary_one_between_them_are_jitter(link: kernels.Vitals) -> None:
    found = averages(link, 100.0, 150.0, 150.0, 104.0, 150.0, 150.0)
    assert found[-1] is not None
    assert found[-1] < 130


def test_odd_one_asks_for_another_and_the_change_does_not(link: kernels.Vitals) -> None:
    taken = RoundTrips()
    assert [taken.take(link, trip) for trip in (5.0, 80.0, 80.0, 80.0, 80.0)] == [
        False, True, True, False, False,
    ]  # fmt: skip


def test_forgotten_link_leaves_nothing_to_the_next_one_in_its_slot(link: kernels.Vitals) -> None:
    taken = RoundTrips()
    for trip in (5.0, 80.0, 80.0):
        taken.take(link, trip)
    taken.forget(link)
    before = link.srtt_ms
    assert before is not None
    taken.take(link, 80.0)
    assert link.srtt_ms == before + (80.0 - before) / 8


@pytest.mark.parametrize("rtt_ms", [1, 5, 20, 100, 1_000])
def test_jitter_of_fifteen_percent_changes_the_latency_in_use_at_most_once(
    link: kernels.Vitals, rtt_ms: int
) -> None:
    for seed in range(50):
        rng, taken = random.Random(seed), RoundTrips()
        link.srtt_ms = None
        used_ms, changes = 0, -1  # the first value in use is none
        for _ in range(300):
            taken.take(link, rtt_ms * rng.uniform(0.85, 1.15))
            assert link.srtt_ms is not None
            if changes < 0 or is_other_latency(used_ms, link.srtt_ms):
                used_ms, changes = round(link.srtt_ms), changes + 1
        assert changes <= 1, seed
