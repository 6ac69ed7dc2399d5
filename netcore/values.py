"""The part of ``dataclasses`` that netcore uses, at a tenth of what it costs to import.

Facts that this file relies on:

- ``dataclasses`` imports inspect and compiles five methods for each class: for forty classes that
  was more than half of the time and of the memory of ``import netcore``. Here nothing is compiled.
- To a type checker these names are those of ``dataclasses``, and so are the classes at run time:
  ``dataclasses.fields``, ``replace`` and ``asdict`` take them, and what cannot be set raises its
  ``FrozenInstanceError``. The first use of that kind imports it.
- Every class has slots and no bases. Two values are equal when they are of one class and all their
  fields are.
"""

from __future__ import annotations

from operator import attrgetter

from ._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass, field
    from typing import Any, NoReturn

__all__ = ["dataclass", "field"]


class _Default:
    """How a field gets its value when none is given, and whether it is shown."""

    __slots__ = ("factory", "repr", "value")

    def __init__(self, value: Any = None, factory: Callable[[], Any] | None = None) -> None:
        self.value = value
        self.factory = factory
        self.repr = True

    def make(self) -> Any:
        return self.value if self.factory is None else self.factory()


class _Plan:
    """What the shared methods know of one class."""

    __slots__ = (
        "behind", "cls", "count", "defaults", "finish", "frozen", "get", "kw_only", "names",
        "plain", "set",
    )  # fmt: skip

    def __init__(self, cls: type, frozen: bool, kw_only: bool) -> None:
        self.cls = cls
        self.frozen = frozen
        self.kw_only = kw_only
        self.names = tuple(
            name for name, kind in cls.__annotations__.items() if not kind.startswith("ClassVar")
        )
        self.count = -1 if kw_only else len(self.names)
        found = {name: vars(cls)[name] for name in self.names if name in vars(cls)}
        self.defaults = {
            name: value if isinstance(value, _Default) else _Default(value)
            for name, value in found.items()
        }
        self.plain = {n: d.value for n, d in self.defaults.items() if d.factory is None}
        #: What follows that many arguments, None where something is missing or has to be made.
        self.behind: list[tuple[Any, ...] | None] = [
            tuple(self.plain[name] for name in rest) if self.plain.keys() >= set(rest) else None
            for rest in (self.names[at:] for at in range(max(self.count, 0) + 1))
        ]
        self.finish = vars(cls).get("__post_init__")
        self.get: Callable[[Any], Any] = attrgetter(*self.names) if self.names else type
        self.set: tuple[Callable[[Any, Any], None], ...] = ()

    def arguments(self, args: tuple[Any, ...], given: dict[str, Any]) -> list[Any]:
        """Return one value per field."""
        where = f"{self.cls.__qualname__}.__init__()"
        if len(args) > max(self.count, 0):
            raise TypeError(f"{where} takes {max(self.count, 0)} positional arguments")
        found = dict(zip(self.names, args, strict=False))
        for name, value in given.items():
            if name in found:
                raise TypeError(f"{where} got multiple values for argument {name!r}")
            if name not in self.names:
                raise TypeError(f"{where} got an unexpected keyword argument {name!r}")
            found[name] = value
        missing = [name for name in self.names if name not in found and name not in self.defaults]
        if missing:
            raise TypeError(f"{where} missing required arguments: {', '.join(missing)}")
        return [found[name] if name in found else self.defaults[name].make() for name in self.names]


class _Fields:
    """``__dataclass_fields__``, made when ``dataclasses`` asks for it."""

    __slots__ = ("_plan",)

    def __init__(self, plan: _Plan) -> None:
        self._plan = plan

    def __get__(self, _: object, owner: type) -> dict[str, Any]:
        import dataclasses

        described: list[Any] = []
        for name in self._plan.names:
            options: dict[str, Any] = {}
            default = self._plan.defaults.get(name)
            if default is not None and default.factory is not None:
                options = {"default_factory": default.factory, "repr": default.repr}
            elif default is not None:
                options = {"default": default.value, "repr": default.repr}
            kind = owner.__annotations__[name]
            described.append((name, kind, dataclasses.field(kw_only=self._plan.kw_only, **options)))
        twin = dataclasses.make_dataclass(owner.__name__, described)
        found: dict[str, Any] = twin.__dict__["__dataclass_fields__"]
        owner.__dataclass_fields__ = found  # type: ignore[attr-defined]
        return found


