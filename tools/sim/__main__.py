"""Random networks under random faults: ``python -m tools.sim safety|liveness|shrink|speed``.

    python -m tools.sim safety --seeds 200           200 seeds; says what must hold and did not
    python -m tools.sim liveness --seeds 200 --jobs 2
    python -m tools.sim safety --seed 17             one seed again
    python -m tools.sim shrink safety --seed 17      the fewest operations that fail like it
    python -m tools.sim safety --seeds 200 --plant forget-ttl    a bug on purpose
    python -m tools.sim speed                        how fast virtual time passes, on each backend
    python -m tools.sim speed crowd --backend fast --seconds 60

docs/guide.md, "Simulated networks", says what is checked. Ends with 1 when something did not hold.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from netcore import BACKEND
from netcore._backend import BackendName
from netcore.cli.screen import Screen

from .campaign import Outcome
from .plants import PLANTS
from .runner import Job, parse_numbers, run_all, run_job
from .shrink import shrink
from .speed import CASES, Speed, measure

MOST_SHOWN = 20  # violations; more are only counted


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for."""
    options = _parse(argv)
    with Screen() as screen:
        if options.what == "shrink":
            return _shrink(options, screen)
        if options.what == "speed":
            return _speed(options, screen)
        return _campaign(options, screen)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.sim",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="what", required=True)
    for what in ("safety", "liveness", "shrink"):
        command = commands.add_parser(what)
        if what == "shrink":
            command.add_argument("kind", choices=("safety", "liveness"))
        _add_options(command, is_shrink=what == "shrink")
    speed = commands.add_parser("speed")
    speed.add_argument("cases", nargs="*", metavar="case", help=f"of {', '.join(CASES)}; all")
    speed.add_argument("--backend", choices=("fast", "pure", "both"), default=_default_backend())
    speed.add_argument("--nodes", type=int, default=0, help="how many (default: as the case has)")
    speed.add_argument("--seconds", type=int, help="of virtual time (default: as the case has)")
    options = parser.parse_args(argv)
    if unknown := {*getattr(options, "cases", ())} - CASES.keys():
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(CASES)}")
    return options


def _default_backend() -> str:
    return "both" if BACKEND == "fast" else "pure"


def _add_options(command: argparse.ArgumentParser, *, is_shrink: bool) -> None:
    command.add_argument("--seed", type=int, required=is_shrink, help="this one only")
    if not is_shrink:
        command.add_argument("--seeds", type=int, default=200, help="how many (default: 200)")
        command.add_argument("--first", type=int, default=0, help="the first one (default: 0)")
        command.add_argument("--seconds", type=float, default=0, help="at most so long, about")
        command.add_argument(
            "--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: as CPUs)"
        )
        command.add_argument(
            "--fail-fast", action="store_true", help="end with the first violation"
        )
    command.add_argument(
        "--backend",
        choices=("fast", "pure", "both"),
        default=_default_backend(),
        help="both: fast for even seeds, pure for odd ones",
    )
    command.add_argument("--nodes", type=int, default=8, help="at most (default: 8)")
    command.add_argument("--plant", choices=sorted(PLANTS), default="", help="a bug on purpose")
    command.add_argument("--keep", type=parse_numbers, help="these operations only, as 0-4,9")


def _campaign(options: argparse.Namespace, screen: Screen) -> int:
    job = Job(options.what, 0, options.backend, options.nodes, options.plant, options.keep)
    seeds = range(options.first, options.first + options.seeds)
    if options.seed is not None:
        seeds = range(options.seed, options.seed + 1)
    begin_s = time.monotonic()
    done: list[Outcome] = []
    failed: list[Outcome] = []

    def is_over() -> bool:
        late = options.seconds and time.monotonic() - begin_s > options.seconds
        return bool(late or (failed and options.fail_fast))

    processes = min(options.jobs, len(seeds))
    for outcome in run_all((replace(job, seed=seed) for seed in seeds), processes, is_over):
        done.append(outcome)
        if outcome.kind:
            failed.append(outcome)
            if len(failed) <= MOST_SHOWN:
                _report(screen, replace(job, seed=outcome.seed), outcome)
        screen.show([_bar(len(done), len(seeds), len(failed), time.monotonic() - begin_s)])
    screen.close()
    settled_ms = max((outcome.settled_ms for outcome in done), default=0)
    settled = f"tables right after {settled_ms} ms at most, " if options.what == "liveness" else ""
    hours = sum(outcome.now_ms for outcome in done) / 3_600_000
    screen.say(
        f"{options.what}: {len(done)} seeds, {len(failed)} violations; "
        f"{sum(outcome.sent for outcome in done)} messages and calls in {hours:.1f} virtual hours, "
        f"{settled}{time.monotonic() - begin_s:.0f} s",
        "bad" if failed else "good",
    )
    return 1 if failed else 0


def _bar(done: int, total: int, failed: int, seconds: float) -> str:
    full = 30 * done // total
    left_s = seconds / done * (total - done)
    bar = "#" * full + "." * (30 - full)
    return f"[{bar}] {done}/{total}  violations: {failed}  {left_s:.0f} s left"


def _report(screen: Screen, job: Job, outcome: Outcome) -> None:
    screen.say(f"seed {outcome.seed}: {outcome.kind}: {outcome.text}", "bad")
    screen.say(f"  {job.command()}")


def _shrink(options: argparse.Namespace, screen: Screen) -> int:
    job = Job(
        options.kind, options.seed, options.backend, options.nodes, options.plant, options.keep
    )
    found = shrink(job, lambda left, runs: screen.show([f"{left} operations left, {runs} runs"]))
    screen.close()
    outcome = run_job(found)
    if not outcome.kind:
        screen.say(f"seed {options.seed} does not fail: {job.command()}", "good")
        return 0
    for when_ms, name, args in found.scenario.operations:
        said = " ".join(f"{key}={value!r}" for key, value in args.items())
        screen.say(f"{when_ms:>7} {name} {said}")
    _report(screen, found, outcome)
    return 1


def _speed(options: argparse.Namespace, screen: Screen) -> int:
    backends: tuple[BackendName, ...] = (
        ("fast", "pure") if options.backend == "both" else (options.backend,)
    )
    for case in options.cases or CASES:
        for backend in backends:
            for found in measure(case, backend, nodes=options.nodes, virtual_s=options.seconds):
                if isinstance(found, Speed):
                    screen.say(found.text)
                else:
                    screen.show([f"{case} {backend}: {found:.0%}"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
