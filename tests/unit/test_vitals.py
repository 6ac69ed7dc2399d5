"""The numbers of a link: the twins keep the same, and liveness does the same with both."""

from __future__ import annotations

import random
from types import ModuleType
from typing import Any

import pytest

from netcore import _backend
from netcore.config import NodeConfig
from netcore.liveness import Action, Liveness
from support.backends import fast_is_built

NAMES = sorted(_backend.load("pure").Vitals.__slots__)
TIMES = [name for name in NAMES if name.endswith(("_ms", "_us")) and name != "srtt_ms"]
INTERVALS = ["announced_ms", "granted_ms", "interval_ms", "peer_ms"]
FLAGS = ["flagged", "is_guess", "suspect", "unheard"]

needs_both = pytest.mark.skipif(not fast_is_built(), reason="compiled kernels not built")


def state(vitals: Any) -> dict[str, object]:
    return {name: getattr(vitals, name) for name in NAMES}


def test_new_vitals_say_what_they_were_given(kernels: ModuleType) -> None:
    vitals = kernels.Vitals(1 << 63, (1 << 64) - 1, 12_345)
    assert (vitals.key, vitals.epoch, vitals.slot) == (1 << 63, (1 << 64) - 1, -1)
    assert vitals.received_ms == vitals.heard_ms == vitals.measured_ms == 12_345
    assert vitals.srtt_ms is None
    assert vitals.tokens == ()
    assert not any(getattr(vitals, name) for name in FLAGS)


def test_vitals_keep_times_up_to_62_bits(kernels: ModuleType) -> None:
    vitals = kernels.Vitals(1, 2, 3)
    for name in set(TIMES) - set(INTERVALS):
        for value in (1 << 62, -(1 << 62)):
            setattr(vitals, name, value)
            assert getattr(vitals, name) == value


def test_round_trip_time_may_become_unknown_again(kernels: ModuleType) -> None:
    vitals = kernels.Vitals(1, 2, 3)
    for value in (0.0, 0.1, 1e9, None):
        vitals.srtt_ms = value
        assert vitals.srtt_ms == value


@needs_both
def test_new_twins_are_equal() -> None:
    one, other = (_backend.load(name).Vitals(5, 6, 7) for name in ("pure", "fast"))
    assert state(one) == state(other)


class End:
    """Liveness over the vitals of one backend."""

    def __init__(self, backend: _backend.BackendName, seed: int) -> None:
        self.live = Liveness(NodeConfig(node_id=1), random.Random(seed))
        make = _backend.load(backend).Vitals
        self.links = [make(key, key << 40, 0) for key in range(20)]
        self.probes = [0] * len(self.links)

    def do(self, rnd: random.Random, now_ms: int) -> object:
        """Do something at random; return what came of it."""
        link = rnd.choice(self.links)
        now_us = now_ms * 1_000 + rnd.randrange(1_000)
        kind = rnd.randrange(8)
        if kind == 0 and link.slot < 0:
            return self.live.add(link, now_ms, rnd.choice((None, 0.0, 3.7)))  # type: ignore[func-returns-value]
        if kind == 1 and rnd.random() < 0.1:
            return self.live.remove(link)  # type: ignore[func-returns-value]
        if kind == 2:
            interval_ms = rnd.choice((0, 200, 1_000, 65_535))
            return self.live.on_ping(link, rnd.randrange(9), interval_ms, rnd.randrange(2), now_ms)
        if kind == 3 and link.tokens:
            return self.live.on_pong(link, rnd.choice(link.tokens)[1], now_us)
        if kind == 4 and rnd.random() < 0.2:
            return self.live.probe(link, now_us)
        silent = rnd.random() < 0.3
        heard_ms = 0 if silent else now_ms - rnd.randrange(300)
        return self.poll(now_ms, now_us, heard_ms)

    def poll(self, now_ms: int, now_us: int, heard_ms: int) -> list[Action]:
        return self.live.poll(now_ms, now_us, lambda key: (heard_ms, heard_ms))


@needs_both
@pytest.mark.parametrize("seed", range(20))
def test_liveness_does_the_same_with_both_twins(seed: int) -> None:
    dice = [random.Random(seed), random.Random(seed)]
    ends = [End("pure", seed), End("fast", seed)]
    now_ms = 1_000
    for _ in range(2_000):
        steps = [rnd.choice((0, 1, 30, 400, 2_500)) for rnd in dice]
        now_ms += steps[0]
        outcomes = [end.do(rnd, now_ms) for end, rnd in zip(ends, dice, strict=True)]
        assert outcomes[0] == outcomes[1]
        assert ends[0].live.next_deadline_ms() == ends[1].live.next_deadline_ms()
    assert [state(link) for link in ends[0].links] == [state(link) for link in ends[1].links]
    assert ends[0].live.suspects == ends[1].live.suspects > 0


def test_known_ping_is_one_that_says_nothing_new(kernels: ModuleType) -> None:
    vitals = kernels.Vitals(1, 2, 3)
    vitals.peer_ms = 0x0102
    vitals.flagged = True
    plain = bytes(8) + b"\x01\x02\x01"  # no token, 258 ms, suspect

    assert vitals.is_known_ping(plain)
    assert vitals.is_known_ping(plain[:-1] + b"\xff")  # flags of a later version
    assert not vitals.is_known_ping(b"\x80" + plain[1:])
    assert not vitals.is_known_ping(bytes(8) + b"\x01\x03\x01")
    assert not vitals.is_known_ping(bytes(8) + b"\x01\x02\x00")
    assert not vitals.is_known_ping(plain + b"\0")
    assert not vitals.is_known_ping(plain[:-1])
    vitals.unheard = True
    assert not vitals.is_known_ping(plain)


@needs_both
def test_twins_compute_the_same_from_the_same_numbers() -> None:
    rnd = random.Random(4)
    for _ in range(2_000):
        twins = [_backend.load(name).Vitals(5, 6, 7) for name in ("pure", "fast")]
        numbers: dict[str, Any] = {name: rnd.randrange(-5_000, 5_000) for name in TIMES}
        numbers |= {name: rnd.choice((0, 1, 63, 64, 200, 65_535)) for name in INTERVALS}
        numbers |= {name: rnd.random() < 0.5 for name in FLAGS}
        numbers |= {"srtt_ms": rnd.choice((None, 0.0, 33.3, 1e6)), "early": rnd.random() / 4}
        times = [rnd.randrange(-5_000, 5_000) for _ in range(3)]
        found = []
        for vitals in twins:
            for name, value in numbers.items():
                setattr(vitals, name, value)
            results = [
                vitals.limit_ms(times[0]),
                vitals.ping_due_ms(times[0], 1_000),
                vitals.silence_ms(*times),
                vitals.update_interval(times[0]),
                vitals.limit_ms(times[1]),
            ]
            found.append((results, state(vitals)))
        assert found[0] == found[1]
