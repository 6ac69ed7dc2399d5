"""How all plots look, and how they become small SVG files. Needs matplotlib."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

__all__ = ["new", "save", "style"]

_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",  # text stays text: a third of the size, and it can be searched
    "svg.hashsalt": "netcore",  # the same figures make the same file
    "font.size": 9.0,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def style() -> AbstractContextManager[None]:
    """Return a block in which figures are made and saved."""
    context: AbstractContextManager[None] = mpl.rc_context(_STYLE)
    return context


def new(height: float = 5.2) -> Figure:
    """Return an empty figure of the width that all have, in inches."""
    return Figure(figsize=(9, height), layout="constrained")


def save(figure: Figure, path: Path, title: str) -> None:
    """Write a figure with its title; the same one makes the same bytes."""
    figure.suptitle(title)
    FigureCanvasSVG(figure)
    figure.savefig(path, format="svg", metadata={"Date": None})
