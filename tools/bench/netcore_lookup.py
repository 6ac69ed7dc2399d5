"""netcore's role that asks a table where to."""

from __future__ import annotations

from .process import Options

__all__ = ["lookup"]


def lookup(options: Options) -> None:
    """Ask."""
    raise SystemExit("later")
