"""Runner: what is measured, as jobs, over several processes."""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

from .calm import look, move, shake
from .faults import FAULTS, provoke
from .lab import Lab, without_losses

__all__ = ["Job", "jobs_of", "run_all", "run_job"]

#: What is measured besides faults.
CALM, JITTER, MOVES = "calm", "jitter", "moves"


@final
@dataclass(frozen=True, slots=True)
class Job:
    """One network and what happens to it.

    Attributes:
        what: A fault, or one of the constants.
        seed: Of everything.
        nodes: Of the network.
        count: How often.
        no_losses: Nobody names lost links.
    """

    what: str
    seed: int
    nodes: int
    count: int
    no_losses: bool = False


def jobs_of(seeds: Sequence[int], nodes: int, count: int) -> list[Job]:
    """Return everything there is to measure, the long ones first."""
    shaken = min(20, nodes)
    jobs = [Job(JITTER, seed, shaken, 1) for seed in seeds]
    jobs += [Job(what, seed, nodes, count) for what in (*FAULTS, MOVES) for seed in seeds]
    jobs += [Job(CALM, seed, nodes, 1) for seed in seeds]
    jobs += [Job(what, seeds[0], nodes, count, no_losses=True) for what in FAULTS]
    return jobs


def run_job(job: Job) -> dict[str, Any]:
    """Return the job and what came of it, as plain values."""
    logging.disable(logging.CRITICAL)  # nodes warn of what is done to them
    with without_losses(job.no_losses):
        lab = Lab(job.seed, job.nodes)
        results: list[Any]
        if job.what == CALM:
            results = [asdict(look(lab))]
        elif job.what == JITTER:
            results = [shake(lab)]
        elif job.what == MOVES:
            results = move(lab, job.count).moved_ms
        else:
            results = [asdict(provoke(lab, job.what)) for _ in range(job.count)]
    return {**asdict(job), "results": results}


def run_all(jobs: Sequence[Job], processes: int) -> Iterator[dict[str, Any]]:
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
