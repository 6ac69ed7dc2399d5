"""Fuzz the decoders, a live node, and the two backends against each other.

    python -m tools.fuzz                            every target, 100,000 inputs each
    python -m tools.fuzz frame record --inputs 10000000
    python -m tools.fuzz hello --seed 7             other inputs
    python -m tools.fuzz plane --replay FILE        what a run has written
    python -m tools.fuzz header --guided            by coverage: needs clang and atheris
    python -m tools.fuzz --write-corpus             make the seeds in tests/corpus anew

docs/testing.md says what each target checks. Ends with 1 when something did not hold: the input is
in a file then, and the line that replays it is printed.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from netcore import BACKEND
from netcore.cli.screen import Screen

from .corpus import write_corpus, write_crash
from .engine import Engine, Outcome, replay
from .guided import run_apart
from .targets import TARGETS, make_target

FOUND = Path("build/fuzz-found")


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for."""
    options = _parse(argv)
    names = options.targets or list(TARGETS)
    if options.write_corpus:
        for name in names:
            write_corpus(name, make_target(name).seeds())
        return 0
    if options.replay is not None:
        print(names[0], replay(make_target(names[0], options.backend), options.replay))
        return 0
    if options.guided:
        arguments = options.inputs, options.seconds, options.seed, options.output
        return max(run_apart(name, *arguments) for name in names)
    with Screen() as screen:
        failed = [name for name in names if not _run(name, options, screen)]
    return 1 if failed else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--inputs", type=int, default=100_000, help="for each (default: 100000)")
    parser.add_argument(
        "--seconds", type=int, default=0, help="at most so long for each (default: 0, as it takes)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (default: 0)")
    parser.add_argument("--backend", choices=("fast", "pure"), default=BACKEND)
    parser.add_argument("--guided", action="store_true", help="by coverage, with atheris")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run this input again")
    parser.add_argument("--output", type=Path, default=FOUND, help="where findings are written")
    parser.add_argument("--write-corpus", action="store_true", help="make tests/corpus anew")
    options = parser.parse_args(argv)
    unknown = sorted(set(options.targets) - set(TARGETS))
    if unknown:
        parser.error(f"no target {unknown[0]}; there are {', '.join(TARGETS)}")
    if options.replay is not None and len(options.targets) != 1:
        parser.error("--replay wants the one target that the file is for")
    return options


def _run(name: str, options: argparse.Namespace, screen: Screen) -> bool:
    """Run one target; return whether everything held."""
    target = make_target(name, options.backend)
    begin_s, begin_cpu_s = time.monotonic(), time.process_time()

    def show(outcome: Outcome) -> None:
        screen.show([_bar(name, outcome, options.inputs, time.monotonic() - begin_s)])

    outcome = Engine(target, options.seed).run(options.inputs, show, options.seconds)
    cpu_s = time.process_time() - begin_cpu_s
    screen.show([])
    text = (
        f"{name:>9}: {outcome.inputs:,} inputs, {100 * outcome.accepted // outcome.inputs} % valid,"
        f" {cpu_s:.0f} s of CPU, {outcome.inputs / cpu_s:,.0f}/s,"
        f" slowest {outcome.slowest_ms:.1f} ms,"
        f" most memory {outcome.peak_bytes >> 10:,} KiB"
    )
    screen.say(text, "good" if outcome.error is None else "bad")
    if outcome.error is not None:
        path = write_crash(name, outcome.data, options.output)
        screen.say("".join(traceback.format_exception(outcome.error)), "bad")
        pure = " --backend pure" if options.backend == "pure" else ""
        screen.say(f"python -m tools.fuzz {name}{pure} --replay {path}", "bad")
    return outcome.error is None


def _bar(name: str, outcome: Outcome, inputs: int, seconds: float) -> str:
    full = 30 * outcome.inputs // inputs
    left_s = seconds / outcome.inputs * (inputs - outcome.inputs)
    return f"{name:>9} [{'#' * full + '.' * (30 - full)}] {outcome.inputs:,}  {left_s:.0f} s left"


if __name__ == "__main__":
    sys.exit(main())
