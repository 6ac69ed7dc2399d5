"""The scenarios of ``python -m tools.chaos``, scaled down. No time is judged."""

from __future__ import annotations

import argparse
import sys
from types import ModuleType

import pytest

from netcore import BACKEND
from netcore._backend import BackendName
from netcore.cli.screen import Screen
from tools.chaos import reader, readers, soak
from tools.chaos.__main__ import load, main, summary
from tools.chaos.growth import MIB
from tools.chaos.scenario import SCENARIOS, Table
from tools.chaos.worker import Worker

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def play(scenario: ModuleType, *arguments: str) -> Table:
    """Run a scenario with these options."""
    parser = argparse.ArgumentParser()
    scenario.add_options(parser)
    table = Table("")
    scenario.run(parser.parse_args(arguments), Screen(plain=True), table)
    return table


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario_says_what_it_is_and_what_it_takes(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert summary(load(name)).endswith(".")
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    assert summary(load(name)) in capsys.readouterr().out


def test_list_has_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(SCENARIOS)


def test_reader_that_never_reads_costs_two_mebibytes(backend: BackendName) -> None:
    megabytes = "40" if backend == "fast" else "10"
    table = play(reader, "--megabytes", megabytes, "--backend", backend)
    assert table.holds, table.rows
    assert len(table.rows) == 2 * 4


def test_readers_that_never_read_cost_two_mebibytes_each() -> None:
    table = play(readers, "--links", "20", "--megabytes", "60", "--seconds", "2")
    failed = {row[0] for row in table.rows if not row[3]}
    assert failed <= {"p99, frozen to reading"}, table.rows
    trips = [int(row[1]) for row in table.rows if row[0].startswith("round trips")]
    assert len(trips) == 2
    assert min(trips) > 5  # others are served in both halves


def test_bound_of_all_links_holds_where_each_link_is_below_its_own(backend: BackendName) -> None:
    deaf = Worker(backend, "listen", node_id=2)
    try:
        node = {"max_queued_bytes": 5 * MIB, "write_high_bytes": MIB}
        sender = Worker(backend, "send", deaf=deaf.hello["addr"], links=20, node=node)
        try:
            deaf.freeze()
            figures = sender.ask(do="offer", total=40_000_000, size=4_096)
        finally:
            sender.close()
    finally:
        deaf.close()
    stats = figures["stats"]
    assert figures["grown"] < 10 * MIB
    assert 0 < figures["queued"] <= 5 * MIB
    assert stats["links_shed"] > 10
    assert figures["offered"] == stats["messages_sent"] + figures["refused"] + figures["closed"]


def test_soak_of_a_million_messages_leaves_nothing_behind() -> None:
    messages = "1000000" if BACKEND == "fast" else "100000"
    table = play(soak, "--seconds", "5", "--messages", messages, "--every", "1")
    assert table.holds, table.rows
    assert main(["soak", "--seconds", "0", "--messages", "1000"]) == 0
