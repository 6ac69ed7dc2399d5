"""What a fuzz target is, and what it says when something is wrong."""

from __future__ import annotations

import abc
import random
from collections.abc import Sequence
from types import ModuleType
from typing import ClassVar


class Finding(AssertionError):
    """Something that must hold did not."""


def require(condition: object, *details: object) -> None:
    """Raise a finding unless the condition holds."""
    if not condition:
        raise Finding(" ".join(map(str, details)))


class Target(abc.ABC):
    """A decoder with what must hold for whatever bytes come.

    ``run`` catches the errors that are documented; any other exception is a bug. A target that
    keeps something from one input to the next names the number of inputs after which it begins
    anew, ``session``: its inputs are replayed together.

    Attributes:
        name: What it is called on the command line and in tests/corpus.
        session: Inputs between two calls of ``reset``; 0: an input stands for itself.
    """

    name: ClassVar[str]
    session: ClassVar[int] = 0

    def __init__(self, kernels: ModuleType) -> None:
        self.kernels = kernels
        self._seeds: Sequence[bytes] | None = None

    def reset(self) -> None:  # noqa: B027  # most have nothing to do
        """Begin anew."""

    def finish(self) -> None:  # noqa: B027
        """Check what must hold at the end of a session."""

    @abc.abstractmethod
    def seeds(self) -> Sequence[bytes]:
        """Return inputs that ``run`` takes, one of each kind; they are what tests/corpus has."""

    def generate(self, rnd: random.Random) -> bytes:
        """Return an input that makes sense, or nearly; by default one of the seeds."""
        return self.some_seed(rnd)

    def some_seed(self, rnd: random.Random) -> bytes:
        """Return one of the seeds, which are made once."""
        if self._seeds is None:
            self._seeds = self.seeds()
        return self._seeds[int(rnd.random() * len(self._seeds))]

    @abc.abstractmethod
    def run(self, data: bytes) -> bool:
        """Decode; return whether it was all right, False after a documented error.

        Raises:
            Finding: Something that must hold does not.
        """


class Reader:
    """Takes numbers off an input; behind its end there are zeros."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def __bool__(self) -> bool:
        return self.at < len(self.data)

    def byte(self) -> int:
        """Return the next byte."""
        at = self.at
        self.at = at + 1
        return self.data[at] if at < len(self.data) else 0

    def number(self, size: int) -> int:
        """Return the next ``size`` bytes as a number."""
        return int.from_bytes(self.take(size), "big")

    def take(self, size: int) -> bytes:
        """Return the next bytes, as many as there are of ``size``."""
        part = self.data[self.at : self.at + size]
        self.at += size
        return part

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.take(max(0, len(self.data) - self.at))
