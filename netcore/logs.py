"""Loggers that import ``logging`` when there is something to say.

An import opens files, and what there is to say may be that no descriptor is left. Then the words go
to stderr, as those of ``logging`` do when nobody has configured it, and the next ones try again.
"""

from __future__ import annotations

import sys

from ._typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from logging import getLogger as logger_of

__all__ = ["INFO", "logger_of"]

INFO = 20  # logging.INFO
_LOUD: Final = frozenset({"warning", "error", "exception", "critical"})


class _Logger:
    """Stands for the logger of a name until it is first used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> object:
        try:
            import logging
        except Exception:  # no descriptor, no memory: nothing of that may reach who only speaks
            return _say if attribute in _LOUD else _say_nothing

        found: object = getattr(logging.getLogger(self._name), attribute)
        setattr(self, attribute, found)  # the next look-up ends before this method
        return found


def _say(words: str, *args: object, exc_info: BaseException | None = None) -> None:
    """Write to stderr, without opening anything."""
    text = words % args
    if exc_info is not None:
        text += f": {type(exc_info).__name__}: {exc_info}"
    try:
        sys.stderr.write(f"{text}\n")
    except Exception:  # closed, full, or none at all
        return


def _say_nothing(*args: object, **fields: object) -> None:
    """Not be enabled for it."""


if not TYPE_CHECKING:

    def logger_of(name):
        """Return what may be used as the logger of this name."""
        return _Logger(name)
