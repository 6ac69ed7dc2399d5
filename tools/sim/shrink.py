"""Shrink: the fewest operations that still break the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .campaign import Outcome
from .runner import Job, run_job

__all__ = ["shrink"]


def shrink(job: Job, tell: Callable[[int, int], object] = lambda left, runs: None) -> Job:
    """Return the job with as few operations as possible; itself when it does not fail.

    First what came too late to matter, then nodes with all that concerns them, then anything, in
    halves, quarters and so on. What is left keeps every part of the network connected: else
    liveness could not be asked for.

    Args:
        job: That fails.
        tell: Is given how many operations are left, and how many runs were made.
    """
    first = run_job(job)
    if not first.kind:
        return job
    search = _Search(job, first, tell)
    search.drop_later(first.now_ms)
    before = -1
    while len(search.kept) != before:
        before = len(search.kept)
        search.drop_nodes()
        search.drop_pieces()
    return search.job


class _Search:
    """What is left, and the runs that show that it still fails."""

    def __init__(self, job: Job, first: Outcome, tell: Callable[[int, int], object]) -> None:
        whole = replace(job, kept=None).scenario.operations
        self.operations: dict[int, list[Any]] = dict(enumerate(whole))
        self.job = replace(job, kept=job.kept if job.kept is not None else tuple(range(len(whole))))
        self._kind = first.kind
        self._tell = tell
        self._runs = 1

    @property
    def kept(self) -> tuple[int, ...]:
        """What is left."""
        return self.job.kept or ()

    def drop_later(self, now_ms: int) -> None:
        """Leave out what came after the violation."""
        self._try([number for number in self.kept if self.operations[number][0] <= now_ms])

    def drop_nodes(self) -> None:
        """Leave out nodes with all that concerns them."""
        for number in self.kept:
            _, name, args = self.operations[number]
            if name == "add_node" and number in self.kept:
                self._try([n for n in self.kept if not _concerns(self.operations[n], args)])

    def drop_pieces(self) -> None:
        """Leave out anything, large pieces first."""
        size = len(self.kept)
        while size := size // 2:
            at = 0
            while at < len(self.kept):
                if not self._try([*self.kept[:at], *self.kept[at + size :]]):
                    at += size

    def _try(self, numbers: list[int]) -> bool:
        """Leave only these if it fails in the same way."""
        job = replace(self.job, kept=tuple(numbers))
        if len(numbers) == len(self.kept) or not job.scenario.is_connected:
            return False
        self._runs += 1
        fails = run_job(job).kind == self._kind
        if fails:
            self.job = job
        self._tell(len(self.kept), self._runs)
        return fails


def _concerns(operation: list[Any], added: dict[str, Any]) -> bool:
    args = operation[2]
    return added["node_id"] in (args.get(key) for key in ("node_id", "a", "b", "node"))
