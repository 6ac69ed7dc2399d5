"""Choose the compiled or the pure kernels; the only module that imports either.

A *backend* is a module exporting the names in ``netcore._pure.__all__``. Two backends are never
mixed inside one node: a compiled ``Switch`` calls its ``RouteTable`` through C.
"""

from __future__ import annotations

import os
import sys

from ._typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["BACKEND", "BackendName", "kernels", "load"]

BackendName = Literal["fast", "pure"]

#: unset: compiled if built; "1": pure; "0": compiled or ImportError. The build reads it too.
_PURE: Final = os.environ.get("NETCORE_PURE", "")
if _PURE not in ("", "0", "1"):
    raise ImportError(f"NETCORE_PURE must be unset, 0 or 1, not {_PURE!r}")


def load(name: BackendName) -> ModuleType:
    """Return one backend.

    Raises:
        ModuleNotFoundError: ``name`` is "fast" and the kernels were not built.
        ImportError: they were built and do not load, for example a missing symbol.
    """
    # What importlib.import_module does; importlib itself would be imported for this alone.
    __import__(f"netcore._{name}")
    return sys.modules[f"netcore._{name}"]


def _select() -> tuple[BackendName, ModuleType]:
    if _PURE == "1":
        return "pure", load("pure")
    try:
        return "fast", load("fast")
    except ModuleNotFoundError as exc:
        # "Not built" is the one failure to hide: kernels that were built and are broken must show.
        not_built = (exc.name or "").startswith("netcore._fast.")
        if _PURE == "0" or not not_built:
            raise
        return "pure", load("pure")


BACKEND: BackendName
if TYPE_CHECKING:
    from . import _pure as kernels  # the pure twin is the type of both
else:
    BACKEND, kernels = _select()
