"""Measure how long traffic stops when a relay or a link fails: ``python -m tools.failover``.

Each run adds what is missing to the results and writes the report of all of them, so that a long
measurement can be made in pieces: ``--seconds 200``, again and again. docs/benchmarks/README.md
says what is measured and how to read it.
"""

from __future__ import annotations

import argparse
import datetime
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatchcase
from pathlib import Path

from netcore.cli.screen import Screen
from tools.netlab import why_not

from . import report
from .contenders import CONTENDERS
from .layout import LAYOUTS
from .results import Case, Results
from .trial import FAULTS, Record, Trial

FOLDER = Path("docs/benchmarks")

Repetition = tuple[str, str, str, int]
Run = Callable[[str, str, str, int], Record | None]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the report."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C
    if arguments[:1] == ["calm"]:
        from .calm import main as calm

        return calm(arguments[1:])
    options = parse(arguments)
    screen = Screen(sys.stderr)
    options.output.mkdir(parents=True, exist_ok=True)
    results = Results(options.output / "failover.json", fresh=options.fresh)
    if options.note:
        results.note = options.note
        results.save()
    lab_reason = why_not()
    cases = list(choose(screen, options.only, lab_reason))
    failed = False
    if not options.report:
        try:
            failed = measure(screen, options, results, cases, isolated=lab_reason is None)
        except KeyboardInterrupt:
            screen.say("ended early: the report has what was measured until now", "bad")
    for problem in report.write(options.output, results, options.date):
        screen.say(problem)
    left = sum(len(results.missing(case, options.repetitions)) for case in cases)
    done = f"{left} repetitions are still missing" if left else "complete"
    screen.say(f"{options.output / 'failover.md'}: {done}")
    return 1 if failed else 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.failover",
        description=__doc__,
        epilog="`python -m tools.failover calm` runs over lossy links under load instead.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repetitions", type=int, default=20, help="of each case (default: 20)")
    parser.add_argument(
        "--only",
        metavar="SYSTEM[/LAYOUT[/FAULT]]",
        action="append",
        default=[],
        help="patterns such as 'netcore', '*/ring', 'zenoh/*/kill'; may be repeated",
    )
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="begin nothing new after this time"
    )
    parser.add_argument(
        "--at-once", type=int, default=1,
        help="networks side by side (default: 1); only for gaps of seconds, which bear it",
    )  # fmt: skip
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--note", default="", help="a sentence for the report, kept with it")
    parser.add_argument("--output", type=Path, default=FOLDER, metavar="FOLDER")
    parser.add_argument(
        "--date",
        default=datetime.date.today().isoformat(),
        help="as the report names it (default: today)",
    )
    return parser.parse_args(argv)


def choose(screen: Screen, only: Sequence[str], lab_reason: str | None) -> Iterator[Case]:
    """Yield the cases that are wanted and can be measured; say which cannot."""
    if lab_reason is not None:
        screen.say(f"not here: links dropped by nftables, namespaces: {lab_reason}")
    for contender in CONTENDERS.values():
        if contender.missing is not None:
            screen.say(f"not here: {contender.name}: {contender.missing}")
            continue
        for layout in LAYOUTS:
            for fault in FAULTS:
                case = contender.name, layout, fault
                if is_wanted(case, only) and (fault != "drop" or lab_reason is None):
                    yield case


def is_wanted(case: Case, only: Sequence[str]) -> bool:
    """Return whether one of the patterns is met, or there is none."""
    for pattern in only:
        parts = pattern.lower().split("/")
        if all(fnmatchcase(a.lower(), b or "*") for a, b in zip(case, parts, strict=False)):
            return True
    return not only


def measure(
    screen: Screen,
    options: argparse.Namespace,
    results: Results,
    cases: Sequence[Case],
    *,
    isolated: bool,
) -> bool:
    """Measure what is missing; return whether a repetition failed."""
    todo = [
        (*case, number)
        for number in range(options.repetitions)
        for case in cases
        if number in results.missing(case, options.repetitions)
    ]
    started, done, failed = time.monotonic(), 0, False

    def run(system: str, layout: str, fault: str, number: int) -> Record | None:
        if time.monotonic() - started > options.seconds:
            return None
        trial = Trial(CONTENDERS[system], LAYOUTS[layout], FAULTS[fault], number, isolated)
        return trial.run()

    for record in _side_by_side(run, todo, options.at_once):
        done += 1
        if record is None:
            continue
        results.add(record)
        failed |= bool(record.error)
        name = f"{record.system}, {record.layout}, {record.fault}"
        found = record.error or f"{'' if record.recovered else 'more than '}{record.ms:.1f} ms"
        line = f"[{done}/{len(todo)}, {time.monotonic() - started:.0f} s] {name}: {found}"
        if screen.live and not record.error:
            screen.show([line])
        else:
            screen.say(line, "bad" if record.error else "")
    screen.show([])
    return failed


def _side_by_side(run: Run, todo: Sequence[Repetition], at_once: int) -> Iterator[Record | None]:
    """Yield what comes of each, in the order of their ends."""
    if at_once <= 1:  # here, where Ctrl-C arrives and tears the network down at once
        yield from (run(*repetition) for repetition in todo)
        return
    with ThreadPoolExecutor(at_once) as pool:
        futures = [pool.submit(run, *repetition) for repetition in todo]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


if __name__ == "__main__":
    sys.exit(main())
