"""Runner: many seeds, over several processes."""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, final

from .campaign import Outcome, run
from .plants import planted
from .scenario import Kind, Scenario, make
from .violation import Violation

__all__ = ["Backend", "Job", "run_all", "run_job"]

Backend = Literal["fast", "pure", "both"]
CHUNK: Final = 4  # seeds that a process takes at a time


@final
@dataclass(frozen=True, slots=True)
class Job:
    """One seed, and how it is run.

    Attributes:
        kind: Of the campaign.
        seed: Of everything.
        backend: "both": fast for even seeds, pure for odd ones.
        nodes: At most so many.
        plant: A bug on purpose; empty: none.
        kept: Which operations are left; None: all.
    """

    kind: Kind
    seed: int
    backend: Backend = "both"
    nodes: int = 8
    plant: str = ""
    kept: tuple[int, ...] | None = None

    @property
    def scenario(self) -> Scenario:
        """What it stands for."""
        backend = self.backend
        if backend == "both":
            backend = "pure" if self.seed % 2 else "fast"
        whole = make(self.kind, self.seed, backend, self.nodes)
        return whole if self.kept is None else whole.keep(self.kept)

    def command(self) -> str:
        """Return the line that does it again."""
        words = ["python -m tools.sim", self.kind, f"--seed {self.seed}"]
        words += [f"--backend {self.scenario.backend}", f"--nodes {self.nodes}"]
        if self.plant:
            words.append(f"--plant {self.plant}")
        if self.kept is not None:
            words.append(f"--keep {format_numbers(self.kept)}")
        return " ".join(words)


def format_numbers(numbers: Iterable[int]) -> str:
    """Return "1,3-5" for 1, 3, 4, 5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs) or "none"


def parse_numbers(text: str) -> tuple[int, ...]:
    """Return the numbers in "1,3-5"."""
    if text == "none":
        return ()
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return tuple(numbers)


def run_job(job: Job) -> Outcome:
    """Run one seed; a campaign that fails itself is a violation too."""
    logging.disable(logging.CRITICAL)  # nodes warn of what is done to them
    with planted(job.plant):
        try:
            return run(job.scenario)
        except Exception as error:
            return Outcome(job.seed, "crash", repr(Violation("crash", repr(error))), 0, 0, 0)
        finally:
            logging.disable(logging.NOTSET)


def run_all(jobs: Iterable[Job], processes: int, stop: Callable[[], bool]) -> Iterator[Outcome]:
    """Yield the outcomes, in no particular order.

    Args:
        jobs: What to do.
        processes: How many of them at the same time.
        stop: Asked after each; True ends it.
    """
    if processes == 1:
        for job in jobs:
            yield run_job(job)
            if stop():
                return
        return
    # Not forked: a node watches forks, and a process that was forked has the nodes of its parent.
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, _leave_signals) as pool:
        for outcome in pool.imap_unordered(run_job, jobs, chunksize=CHUNK):
            yield outcome
            if stop():
                return


def _leave_signals() -> None:
    """Ctrl-C is the parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
