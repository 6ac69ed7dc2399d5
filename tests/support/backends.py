"""What tests ask about the two backends."""

from __future__ import annotations

from netcore import _backend


def fast_is_built() -> bool:
    """Say whether the compiled kernels are there; broken ones raise."""
    try:
        _backend.load("fast")
    except ModuleNotFoundError:
        return False
    return True
