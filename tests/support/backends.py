"""What tests ask about the two backends."""

from __future__ import annotations

from tools.build import fast_is_built

__all__ = ["fast_is_built"]