class _Signature:
    """``__signature__``, made when somebody inspects the class."""

    __slots__ = ("_plan",)

    def __init__(self, plan: _Plan) -> None:
        self._plan = plan

    def __get__(self, _: object, owner: type) -> Any:
        from inspect import Parameter, Signature

        plan = self._plan
        kind = Parameter.KEYWORD_ONLY if plan.kw_only else Parameter.POSITIONAL_OR_KEYWORD
        parameters = [
            Parameter(
                name,
                kind,
                annotation=owner.__annotations__[name],
                default=plan.defaults[name].make() if name in plan.defaults else Parameter.empty,
            )
            for name in plan.names
        ]
        return Signature(parameters, return_annotation=None)


def _methods(plan: _Plan) -> dict[str, Any]:
    """Return the methods of a class."""
    names, plain, known = plan.names, plan.plain, frozenset(plan.names)

    def __init__(self: Any, *args: Any, **given: Any) -> None:
        values: Any
        if not given and len(args) == plan.count:
            values = args
        elif not args and (found := {**plain, **given} if plain else given).keys() == known:
            values = map(found.__getitem__, names)
        elif given or len(args) > plan.count or (behind := plan.behind[len(args)]) is None:
            values = plan.arguments(args, given)
        else:
            values = args + behind
        for put, value in zip(plan.set, values):  # noqa: B905 - as many, and strict takes longer
            put(self, value)
        if plan.finish is not None:
            plan.finish(self)

    def __eq__(self: Any, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return bool(plan.get(self) == plan.get(other))

    def __hash__(self: Any) -> int:
        return hash(plan.get(self))

    return {
        "__init__": __init__,
        "__eq__": __eq__,
        "__hash__": __hash__ if plan.frozen else None,
        **_rare_methods(plan),
    }


def _rare_methods(plan: _Plan) -> dict[str, Any]:
    """Return those for printing and copying."""

    def __repr__(self: Any) -> str:
        shown = [n for n in plan.names if n not in plan.defaults or plan.defaults[n].repr]
        parts = ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)
        return f"{type(self).__qualname__}({parts})"

    def __getstate__(self: Any) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in plan.names)

    def __setstate__(self: Any, state: tuple[Any, ...]) -> None:
        for put, value in zip(plan.set, state, strict=True):
            put(self, value)

    return {
        "__repr__": __repr__,
        "__getstate__": __getstate__,
        "__setstate__": __setstate__,
    }


def _refuse_set(self: object, name: str, value: object) -> NoReturn:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_delete(self: object, name: str) -> NoReturn:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot delete field {name!r}")


if not TYPE_CHECKING:

    def dataclass(*, slots, frozen=False, kw_only=False):
        """Make a class with slots from the annotations of another."""

        def make(cls):
            plan = _Plan(cls, frozen, kw_only)
            body = _methods(plan)
            if frozen:
                body.update(__setattr__=_refuse_set, __delattr__=_refuse_delete)
            own = {name: value for name, value in vars(cls).items() if name not in plan.defaults}
            own = {k: v for k, v in own.items() if k not in ("__dict__", "__weakref__", "__hash__")}
            body.update(own)
            body["__annotations__"] = dict(cls.__annotations__)
            body["__slots__"] = plan.names
            body["__match_args__"] = () if kw_only else plan.names
            body["__qualname__"] = cls.__qualname__
            body["__dataclass_fields__"] = _Fields(plan)
            body["__signature__"] = _Signature(plan)
            plan.cls = made = type(cls.__name__, (), body)
            plan.set = tuple(vars(made)[name].__set__ for name in plan.names)
            return made

        return make

    def field(*, default=None, default_factory=None, repr=True):
        """Say more of a field: its default, how to make that, whether it is shown."""
        found = _Default(default, default_factory)
        found.repr = repr
        return found
