"""The plots of the report, as small SVG files. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from tools.bench import canvas

from .faults import FAULTS

__all__ = ["draw"]

_POINTS: Final = 200  # of a curve


def draw(folder: Path, results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Write the plots that there are figures for; return file name -> what is seen."""
    made = {}
    plots = (
        ("routing-converged.svg", "Pairs that keep a path: who has the new one", "converged_ms"),
        ("routing-gone.svg", "Pairs without a path: who knows it, from the fault on", "gone_ms"),
    )
    with canvas.style():
        for name, title, key in plots:
            figure = canvas.new(4.4)
            if _curves(figure, results, key):
                canvas.save(figure, folder / name, title)
                made[name] = title
    return made


def _curves(figure: Figure, results: Sequence[Mapping[str, Any]], key: str) -> bool:
    """Draw the share of pairs over time: a line per fault, dashed while nobody names losses."""
    axes = figure.subplots()
    is_drawn = False
    for at, kind in enumerate(FAULTS):
        for no_losses in (False, True):
            values = sorted(
                ms
                for result in results
                if result["what"] == kind and result["no_losses"] is no_losses
                for outcome in result["results"]
                for ms in outcome[key]
            )
            if not values:
                continue
            is_drawn = True
            step = max(1, len(values) // _POINTS)
            points = [*range(0, len(values), step), len(values) - 1]
            axes.plot(
                [values[n] for n in points],
                [100 * (n + 1) / len(values) for n in points],
                color=mpl.colormaps["tab10"](at),
                linestyle="--" if no_losses else "-",
                linewidth=1.0 if no_losses else 1.8,
                label=f"{kind}, losses not named" if no_losses else kind,
            )
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 101)
    axes.set_xlabel("ms")
    axes.set_ylabel("% of pairs")
    if is_drawn:
        figure.legend(loc="outside right upper", frameon=False)
    return is_drawn
