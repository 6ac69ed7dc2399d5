"""The filter that lets each broadcast pass once."""

from __future__ import annotations

import random
from collections import OrderedDict
from types import ModuleType
from typing import Any

import pytest

from netcore import _backend, wire

NEW, DUPLICATE, STALE = 0, 1, 2
WINDOW = wire.BROADCAST_WINDOW
LAST = wire.MAX_U32


@pytest.fixture
def seen(kernels: ModuleType) -> Any:
    return kernels.DuplicateFilter(4)


def test_filter_lets_each_number_pass_once(seen: Any) -> None:
    assert [seen.check(1, 9, n) for n in (0, 1, 2, 1, 0, 2, 3)] == [0, 0, 0, 1, 1, 1, 0]


def test_filter_lets_what_was_overtaken_pass_once(seen: Any) -> None:
    assert [seen.check(1, 9, n) for n in (5, 3, 4, 3, 4, 5)] == [0, 0, 0, 1, 1, 1]


def test_filter_knows_a_window_behind_the_newest_and_nothing_before_it(seen: Any) -> None:
    assert seen.check(1, 9, 5_000) == NEW
    assert seen.check(1, 9, 5_000 - WINDOW + 1) == NEW
    assert seen.check(1, 9, 5_000 - WINDOW + 1) == DUPLICATE
    assert seen.check(1, 9, 5_000 - WINDOW) == STALE


@pytest.mark.parametrize("step", [1, 7, 8, 9, WINDOW - 1, WINDOW, WINDOW + 1, 1 << 30])
def test_filter_forgets_what_falls_out_of_the_window(seen: Any, step: int) -> None:
    numbers = range(10_000, 10_000 + WINDOW)
    assert {seen.check(1, 9, n) for n in numbers} == {NEW}
    newest = numbers[-1] + step
    assert seen.check(1, 9, newest) == NEW
    for number in numbers:
        assert seen.check(1, 9, number) == (STALE if newest - number >= WINDOW else DUPLICATE)
    between = range(max(numbers[-1] + 1, newest - WINDOW + 1), newest)
    assert {seen.check(1, 9, n) for n in between} <= {NEW}


@pytest.mark.parametrize("first", [LAST, LAST - 5, LAST - WINDOW])
def test_filter_goes_round_with_the_numbers(seen: Any, first: int) -> None:
    numbers = [(first + i) & LAST for i in range(3 * WINDOW)]
    for number in numbers:
        assert seen.check(1, 9, number) == NEW
    assert {seen.check(1, 9, number) for number in numbers[-WINDOW:]} == {DUPLICATE}
    assert {seen.check(1, 9, number) for number in numbers[:-WINDOW]} == {STALE}


def test_filter_takes_half_of_all_numbers_for_newer(seen: Any) -> None:
    assert [seen.check(1, 9, n) for n in (0, (1 << 31) - 1, (1 << 32) - 1)] == [NEW, NEW, STALE]


def test_filter_tells_origins_and_their_lives_apart(seen: Any) -> None:
    assert [seen.check(1, 9, 0), seen.check(2, 9, 0), seen.check(1, 8, 0)] == [NEW, NEW, NEW]
    assert [seen.check(1, 9, 0), seen.check(2, 9, 0), seen.check(1, 8, 0)] == [1, 1, 1]
    assert len(seen) == 3


def test_filter_knows_a_former_life_when_a_later_one_has_begun(seen: Any) -> None:
    for number in range(5):
        seen.check(1, 100, number)
    seen.check(1, 200, 0)
    assert [seen.check(1, 100, n) for n in (4, 5, 5)] == [DUPLICATE, NEW, DUPLICATE]
    assert seen.check(1, 200, 1) == NEW


def test_filter_forgets_whom_it_has_not_heard_of_longest(seen: Any) -> None:
    for origin in (1, 2, 3, 4):
        seen.check(origin, 9, 0)
    seen.check(1, 9, 0)  # also a duplicate is heard
    assert (len(seen), seen.forgotten) == (4, 0)
    assert seen.check(5, 9, 0) == NEW
    assert (len(seen), seen.forgotten) == (4, 1)
    assert [seen.check(origin, 9, 0) for origin in (1, 3, 4, 5)] == [DUPLICATE] * 4
    assert seen.check(2, 9, 0) == NEW


def test_filter_of_one_origin_works(kernels: ModuleType) -> None:
    seen = kernels.DuplicateFilter(1)
    assert [seen.check(o, 9, 0) for o in (1, 1, 2, 2, 1)] == [NEW, 1, NEW, 1, NEW]
    assert (len(seen), seen.forgotten) == (1, 2)


class Model:
    """The same, the slow way: every number ever seen."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.known: OrderedDict[tuple[int, int], tuple[int, set[int]]] = OrderedDict()
        self.forgotten = 0

    def check(self, origin: int, epoch: int, number: int) -> int:
        key = origin, epoch
        if key not in self.known and len(self.known) == self.most:
            self.known.popitem(last=False)
            self.forgotten += 1
        newest, numbers = self.known.pop(key, (number, set()))
        newest = max(newest, number)
        self.known[key] = newest, numbers
        if newest - number >= WINDOW:
            return STALE
        if number in numbers:
            return DUPLICATE
        numbers.add(number)
        return NEW


@pytest.mark.parametrize("seed", range(20))
def test_filters_agree_with_the_model(seed: int) -> None:
    pytest.importorskip("netcore._fast.broadcast", exc_type=ModuleNotFoundError)
    rnd = random.Random(seed)
    most = rnd.choice((1, 3, 17, 100))
    model = Model(most)
    filters = [_backend.load(name).DuplicateFilter(most) for name in ("pure", "fast")]
    start = rnd.choice((0, LAST - 2_000))
    heads: dict[tuple[int, int], int] = {}
    for _ in range(3_000):
        origin, epoch = rnd.randrange(1, most + 3), rnd.choice((0, 1 << 63, (1 << 64) - 1))
        head = heads.get((origin, epoch), 3_000) + rnd.choice((0, 1, 1, 2, 9, 40, 1_500))
        heads[origin, epoch] = head
        number = head - rnd.choice((0, 0, 1, 5, 63, 64, 1_023, 1_024, 1_100))
        expected = model.check(origin, epoch, number)
        for each in filters:
            assert each.check(origin, epoch, (start + number) & LAST) == expected
            assert (len(each), each.forgotten) == (len(model.known), model.forgotten)
