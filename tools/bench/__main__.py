"""Measure netcore beside its peers and beside bare C sockets: ``python -m tools.bench``.

Every contestant's processes run one after the other over loopback, all of them in every round; the
figures are medians of the rounds. docs/benchmarks/README.md says what is measured and how to read
it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from netcore.cli.screen import Screen

from . import build, machine, report
from .lineup import Contestant, Lineup, find
from .runner import Plan, Runner, can_place
from .workloads import WORKLOADS, Workload

QUICK_LINKS = 100


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the report."""
    options = parse(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C
    with tempfile.TemporaryDirectory(prefix="netcore-bench-") as folder:
        build.use(Path(folder))
        lineup = find()
        pairs = choose(lineup, options.only, options.quick)
        if options.list:
            show_list(lineup, pairs)
            return 0
        return run(options, lineup, pairs)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often (default: 3)")
    parser.add_argument(
        "--seconds", type=float, default=0.6, help="of one measurement, about (default: 0.6)"
    )
    parser.add_argument(
        "--only",
        metavar="WORKLOAD[/CONTESTANT]",
        action="append",
        default=[],
        help="patterns such as 'stream-*', 'relay-64/netcore*', '*/C'; may be repeated",
    )
    parser.add_argument(
        "--quick", action="store_true", help="show that it works: one round, no telling figures"
    )
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks"), metavar="FOLDER")
    parser.add_argument(
        "--date",
        default=datetime.date.today().isoformat(),
        help="as the report names it (default: today)",
    )
    parser.add_argument("--list", action="store_true", help="say what would be measured")
    return parser.parse_args(argv)


def choose(
    lineup: Lineup, only: Sequence[str], quick: bool
) -> list[tuple[Workload, list[Contestant]]]:
    """Return the workloads and who takes part in each."""
    pairs = []
    for workload in WORKLOADS:
        contestants = [
            contestant
            for contestant in lineup.contestants
            if contestant.offers(workload) and wanted(workload, contestant, only)
        ]
        if contestants and can_place(workload):
            pairs.append((smaller(workload) if quick else workload, contestants))
    return pairs


def wanted(workload: Workload, contestant: Contestant, only: Sequence[str]) -> bool:
    """Return whether one of the patterns is met, or there is none."""
    for pattern in only:
        left, _, right = pattern.lower().partition("/")
        if fnmatchcase(workload.key, left or "*") and fnmatchcase(
            contestant.name.lower(), right or "*"
        ):
            return True
    return not only


def smaller(workload: Workload) -> Workload:
    """Return the workload for a run that only shows that it works."""
    links = workload.options.get("links", 0)
    if links <= QUICK_LINKS:
        return replace(workload, first=max(20, workload.first // 10))
    return replace(workload, first=200, options={**workload.options, "links": QUICK_LINKS})


def show_list(lineup: Lineup, pairs: Sequence[tuple[Workload, Sequence[Contestant]]]) -> None:
    """Print what would be measured, and what would not."""
    for workload, contestants in pairs:
        print(f"{workload.key:14} {', '.join(c.name for c in contestants)}")
    for name, why in lineup.skipped.items():
        print(f"not here: {name}: {why}")


def run(
    options: argparse.Namespace,
    lineup: Lineup,
    pairs: Sequence[tuple[Workload, Sequence[Contestant]]],
) -> int:
    """Measure, write, say where."""
    screen = Screen(sys.stderr)
    for name, why in lineup.skipped.items():
        screen.say(f"not here: {name}: {why}")
    plan = Plan(1 if options.quick else options.rounds, options.seconds, options.quick, pairs)
    started = time.monotonic()

    def show(number: int, total: int, name: str) -> None:
        line = f"[{number}/{total}, {time.monotonic() - started:.0f} s] {name}"
        if screen.live:
            screen.show([line])
        else:
            screen.say(line)

    runner = Runner(plan, show, lambda text: screen.say(f"failed: {text}", "bad"))
    records: list[dict[str, Any]] = []
    try:
        for record in runner.run():
            records.append(record.as_dict())  # noqa: PERF401 - those before Ctrl-C count
    except KeyboardInterrupt:
        screen.say("ended early: the report has what was measured until now", "bad")
    screen.show([])
    data: dict[str, Any] = {
        "date": options.date,
        "machine": machine.describe(),
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "quick": plan.quick,
        "contestants": {c.name: c.version for c in lineup.contestants},
        "yardsticks": {c.name: c.yardstick for c in lineup.contestants},
        "skipped": dict(lineup.skipped),
        "records": records,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "results.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    for problem in report.write(options.output, data, [workload for workload, _ in pairs]):
        screen.say(problem)
    screen.say(f"{options.output / 'report.md'} after {time.monotonic() - started:.0f} s")
    return 1 if any(record["error"] for record in records) else 0


if __name__ == "__main__":
    sys.exit(main())
