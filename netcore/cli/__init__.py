"""The commands of ``netcore``: one module each, called by ``netcore.__main__``.

They use what any program can import from ``netcore``, and may be read as examples.
"""

from __future__ import annotations

__all__ = ["CommandError"]


class CommandError(Exception):
    """A command cannot do what it was asked; the text is the one line the user sees."""
