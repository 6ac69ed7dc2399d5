"""Violation: something that must hold did not."""

from __future__ import annotations

from typing import final

__all__ = ["Violation"]


@final
class Violation(Exception):
    """An invariant is broken.

    Attributes:
        kind: Which one, in a word; a shrunk seed breaks the same.
        text: How.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text
