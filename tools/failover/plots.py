"""Gap timelines: when nothing arrived, for each repetition. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

from tools.bench import canvas

from .contenders import CONTENDERS
from .layout import LAYOUTS
from .trial import FAULTS, Fault, Record

__all__ = ["draw"]

#: Where the logarithmic axis begins; the fault itself would be infinitely far to the left.
FIRST_MS: Final = 1.0
_COLORS: Final = {name: mpl.colormaps["tab10"](at) for at, name in enumerate(CONTENDERS)}


def draw(folder: Path, records: Sequence[Record]) -> dict[str, str]:
    """Write a plot for each layout that there are figures for; return file name -> its title."""
    made = {}
    with canvas.style():
        for layout in LAYOUTS.values():
            own = [record for record in records if record.layout == layout.key]
            faults = [f for f in FAULTS.values() if any(r.fault == f.key for r in own)]
            if not faults:
                continue
            figure = canvas.new(1.2 + 2.1 * len(faults))
            panels = figure.subplots(len(faults), 1, sharex=True, squeeze=False)[:, 0]
            for axes, fault in zip(panels, faults, strict=True):
                _paint(axes, fault, [record for record in own if record.fault == fault.key])
            panels[-1].set_xlabel("ms since the fault; of a restart: since the begin of the dial")
            title = f"When nothing arrived, {layout.title}: a line for each repetition"
            canvas.save(figure, folder / f"failover-{layout.key}.svg", title)
            made[f"failover-{layout.key}.svg"] = title
    return made


def _paint(axes: Any, fault: Fault, records: Sequence[Record]) -> None:
    row, middles = 0, {}
    for name in CONTENDERS:
        own = sorted((r for r in records if r.system == name), key=lambda record: record.ms)
        for at, record in enumerate(own):
            for begin, length in record.gaps:
                left, right = max(begin, FIRST_MS), begin + length
                if right > left:
                    axes.plot([left, right], [row + at] * 2, color=_COLORS[name], linewidth=1.3)
        if own:
            middles[name] = row + len(own) / 2
            row += len(own) + 3
    axes.axvline(fault.limit_ms, color="black", linestyle=":", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlim(left=FIRST_MS)
    axes.set_yticks(list(middles.values()), list(middles))
    axes.grid(visible=False, axis="y")
    axes.invert_yaxis()
    axes.set_title(f"{fault.title}; dotted: what netcore is to keep", loc="left")
