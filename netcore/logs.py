"""Loggers that import ``logging`` when there is something to say."""

from __future__ import annotations

from ._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from logging import getLogger as logger_of

__all__ = ["INFO", "logger_of"]

INFO = 20  # logging.INFO


class _Logger:
    """Stands for the logger of a name until it is first used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> object:
        import logging

        found: object = getattr(logging.getLogger(self._name), attribute)
        setattr(self, attribute, found)  # the next look-up ends before this method
        return found


if not TYPE_CHECKING:

    def logger_of(name):
        """Return what may be used as the logger of this name."""
        return _Logger(name)
