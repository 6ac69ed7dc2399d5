"""The benchmark works: all messages arrive, and the report is written. No time is judged."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from netcore import BACKEND
from support.source_tree import REPO
from tools.bench import measure as measure_module
from tools.bench.figures import rows_of
from tools.bench.lineup import Contestant
from tools.bench.measure import MeasurementError, measure
from tools.bench.process import Options, importing
from tools.bench.report import number
from tools.bench.runner import Plan, Runner
from tools.bench.workloads import WORKLOADS, Workload

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

WATCHDOG_S = 200
MEASURED = ("pingpong-one", "stream-64", "stream-256k", "relay-1k", "calls-64", "idle", "churn")
#: Some measure netcore alone, and need two cores.
OWN = ("fair",) if len(os.sched_getaffinity(0)) > 1 else ()
OTHERS = ("netcore pure", "bare Python sockets")
#: Runs the benchmark as where matplotlib is not installed.
WITHOUT_PLOTS = (
    "import sys; sys.modules['matplotlib'] = None; "
    "from tools.bench.__main__ import main; sys.exit(main())"
)


@dataclass(frozen=True)
class Run:
    """What a short run of the benchmark said and wrote."""

    code: int
    said: str
    data: dict[str, Any]
    report: str
    files: list[str]


def expected() -> set[str]:
    """Return who can be measured on this machine, of those who need no further package."""
    own = {"netcore"} if BACKEND == "fast" else set()
    bare = {"C"} if shutil.which(os.environ.get("CC", "cc")) else set()
    return {*own, *bare, *OTHERS}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run it once for all tests of the module."""
    folder = tmp_path_factory.mktemp("bench")
    only = [
        f"{workload}/{name}" for workload in (*MEASURED, *OWN) for name in ("netcore", "C", *OTHERS)
    ]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PLOTS, "--quick", "--output", str(folder), "--date", "a day"]
        + [f"--only={pattern}" for pattern in only],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=WATCHDOG_S,
        check=False,
    )
    assert (folder / "results.json").exists(), done.stderr
    data = json.loads((folder / "results.json").read_text("utf-8"))
    report = (folder / "report.md").read_text("utf-8")
    return Run(done.returncode, done.stderr, data, report, sorted(p.name for p in folder.iterdir()))


def test_bench_measures_everybody_at_everything_without_a_failure(run: Run) -> None:
    measured = {(r["workload"], r["contestant"]) for r in run.data["records"] if not r["error"]}

    own = {name for name in expected() if name.startswith("netcore")}
    assert measured == {
        *((key, name) for key in MEASURED for name in expected()),
        *((key, name) for key in OWN for name in own),
    }, run.said
    assert run.code == 0


def test_bench_loses_no_message(run: Run) -> None:
    lost = {
        (workload.key, row.contestant): row.figures["lost"]
        for workload in WORKLOADS
        for row in rows_of(workload, run.data["records"], {})
    }

    assert set(lost.values()) == {0}, lost


def test_bench_sinks_get_what_was_asked_for(run: Run) -> None:
    records = [r for r in run.data["records"] if "sink" in r["results"]]

    assert records
    assert [r for r in records if r["results"]["sink"]["messages"] != r["messages"]] == []


def test_bench_report_has_a_table_row_for_everybody(run: Run) -> None:
    for name in expected():
        rows = [line for line in run.report.splitlines() if line.startswith(f"| {name} |")]
        rows += [line for line in run.report.splitlines() if line.startswith(f"| **{name}** |")]

        workloads = [*MEASURED, *(OWN if name.startswith("netcore") else ())]
        assert len(rows) == len(workloads) + 1, name  # and one with its version


def test_bench_without_matplotlib_says_so_and_draws_nothing(run: Run) -> None:
    assert "matplotlib is not installed" in run.said
    assert run.files == ["report.md", "results.json"]


