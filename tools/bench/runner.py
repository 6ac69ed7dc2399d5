"""Rounds: every contestant at every workload, one after the other, again and again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .lineup import Contestant
from .measure import MeasurementError, Results, cores, measure
from .workloads import Workload

__all__ = ["Plan", "Record", "Runner"]

#: A probe must have taken this share of the wanted time to be believed.
_TELLING: Final = 0.1
_PROBES: Final = 3
_WARMUP_SHARE: Final = 0.1

#: A measurement that took longer than this is not repeated: the run must end.
_SLOW_S: Final = 20.0

#: After so many a contestant is not asked for this workload again.
_FAILURES: Final = 2

#: A single process is started this often per round, because each start takes its own time.
_REPEATS: Final = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does.

    Attributes:
        rounds: How often everything is measured.
        seconds: How long a measurement should take.
        quick: Only show that everything works: few messages, no probes, few idle links.
        pairs: What to measure, by workload.
    """

    rounds: int
    seconds: float
    quick: bool
    pairs: Sequence[tuple[Workload, Sequence[Contestant]]]


@dataclass(slots=True)
class Record:
    """One measurement, as it goes into the JSON.

    Attributes:
        round: From 1.
        workload: Its key.
        contestant: Its name.
        messages: As asked for.
        results: What each process said, by role; empty when it failed.
        error: Why it failed, or "".
    """

    round: int
    workload: str
    contestant: str
    messages: int = 0
    results: Results = field(default_factory=dict)
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {name: getattr(self, name) for name in self.__slots__}


class Runner:
    """Carries out a plan.

    Args:
        plan: What to do.
        show: Told before each measurement: its number, of how many, and its name.
        report: Told of each failure.
    """

    def __init__(
        self,
        plan: Plan,
        show: Callable[[int, int, str], None],
        report: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._show = show
        self._report = report
        self._counts: dict[tuple[str, str], int] = {}
        self._slow: set[tuple[str, str]] = set()
        self._failures: Counter[tuple[str, str]] = Counter()

    def run(self) -> Iterator[Record]:
        """Yield every measurement when it is done."""
        plan = self._plan
        total = plan.rounds * sum(len(contestants) for _, contestants in plan.pairs)
        number = 0
        for round_number in range(1, plan.rounds + 1):
            for workload, contestants in plan.pairs:
                for contestant in contestants:
                    number += 1
                    if (workload.key, contestant.name) in self._slow:
                        continue
                    record = Record(round_number, workload.key, contestant.name)
                    name = f"round {round_number}/{plan.rounds}: {workload.title}: "
                    self._show(number, total, name + contestant.name)
                    self._fill(record, contestant, workload)
                    yield record

    def _fill(self, record: Record, contestant: Contestant, workload: Workload) -> None:
        started = time.monotonic()
        self._try(record, contestant, workload)
        if time.monotonic() - started > _SLOW_S:
            self._slow.add((workload.key, contestant.name))

    def _try(self, record: Record, contestant: Contestant, workload: Workload) -> None:
        key = workload.key, contestant.name
        if self._failures[key] >= _FAILURES:
            record.error = "given up"
            return
        try:
            record.messages = self._count(contestant, workload)
            record.results = self._measure(contestant, workload, record.messages)
        except MeasurementError as error:
            record.error = str(error)
            self._report(f"{workload.title}: {contestant.name}: {error}")
            self._failures[key] += 1
            return
        self._adapt(key, workload, record)

    def _measure(self, contestant: Contestant, workload: Workload, messages: int) -> Results:
        if len(workload.roles) > 1 or self._plan.quick or workload.kind == "lookup":
            return measure(contestant, workload, messages, _warmup(workload, messages))
        runs = [measure(contestant, workload, messages, 1) for _ in range(_REPEATS)]
        role = workload.roles[0]
        return {role: min((run[role] for run in runs), key=lambda fields: fields["seconds"])}

    # -- how many messages ---------------------------------------------------------------------

    def _count(self, contestant: Contestant, workload: Workload) -> int:
        """Return how many messages take about the wanted time."""
        key = workload.key, contestant.name
        if self._plan.quick or workload.fixed:
            return self._round(workload, workload.first)
        if key not in self._counts:
            self._counts[key] = self._probe(contestant, workload)
        return self._counts[key]

    def _probe(self, contestant: Contestant, workload: Workload) -> int:
        count = self._round(workload, workload.first)
        for _ in range(_PROBES):
            results = measure(contestant, workload, count, _warmup(workload, count))
            seconds = max(1e-6, seconds_of(results))
            wanted = count * self._plan.seconds / seconds
            if seconds > _TELLING * self._plan.seconds:
                return self._round(workload, wanted)
            # A first run is slower than the following ones: do not believe it far.
            count = self._round(workload, min(wanted * _TELLING * 3, count * 50))
        return self._round(workload, wanted)

    def _adapt(self, key: tuple[str, str], workload: Workload, record: Record) -> None:
        """Learn from a round for the next one."""
        seconds = seconds_of(record.results)
        if key in self._counts and seconds > 0:
            factor = min(4.0, max(0.25, self._plan.seconds / seconds))
            if not 0.6 < factor < 1.6:
                self._counts[key] = self._round(workload, self._counts[key] * factor)

    def _round(self, workload: Workload, count: float) -> int:
        step = workload.step
        bounded = max(step, min(workload.most, int(count)))
        return bounded // step * step


def seconds_of(results: Results) -> float:
    """Return how long the messages took: as the slowest process saw it."""
    return max((float(fields.get("seconds", 0)) for fields in results.values()), default=0.0)


def _warmup(workload: Workload, messages: int) -> int:
    step = workload.step
    return max(step, int(messages * _WARMUP_SHARE) // step * step)


def can_place(workload: Workload) -> bool:
    """Return whether there are enough cores for it."""
    return workload.placement != "two" or len(cores()) > 1
