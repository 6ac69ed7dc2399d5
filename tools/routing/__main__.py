"""How well netcore routes: ``python -m tools.routing``; writes a report into docs/benchmarks.

    python -m tools.routing                     everything, some minutes
    python -m tools.routing --quick             one small network: shows that everything works
    python -m tools.routing --only 'node*'      these faults only; patterns, may be repeated

The report says what is counted. Ends with 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from netcore.cli.screen import Screen

from .report import targets, write
from .runner import jobs_of, run_all

FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the arguments ask for."""
    options = _parse(argv)
    jobs = jobs_of(range(1, options.seeds + 1), options.nodes, options.count)
    if options.only:
        jobs = [job for job in (job.only(options.only) for job in jobs) if job.whats]
    if not jobs:
        print("nothing is called so")
        return 2
    begin_s = time.monotonic()
    results = []
    with Screen() as screen:
        for done, found in enumerate(run_all(jobs, min(options.jobs, len(jobs))), 1):
            results += found
            screen.show([_bar(done, len(jobs), time.monotonic() - begin_s)])
        screen.close()
        for problem in write(options.output, results, options.date):
            screen.say(problem, "bad")
        seen = targets(results)
        for what, value, target, is_met in seen:
            screen.say(f"{what}: {value} (target {target})", "good" if is_met else "bad")
    return 0 if all(is_met for *_, is_met in seen) else 1


def _bar(done: int, total: int, seconds: float) -> str:
    full = 30 * done // total
    left_s = seconds / done * (total - done)
    return f"[{'#' * full}{'.' * (30 - full)}] {done}/{total}  {left_s:.0f} s left"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.routing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=3, help="networks (default: 3)")
    parser.add_argument("--nodes", type=int, default=100, help="of each network (default: 100)")
    parser.add_argument(
        "--count", type=int, default=4, help="faults of a kind in each (default: 4)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one network of 12 nodes, one fault each"
    )
    parser.add_argument("--only", action="append", help="what to measure; a pattern")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: as CPUs)"
    )
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the report")
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"), help="in the report")
    options = parser.parse_args(argv)
    if options.quick:
        options.seeds, options.nodes, options.count, options.jobs = 1, 12, 1, 1
    return options


if __name__ == "__main__":
    sys.exit(main())
