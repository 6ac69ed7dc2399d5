"""The built-in engine: seeded mutations of the corpus, without any extra.

Each input gets its processor time measured, and memory in two ways: what Python and the kernels
allocate, exactly, for one input in ``TRACED_EVERY``; and the resident size of the process, which
must not have grown by more in the end.
"""

from __future__ import annotations

import gc
import math
import random
import resource
import time
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .corpus import load_corpus, read_session, session_bytes
from .mutate import mutate
from .target import Finding, Target

MOST_MS = 50
MOST_BYTES = 64 << 20
TRACED_EVERY = 997
TRIES = 5  # a slow input is slow each time: the machine may have been busy
LONG_BYTES = 4_096
SHOWN_EVERY = 4_096


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run.

    Attributes:
        inputs: How many were run.
        accepted: How many of them were all right.
        slowest_ms: Processor time of the slowest one.
        peak_bytes: The most that one of the traced ones had allocated.
        error: What was wrong, None when nothing was.
        data: What led to it: an input, or all of its session.
    """

    inputs: int
    accepted: int
    slowest_ms: float
    peak_bytes: int
    error: Exception | None = None
    data: bytes = b""


class Engine:
    """Runs one target."""

    def __init__(self, target: Target, seed: int = 0) -> None:
        self._target = target
        self._rnd = random.Random(seed << 32 | zlib.crc32(target.name.encode()))
        self._corpus: Sequence[bytes] = load_corpus(target.name) or target.seeds()
        self._session: list[bytes] = []
        self._inputs = self._accepted = self._peak_bytes = 0
        self._slowest_ns = 0

    def run(
        self,
        inputs: int,
        show: Callable[[Outcome], object] | None = None,
        seconds: float = 0,
    ) -> Outcome:
        """Run so many inputs, or until the first one that is wrong, or the time is over, if any."""
        before = _resident_bytes()
        end_s = time.monotonic() + (seconds or math.inf)
        self._target.reset()
        try:
            while self._inputs < inputs:
                self._step()
                if self._inputs % SHOWN_EVERY == 0:
                    if show is not None:
                        show(self._outcome())
                    if time.monotonic() >= end_s:
                        break
            self._target.finish()
            grown = _resident_bytes() - before
            if grown > MOST_BYTES:
                raise Finding(f"the process grew by {grown >> 20} MiB")
        except Exception as error:  # whatever it is, it is what is looked for
            data = session_bytes(self._session) if self._target.session else self._session[-1]
            return self._outcome(error, data)
        return self._outcome()

    def _outcome(self, error: Exception | None = None, data: bytes = b"") -> Outcome:
        slowest_ms = self._slowest_ns / 1e6
        return Outcome(self._inputs, self._accepted, slowest_ms, self._peak_bytes, error, data)

    def _step(self) -> None:
        target, session = self._target, self._session
        if not target.session:
            session.clear()
        elif len(session) >= target.session:
            target.finish()
            session.clear()
            target.reset()
        data = self._next_input()
        session.append(data)
        self._inputs += 1
        if self._inputs % TRACED_EVERY == 0:
            self._accepted += self._run_traced(data)
            return
        begin_ns = time.thread_time_ns()
        self._accepted += target.run(data)
        taken_ns = time.thread_time_ns() - begin_ns
        if taken_ns > self._slowest_ns:
            if taken_ns > MOST_MS * 1_000_000:
                taken_ns = self._again_ns(data, taken_ns)
            self._slowest_ns = max(taken_ns, self._slowest_ns)

    def _next_input(self) -> bytes:
        rnd = self._rnd
        draw = rnd.random()
        # A session needs few seeds: their purpose is to begin with what is valid.
        if draw < (0.9 if self._target.session else 0.5):
            data = self._target.generate(rnd)
        else:
            data = self._corpus[int(rnd.random() * len(self._corpus))]
            if len(data) > LONG_BYTES and draw < 0.99:
                data = self._corpus[0]  # long ones cost more than they find
        return mutate(data, rnd, self._corpus) if draw < 0.1 or draw >= 0.2 else data

    def _again_ns(self, data: bytes, taken_ns: int) -> int:
        """Return how long an input takes that took too long once."""
        if self._target.session:
            return taken_ns  # no second time: the state is another one now
        for _ in range(TRIES):
            gc.collect()
            begin_ns = time.thread_time_ns()
            self._target.run(data)
            taken_ns = min(taken_ns, time.thread_time_ns() - begin_ns)
        if taken_ns > MOST_MS * 1_000_000:
            raise Finding(f"it takes {taken_ns / 1e6:.0f} ms")
        return taken_ns

    def _run_traced(self, data: bytes) -> bool:
        if tracemalloc.is_tracing():
            return self._target.run(data)
        tracemalloc.start()
        try:
            is_good = self._target.run(data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        self._peak_bytes = max(peak, self._peak_bytes)
        if peak > MOST_BYTES:
            raise Finding(f"it takes {peak >> 20} MiB")
        return is_good


def replay(target: Target, path: Path) -> list[bool]:
    """Run what a file has: one input, or a session of them; return which were all right."""
    data = path.read_bytes()
    inputs = read_session(data) if target.session else None
    target.reset()
    found = [target.run(each) for each in (inputs or [data])]
    target.finish()
    return found


def _resident_bytes() -> int:
    """Return the most that was resident so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024