def test_bench_with_matplotlib_draws_small_files(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from tools.bench import plots

    rows = {
        workload.key: rows_of(workload, run.data["records"], run.data["yardsticks"])
        for workload in WORKLOADS
    }
    made = plots.draw(tmp_path, rows)

    assert {"throughput.svg", "cpu.svg", "relay.svg", "latency.svg"} <= set(made)
    assert all((tmp_path / name).stat().st_size < 300_000 for name in made)


# -- one measurement -----------------------------------------------------------------------------


def contestant(module: str) -> Contestant:
    return Contestant("somebody", module, {}, {}, frozenset(), frozenset(), "")


def workload(*roles: str) -> Workload:
    """Return one whose client never ends when it is a sink too."""
    return Workload(key="key", title="title", kind="stream", roles=roles, limit_s=0.2)


def test_measurement_of_a_process_that_ends_early_says_its_last_words() -> None:
    with pytest.raises(MeasurementError, match=r"^sink: ended: .*No module named"):
        measure(contestant("tools.bench.contestants.nobody"), workload("sink"), 1, 1)


def test_measurement_of_a_process_that_hangs_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_module, "END_S", 0.1)

    with pytest.raises(MeasurementError, match=r"^sink: took too long"):
        measure(contestant("tools.bench.contestants.bare"), workload("sink", "sink"), 1, 1)


def test_run_goes_on_after_a_failure_and_gives_up_after_two() -> None:
    said: list[str] = []
    nobody = contestant("tools.bench.contestants.nobody")
    plan = Plan(rounds=3, seconds=0.1, quick=True, pairs=[(workload("sink"), [nobody])])
    records = list(Runner(plan, lambda number, total, name: None, said.append).run())

    assert [record.error == "given up" for record in records] == [False, False, True]
    assert len(said) == 2


# -- figures -------------------------------------------------------------------------------------


def stream_record(round_number: int, name: str, seconds: float, lost: int = 0) -> dict[str, Any]:
    sink = {"messages": 100, "seconds": seconds, "cpu": seconds, "lost": lost}
    source = {"messages": 100, "seconds": seconds, "cpu": seconds / 2, "lost": 0}
    results = {"sink": sink, "source": source}
    return {
        "round": round_number,
        "workload": "stream-64",
        "contestant": name,
        "error": "",
        "results": results,
    }


STREAM_64 = next(w for w in WORKLOADS if w.key == "stream-64")


def test_ratio_is_the_median_of_the_ratios_within_the_rounds() -> None:
    seconds = {"C": (1.0, 10.0, 2.0), "other": (2.0, 20.0, 40.0)}
    records = [
        stream_record(number + 1, name, seconds[name][number])
        for number in range(3)
        for name in ("C", "other")
    ]
    _, other = rows_of(STREAM_64, records, {"C": "C", "other": "C"})

    assert other.figures["rate_x"] == pytest.approx(0.5)
    assert other.figures["rate"] == pytest.approx(5.0)


def test_message_lost_in_one_round_is_not_lost_in_the_median() -> None:
    records = [stream_record(number, "one", 1.0, lost=int(number == 2)) for number in (1, 2, 3)]
    (row,) = rows_of(STREAM_64, records, {})

    assert row.figures["lost"] == 1


def test_busier_side_decides_the_messages_per_cpu_second() -> None:
    (row,) = rows_of(STREAM_64, [stream_record(1, "one", 2.0)], {})

    assert row.figures["per_cpu_s"] == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.01234, "0.012"), (1.234, "1.23"), (99.99, "100"), (999.9, "1.00 k"), (2.5e6, "2.50 M")],
)
def test_number_is_written_with_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_import_is_measured_with_its_bytecode_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = tmp_path / "seen"
    statement = f"""
import importlib.util, os
spec = importlib.util.find_spec("colorsys")
with open({str(seen)!r}, "a") as file:
    print(os.path.exists(spec.cached), file=file)
import colorsys
"""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr("sys.stdin", io.StringIO("go\n"))
    importing(statement)(Options())
    assert seen.read_text().split() == ["False", "True"]
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["seconds"] > 0
