"""Runner: what is measured, as jobs, over several processes."""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from typing import Any, Final, final

from .calm import look, move, shake
from .faults import FAULTS, provoke
from .lab import Lab, without_losses

__all__ = ["Job", "jobs_of", "run_all", "run_job"]

#: What is measured besides faults.
CALM, JITTER, MOVES = "calm", "jitter", "moves"
#: The faults that are shown without naming losses as well.
UNNAMED: Final = ("node killed", "power failure of a node", "link cut")
MOST_SHAKEN: Final = 20  # nodes; five minutes of more take long


@final
@dataclass(frozen=True, slots=True)
class Job:
    """One network and what happens to it.

    Attributes:
        whats: Faults, and the constants; one after the other.
        seed: Of everything.
        nodes: Of the network.
        count: How often each of them.
        no_losses: Nobody names lost links.
    """

    whats: tuple[str, ...]
    seed: int
    nodes: int
    count: int
    no_losses: bool = False

    def only(self, patterns: Sequence[str]) -> Job:
        """Return what is left of it when only that is asked for which fits a pattern."""
        whats = (what for what in self.whats if any(fnmatch(what, p) for p in patterns))
        return replace(self, whats=tuple(whats))


def jobs_of(seeds: Sequence[int], nodes: int, count: int) -> list[Job]:
    """Return everything there is to measure, the long ones first."""
    jobs = [Job(tuple(FAULTS), seed, nodes, count) for seed in seeds]
    jobs += [Job((CALM, MOVES), seed, nodes, count) for seed in seeds]
    jobs.append(Job(UNNAMED, seeds[0], nodes, count, no_losses=True))
    jobs += [Job((JITTER,), seed, min(MOST_SHAKEN, nodes), 1) for seed in seeds]
    return jobs


def run_job(job: Job) -> list[dict[str, Any]]:
    """Return what came of a job, as plain values, for each of its parts."""
    logging.disable(logging.CRITICAL)  # nodes warn of what is done to them
    try:
        with without_losses(job.no_losses):
            lab = Lab(job.seed, job.nodes)
            return [
                {
                    "what": what,
                    "seed": job.seed,
                    "nodes": job.nodes,
                    "count": job.count,
                    "no_losses": job.no_losses,
                    "results": _results(lab, what, job),
                }
                for what in job.whats
            ]
    finally:
        logging.disable(logging.NOTSET)


def _results(lab: Lab, what: str, job: Job) -> list[Any]:
    if what == CALM:
        return [asdict(look(lab))]
    if what == JITTER:
        return [shake(lab)]
    if what == MOVES:
        return move(lab, job.count).moved_ms
    return [asdict(provoke(lab, what)) for _ in range(job.count)]


def run_all(jobs: Sequence[Job], processes: int) -> Iterator[list[dict[str, Any]]]:
    """Yield what came of each job, in no particular order."""
    if processes == 1:
        yield from map(run_job, jobs)
        return
    # Not forked: a node watches forks, and a process that was forked has the nodes of its parent.
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, _leave_signals) as pool:
        yield from pool.imap_unordered(run_job, jobs)


def _leave_signals() -> None:
    """Ctrl-C is the parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
