"""The plots of the report, as small SVG files. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from . import canvas
from .figures import Row
from .workloads import WORKLOADS, Workload

__all__ = ["draw"]

Rows = Mapping[str, Sequence[Row]]

_BY_KEY: Final = {workload.key: workload for workload in WORKLOADS}


def draw(folder: Path, rows: Rows) -> dict[str, str]:
    """Write the plots that there are figures for; return file name -> what is seen."""
    made = {}
    with canvas.style():
        for name, title, paint in _PLOTS:
            figure = canvas.new()
            if paint(figure, rows):
                canvas.save(figure, folder / name, title)
                made[name] = title
    return made


def _line(contestant: str, names: Sequence[str]) -> dict[str, Any]:
    """Return how a contestant is drawn, in all plots alike: netcore and C stand out."""
    own = contestant.startswith("netcore")
    reference = contestant == "C" or contestant.startswith("C ")
    color = "black" if reference else mpl.colormaps["tab20"](names.index(contestant) % 20)
    return {
        "color": color,
        "label": contestant,
        "linewidth": 2.2 if own or reference else 1.1,
        "linestyle": "--" if " " in contestant and (own or reference) else "-",
    }


def _names(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row.contestant for several in rows.values() for row in several))


def _series(
    rows: Rows, prefix: str, value: Callable[[Workload, Row], float | None]
) -> dict[str, list[tuple[int, float]]]:
    """Return contestant -> (message size, value) of the workloads whose key begins so."""
    series: dict[str, list[tuple[int, float]]] = {}
    for key, several in rows.items():
        if not key.startswith(prefix):
            continue
        workload = _BY_KEY[key]
        for row in several:
            found = value(workload, row)
            if found:
                series.setdefault(row.contestant, []).append((workload.size, found))
    return series


def _by_size(
    figure: Figure,
    rows: Rows,
    prefix: str,
    axis_title: str,
    value: Callable[[Workload, Row], float | None],
) -> bool:
    """Draw a line per contestant over the message size, both axes logarithmic."""
    series = _series(rows, prefix, value)
    if not series:
        return False
    axes = figure.subplots()
    for contestant, points in series.items():
        axes.plot(*zip(*points, strict=True), marker=".", **_line(contestant, _names(rows)))
    sizes = sorted({size for points in series.values() for size, _ in points})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, [_size(size) for size in sizes])
    axes.set_xlabel("payload")
    axes.set_ylabel(axis_title)
    figure.legend(loc="outside right upper", frameon=False)
    return True


def _size(size: int) -> str:
    for shift, unit in ((20, "MiB"), (10, "KiB")):
        if size >= 1 << shift:
            return f"{size >> shift} {unit}"
    return f"{size} B"


def _throughput(figure: Figure, rows: Rows) -> bool:
    return _by_size(figure, rows, "stream-", "MB/s", lambda _, row: _scaled(row, "bytes", 1e-6))


def _cpu(figure: Figure, rows: Rows) -> bool:
    return _by_size(
        figure, rows, "stream-", "CPU µs per message, busier side",
        lambda _, row: _inverse(row, "per_cpu_s", 1e6),
    )  # fmt: skip


def _relay(figure: Figure, rows: Rows) -> bool:
    return _by_size(
        figure, rows, "relay-", "Gbit per CPU second of the relay",
        lambda workload, row: _scaled(row, "per_cpu_s", workload.size * 8e-9),
    )  # fmt: skip


def _scaled(row: Row, name: str, factor: float) -> float | None:
    value = row.figures.get(name)
    return None if value is None else value * factor


def _inverse(row: Row, name: str, factor: float) -> float | None:
    value = row.figures.get(name)
    return factor / value if value else None


def _latency(figure: Figure, rows: Rows) -> bool:
    """Draw the percentiles of the ping-pongs side by side."""
    keys = [
        key
        for key in ("pingpong-one", "pingpong-two", "pingpong-busy")
        if any(row.percentiles for row in rows.get(key, ()))
    ]
    if not keys:
        return False
    panels = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
    drawn: dict[str, Any] = {}
    for axes, key in zip(panels, keys, strict=True):
        for row in rows[key]:
            if row.percentiles:
                drawn[row.contestant] = axes.plot(
                    range(len(row.percentiles)),
                    [value / 1e3 for value in row.percentiles],
                    **_line(row.contestant, _names(rows)),
                )[0]
        axes.set_yscale("log")
        axes.set_xlabel("percentile")
        axes.set_title(_BY_KEY[key].title.partition(", ")[2])
    panels[0].set_ylabel("µs there and back")
    figure.legend(drawn.values(), drawn, loc="outside right upper", frameon=False)
    return True


def _idle(figure: Figure, rows: Rows) -> bool:
    """Draw the memory of an idle link as bars."""
    values = {
        f"{row.contestant}{', handler' if key.endswith('handler') else ''}": row.figures["kib"]
        for key in ("idle", "idle-handler")
        for row in rows.get(key, ())
        if row.figures.get("kib", 0) > 0
    }
    if not values:
        return False
    return _bars(figure, sorted(values.items(), key=lambda item: item[1]), "KiB per idle link")


def _bars(figure: Figure, items: Iterable[tuple[str, float]], axis_title: str) -> bool:
    names, values = zip(*items, strict=True)
    axes = figure.subplots()
    colors = ["#1f77b4" if name.startswith("netcore") else "#bbbbbb" for name in names]
    bars = axes.barh(names, values, color=colors)
    axes.bar_label(bars, [f"{value:.2g}" for value in values], padding=3)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(axis_title)
    axes.grid(visible=False, axis="y")
    return True


_PLOTS: Final = (
    ("throughput.svg", "One-way stream: throughput by message size", _throughput),
    ("cpu.svg", "One-way stream: CPU per message", _cpu),
    ("relay.svg", "Relay: throughput per CPU second", _relay),
    ("latency.svg", "Ping-pong of 64 B: latency distribution", _latency),
    ("idle.svg", "Memory of an idle link, accepting side", _idle),
)
