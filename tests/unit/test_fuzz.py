"""The fuzzers of tools/fuzz: their seeds decode, and thousands of inputs each find nothing."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest

from netcore import _backend, wire
from netcore.errors import FrameError
from netcore.services import sync_wire
from support.backends import fast_is_built
from tools.fuzz import engine as engine_module
from tools.fuzz.corpus import CORPUS, read_session, session_bytes, write_crash
from tools.fuzz.decoders import HeaderTarget
from tools.fuzz.engine import Engine, replay
from tools.fuzz.guided import Sessions
from tools.fuzz.mutate import mutate
from tools.fuzz.target import Finding, Target
from tools.fuzz.targets import TARGETS, make_target

#: For each target. An instrument that makes everything slow asks for fewer.
INPUTS = int(os.environ.get("NETCORE_FUZZ_INPUTS", "100000"))
#: Of those that cost ten times as much as the others: one in so many.
FRACTION = {"plane": 4, "twins": 2}
FEW = 300  # on the pure kernels: the target "twins" compares them with the others

SEEDS = [(path.parent.name, path) for path in sorted(CORPUS.glob("*/*"))]


@pytest.fixture(autouse=True)
def _logger_as_it_was() -> Iterator[None]:
    """Give back the logger, which the target "plane" takes for its process."""
    logger = logging.getLogger("netcore")
    before = logger.handlers[:], logger.propagate, logger.level
    yield
    logger.handlers[:], logger.propagate = before[:2]
    logger.setLevel(before[2])


def backend_of(name: str) -> _backend.BackendName:
    if not fast_is_built() and name == "twins":
        pytest.skip("compiled kernels not built")
    return "fast" if fast_is_built() else "pure"


def test_every_target_has_a_corpus_and_every_corpus_a_target() -> None:
    assert sorted(path.name for path in CORPUS.iterdir()) == sorted(TARGETS)


@pytest.mark.parametrize(("name", "path"), SEEDS, ids=lambda value: getattr(value, "name", value))
def test_seed_decodes(name: str, path: Path) -> None:
    target = make_target(name, backend_of(name))
    assert target.run(path.read_bytes())
    target.finish()


def test_sync_target_has_a_seed_of_every_message() -> None:
    """It took a LOST for a DELTA: found by coverage, because nothing here made one."""
    seeds = make_target("sync", "pure").seeds()
    assert {type(sync_wire.decode(seed)) for seed in seeds} == set(get_args(sync_wire.SyncMessage))


@pytest.mark.parametrize("name", TARGETS)
def test_target_holds_for_random_inputs(name: str) -> None:
    backend = backend_of(name)
    count = INPUTS // FRACTION.get(name, 1) if backend == "fast" else FEW
    outcome = Engine(make_target(name, backend)).run(count)
    assert outcome.error is None, (outcome.error, outcome.data[:200])
    assert outcome.inputs == count
    assert count // 100 < outcome.accepted
    assert outcome.peak_bytes > 0 or count < engine_module.TRACED_EVERY


@pytest.mark.parametrize("name", sorted(set(TARGETS) - {"twins"}))
def test_target_holds_on_the_pure_kernels(name: str) -> None:
    assert Engine(make_target(name, "pure"), seed=1).run(FEW).error is None


# -- the engine finds what there is to find --------------------------------------------------------


class Broken(HeaderTarget):
    """Fails in a way that a test chooses."""

    def __init__(self, kernels: ModuleType, how: str) -> None:
        super().__init__(kernels)
        self.how = how

    def run(self, data: bytes) -> bool:
        if len(data) == 12 and self.how == "undocumented":
            raise IndexError("of a decoder")
        if self.how == "slow":
            sum(range(4_000_000))
        if self.how == "greedy":
            bytearray(engine_module.MOST_BYTES + 1)
        return super().run(data)


@pytest.mark.parametrize(
    ("how", "error"), [("undocumented", IndexError), ("slow", Finding), ("greedy", Finding)]
)
def test_engine_reports_a_broken_target(
    how: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "TRACED_EVERY", 7)
    found = Engine(Broken(_backend.load("pure"), how)).run(5_000)
    assert type(found.error) is error
    assert found.inputs < 5_000
    assert isinstance(found.data, bytes)


def test_input_that_failed_is_replayed_from_its_file(tmp_path: Path) -> None:
    target = Broken(_backend.load("pure"), "undocumented")
    path = write_crash("header", Engine(target).run(5_000).data, tmp_path)
    with pytest.raises(IndexError):
        replay(target, path)


class Remembers(Target):
    """Fails at the seventh input of a session."""

    name = "remembers"
    session = 10
    seen = 0

    def reset(self) -> None:
        self.seen = 0

    def seeds(self) -> list[bytes]:
        return [b"x"]

    def run(self, data: bytes) -> bool:
        self.seen += 1
        if self.seen == 7:
            raise Finding("the seventh")
        return True


def test_session_is_replayed_from_its_beginning(tmp_path: Path) -> None:
    target = Remembers(_backend.load("pure"))
    found = Engine(target).run(100)
    path = write_crash("remembers", found.data, tmp_path)
    assert len(read_session(found.data) or []) == 7
    with pytest.raises(Finding, match="seventh"):
        replay(target, path)


def test_guided_session_is_in_its_file_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, path = Remembers(_backend.load("pure")), tmp_path / "session"
    monkeypatch.setattr(Remembers, "session", 4)  # none of them comes so far
    with Sessions(target, path) as sessions:
        for _ in range(8):
            sessions.one_input(b"before")
        monkeypatch.setattr(Remembers, "session", 10)
        for number in range(6):
            sessions.one_input(bytes((number,)))
        with pytest.raises(Finding, match="seventh"):
            sessions.one_input(b"last")
    assert read_session(path.read_bytes()) == [*map(bytes, zip(range(6), strict=False)), b"last"]
    with pytest.raises(Finding, match="seventh"):
        replay(target, path)


def test_session_survives_its_file() -> None:
    inputs = [b"", b"abc", bytes(1_000)]
    assert read_session(session_bytes(inputs)) == inputs
    assert read_session(b"one input") is None


def test_same_seed_makes_the_same_inputs() -> None:
    def some(seed: int) -> list[bytes]:
        rnd = random.Random(seed)
        return [mutate(b"an input", rnd, [b"another"]) for _ in range(100)]

    assert some(1) == some(1) != some(2)


def test_twins_target_sees_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    target: Any = make_target("twins", backend_of("twins"))

    def other_error(data: bytes) -> None:
        raise FrameError(wire.FRAME_SEALED, 1)

    monkeypatch.setattr(target.pure, "decode_header", other_error)
    with pytest.raises(Finding, match="sealed at byte 0"):
        target.run(b"\0\4" + bytes(7))
