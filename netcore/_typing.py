"""What netcore needs of ``typing`` at run time, without importing it.

Facts that this file relies on:

- ``typing`` brings ``re``, ``enum`` and ``contextlib`` with it and took a third of the time of
  ``import netcore``, which reads no annotation while it runs: plain stand-ins do there.
- To a type checker these names are those of ``typing``: mypy and pyright take ``TYPE_CHECKING`` for
  true wherever it is assigned.
- ``typing.get_type_hints`` can still read annotations made of these names: a stand-in is a class,
  and what is between its brackets goes unseen.
"""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import (
        Any,
        ClassVar,
        Final,
        Literal,
        NamedTuple,
        NewType,
        NoReturn,
        Protocol,
        cast,
        final,
    )

__all__ = [
    "TYPE_CHECKING",
    "Any",
    "ClassVar",
    "Final",
    "Literal",
    "NamedTuple",
    "NewType",
    "NoReturn",
    "Protocol",
    "cast",
    "final",
]

if not TYPE_CHECKING:

    class _Form:
        """Stands for what is written in annotations."""

        def __class_getitem__(cls, item):
            return cls

    Any = ClassVar = Final = Literal = NoReturn = _Form

    class Protocol:
        """A base without contents."""

        __slots__ = ()

    class _MakeTuple(type):
        def __new__(cls, name, bases, body):
            if not bases:
                return super().__new__(cls, name, bases, body)
            from collections import namedtuple

            fields = body["__annotations__"]
            defaults = [body[field] for field in fields if field in body]
            made = namedtuple(name, fields, defaults=defaults, module=body["__module__"])
            for key, value in body.items():
                if key not in fields and key not in ("__module__", "__qualname__"):
                    setattr(made, key, value)
            return made

    class NamedTuple(metaclass=_MakeTuple):
        """Makes named tuples of what derives from it: fields, defaults and methods."""

    def NewType(name, kind):
        """Return the type that values of the new one have."""
        return kind

    def cast(kind, value):
        """Return the value."""
        return value

    def final(thing):
        """Return the class or function."""
        return thing
