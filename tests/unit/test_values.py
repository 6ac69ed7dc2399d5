"""Values: at run time what dataclasses would have made, where netcore uses it."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, ClassVar

import pytest

from netcore.values import dataclass, field


def _numbers() -> list[int]:
    return [1]


@dataclass(frozen=True, slots=True)
class Point:
    """Stands for all that are frozen."""

    ZERO: ClassVar[Any]
    x: int
    y: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", int(self.x))

    @property
    def sum(self) -> int:
        return self.x + self.y


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """Stands for those made by names."""

    name: str = field(default="", repr=False)
    numbers: list[int] = field(default_factory=_numbers)
    size: int


@dataclass(slots=True)
class Changing:
    """Stands for those that change."""

    count: int = 0


@dataclass(frozen=True, slots=True)
class Empty:
    """Has no fields."""


# The same by the standard library, to compare with.
StandardPoint = dataclasses.make_dataclass(
    "Point", [("x", int), ("y", int, 2)], frozen=True, slots=True
)


def test_value_is_made_by_position_and_by_name() -> None:
    assert Point(1) == Point(1, 2) == Point(x=1, y=2) == Point(1, y=2)
    assert (Point(3, 4).x, Point(3, 4).y, Point(3, 4).sum) == (3, 4, 7)


def test_value_finishes_in_post_init() -> None:
    wrong: Any = "5"
    assert Point(wrong).x == 5


@pytest.mark.parametrize(
    ("args", "given", "why"),
    [
        ((), {}, "missing required arguments: x"),
        ((1, 2, 3), {}, "takes 2 positional arguments"),
        ((1,), {"x": 1}, "multiple values for argument 'x'"),
        ((1,), {"z": 1}, "unexpected keyword argument 'z'"),
    ],
)
def test_value_with_wrong_arguments_is_refused(
    args: tuple[int, ...], given: dict[str, int], why: str
) -> None:
    with pytest.raises(TypeError, match=why):
        Point(*args, **given)


def test_value_of_keywords_takes_no_position() -> None:
    make: Any = Named
    with pytest.raises(TypeError, match="takes 0 positional arguments"):
        make("x")


def test_value_with_a_factory_gets_an_object_of_its_own() -> None:
    one, two = Named(size=1), Named(size=1)
    assert one == two
    assert one.numbers is not two.numbers


def test_values_are_compared_and_hashed_by_class_and_fields() -> None:
    others: list[object] = [Point(2), (1, 2), Empty(), StandardPoint(1)]
    assert all(Point(1) != other for other in others)
    assert Empty() == Empty()
    assert len({Point(1), Point(1, 2), Point(2)}) == 2
    assert hash(Empty()) == hash(Empty())


def test_value_that_changes_has_no_hash() -> None:
    one = Changing()
    one.count += 1
    assert one == Changing(1)
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)


def test_frozen_value_refuses_changes_as_dataclasses_do() -> None:
    one: Any = Point(1)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'x'"):
        one.x = 2
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'x'"):
        del one.x


def test_value_has_slots_and_nothing_else() -> None:
    assert not hasattr(Changing(), "__dict__")
    other: Any = Changing()
    with pytest.raises(AttributeError):
        other.other = 1


def test_repr_shows_the_fields_that_may_be_shown() -> None:
    assert repr(Point(1)) == repr(StandardPoint(1))
    assert repr(Named(name="secret", size=3)) == "Named(numbers=[1], size=3)"


def test_value_is_matched_by_position() -> None:
    match Point(1):
        case Point(x, y):
            assert (x, y) == (1, 2)


def test_value_is_copied() -> None:
    for one in (Point(1), Named(size=2), Changing(3), Empty()):
        assert copy.copy(one) == copy.deepcopy(one) == one


def test_functions_of_dataclasses_take_values() -> None:
    assert dataclasses.is_dataclass(Point)
    assert dataclasses.replace(Point(1), y=5) == Point(1, 5)
    assert dataclasses.asdict(Named(size=2)) == {"name": "", "numbers": [1], "size": 2}
    ours, theirs = (
        [(f.name, f.default, f.repr, f.kw_only) for f in dataclasses.fields(kind)]
        for kind in (Point, StandardPoint)
    )
    assert ours == theirs
