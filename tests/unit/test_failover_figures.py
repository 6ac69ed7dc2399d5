"""The figures of the fail-over report, from stamps written out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.failover import report
from tools.failover.figures import count_missing, first_after, gaps, longest_gap_ms, percentile
from tools.failover.layout import LAYOUTS, RING, Addresses
from tools.failover.results import Results
from tools.failover.trial import Record

MS = 1_000_000


def stamps(*times_ms: float) -> list[int]:
    """Return arrivals."""
    return [int(time_ms * MS) for time_ms in times_ms]


def test_gap_that_began_before_the_fault_counts_whole() -> None:
    came = stamps(96, 98, 130, 132)
    assert gaps(came, 100 * MS, 132 * MS, 1.0) == [(-2.0, 32.0), (30.0, 2.0)]
    assert longest_gap_ms(came, 100 * MS, 132 * MS) == 32.0


def test_gap_before_the_window_does_not_count() -> None:
    assert longest_gap_ms(stamps(10, 90, 98, 101), 100 * MS, 101 * MS) == 3.0


def test_silence_up_to_the_end_of_the_window_is_a_gap() -> None:
    assert longest_gap_ms(stamps(98, 102), 100 * MS, 900 * MS) == 798.0
    assert longest_gap_ms([], 100 * MS, 900 * MS) == 800.0


def test_first_arrival_after_a_moment_is_found() -> None:
    assert first_after(stamps(1, 5, 9), 5 * MS) == 9 * MS
    assert first_after(stamps(1, 5), 5 * MS) is None


def test_only_messages_sent_after_the_fault_can_be_missing() -> None:
    assert count_missing([0, 3, 4, 6, 6], first=3, until=8) == (2, 1)


def test_percentile_of_few_values_is_one_of_them() -> None:
    values = [float(number) for number in range(1, 21)]
    assert percentile(values, 0.99) == 20.0
    assert percentile(values, 0.5) == 10.0
    assert percentile([7.0], 0.01) == 7.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


@pytest.mark.parametrize("key", LAYOUTS)
def test_layout_has_two_separate_ways_over_links_that_exist(key: str) -> None:
    layout = LAYOUTS[key]
    first, second = layout.ways
    assert not set(first) & set(second)
    assert {0, layout.sink, *first, *second} == set(layout.nodes)
    used = [*layout.links_on(first), *layout.links_on(second)]
    assert sorted(used) == list(range(len(layout.links)))


def test_isolated_links_have_addresses_of_their_own() -> None:
    addresses = Addresses.choose(RING, isolated=True)
    ends = [addresses.of(RING, link, node) for link, pair in enumerate(RING.links) for node in pair]
    assert len({host for host, _ in ends}) == 24
    assert all(host.startswith("127.0.") for host, _ in ends)


def record(number: int, ms: float, *, recovered: bool = True, system: str = "netcore") -> Record:
    """Return what a repetition found."""
    gap = [(-1.5, ms)]
    return Record(system, "ring", "kill", number, ms=ms, recovered=recovered, gaps=gap)


def test_results_grow_from_run_to_run_and_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "failover.json"
    Results(path).add(record(0, 5.0))
    Results(path).add(record(2, 8.0))
    Results(path).add(Record("netcore", "ring", "kill", 1, error="a process is gone"))
    Results(path).add(record(0, 15_001.0, recovered=False, system="zenoh"))
    results = Results(path)
    case = ("netcore", "ring", "kill")
    assert results.missing(case, 4) == [1, 3]
    assert [found.gaps for found in results.of(case)] == [[(-1.5, 5.0)], [(-1.5, 8.0)]]
    report.write(tmp_path, results, "a day")
    text = (tmp_path / "failover.md").read_text("utf-8")
    assert "| netcore | 2 | 5.0 | 8.0 | 8.0 |" in text
    assert "> 15,000" in text
    assert "a process is gone" in text
    assert Results(path, fresh=True).missing(case, 2) == [0, 1]
