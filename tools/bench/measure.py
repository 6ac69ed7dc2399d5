"""One measurement: its processes, from their start to their results."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from .lineup import Contestant
from .workloads import Workload

__all__ = ["MeasurementError", "Results", "cores", "measure"]

#: Role -> the result line of its process.
Results = dict[str, dict[str, Any]]

REPO: Final = Path(__file__).resolve().parents[2]
START_S: Final = 20.0
END_S: Final = 15.0


class MeasurementError(Exception):
    """A process failed, or took too long; the text says which and why."""


def cores() -> list[int]:
    """Return the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


class _Worker:
    """One process and its lines."""

    def __init__(self, contestant: Contestant, role: str, options: Mapping[str, object]) -> None:
        self.role = role
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by end()
        self._read = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", contestant.module, role]
            + [f"{key}={value}" for key, value in options.items()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=REPO,
            env={**os.environ, **contestant.environ},
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def line(self, deadline: float) -> dict[str, Any]:
        """Return the next line."""
        assert self._process.stdout is not None
        out = self._process.stdout.fileno()
        while b"\n" not in self._read:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([out], [], [], left)[0]:
                raise MeasurementError(f"{self.role}: took too long{self._last_words()}")
            data = os.read(out, 1 << 16)
            if not data:
                raise MeasurementError(f"{self.role}: ended{self._last_words()}")
            self._read += data
        text, _, self._read = self._read.partition(b"\n")
        try:
            fields: dict[str, Any] = json.loads(text)
        except ValueError:
            raise MeasurementError(f"{self.role}: wrote {text[:80]!r}") from None
        return fields

    def go(self) -> None:
        """Let a client begin."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b"go\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise MeasurementError(f"{self.role}: ended{self._last_words()}") from None

    def end(self, patience_s: float) -> None:
        """Wait for the process, not for long, and clear up after it and its children."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_s)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1].strip()}" if lines else ""


def measure(contestant: Contestant, workload: Workload, messages: int, warmup: int) -> Results:
    """Run the processes of one measurement.

    Raises:
        MeasurementError: It did not come to an end as it should.
    """
    workers: list[_Worker] = []
    patience = 0.2
    try:
        _start(workers, contestant, workload, messages, warmup)
        deadline = time.monotonic() + workload.limit_s
        for worker in workers:
            if not _listens(worker, workload):
                worker.go()
        results = {}
        for worker in reversed(workers):  # the client knows first when something is wrong
            results[worker.role] = worker.line(deadline)
            deadline = min(deadline, time.monotonic() + END_S)
        patience = 2.0
        return results
    finally:
        for worker in workers:
            worker.end(patience)


def _listens(worker: _Worker, workload: Workload) -> bool:
    return len(workload.roles) > 1 and worker.role != workload.roles[-1]


def _start(
    workers: list[_Worker], contestant: Contestant, workload: Workload, messages: int, warmup: int
) -> None:
    """Start one process after the other, each with the address of the one before."""
    options: dict[str, object] = {
        "size": workload.size, "messages": messages, "warmup": warmup,
        **workload.options, **contestant.options,
    }  # fmt: skip
    for index, role in enumerate(workload.roles):
        own = {**options, **_pinned(workload, index)}
        workers.append(_Worker(contestant, role, own))
        answer = workers[-1].line(time.monotonic() + START_S)
        if not answer.get("ready"):
            raise MeasurementError(f"{role}: said {answer} instead of being ready")
        if "addr" in answer:
            options["addr"] = answer["addr"]


def _pinned(workload: Workload, index: int) -> dict[str, object]:
    if workload.placement == "any":
        return {}
    allowed = cores()
    if workload.placement == "first":
        return {"cpu": allowed[min(index, 1, len(allowed) - 1)]}
    return {"cpu": allowed[index % len(allowed) if workload.placement == "two" else 0]}
