"""The report for people: Markdown tables and, where matplotlib is installed, plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from .figures import BASELINE, Row, rows_of
from .lineup import YARDSTICK
from .workloads import Workload

__all__ = ["number", "tables", "write"]

#: Heading -> figure, how it is written. A column without any figure is left out.
Column = tuple[str, str, Callable[[float], str]]


def number(value: float) -> str:
    """Return three digits, with a prefix from thousands on."""
    for factor, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= factor * 0.9995:
            return f"{_digits(value / factor)}{prefix}"
    return _digits(value)


def _digits(value: float) -> str:
    size = abs(value)
    places = 0 if size >= 99.95 else 1 if size >= 9.995 else 2 if size >= 0.0995 else 3
    return f"{value:.{places}f}"


def _times(value: float) -> str:
    return f"{_digits(value)} \N{MULTIPLICATION SIGN}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


_RATE: Final[tuple[Column, ...]] = (
    ("messages/s", "rate", number),
    ("of C", "rate_x", _times),
    ("bytes/s", "bytes", number),
)
_LATENCY: Final[tuple[Column, ...]] = (
    ("p50 µs", "p50_us", _digits),
    ("of C", "p50_us_x", _times),
    ("p99 µs", "p99_us", _digits),
    ("p99.9 µs", "p99_9_us", _digits),
    ("per s", "rate", number),
    ("of C", "rate_x", _times),
)
_LOST: Final[Column] = ("lost", "lost", _count)


def _columns(workload: Workload) -> tuple[Column, ...]:
    if workload.kind == "importing":
        return (("ms", "ms", _digits), ("MiB", "mib", _digits))
    if workload.kind == "idle":
        return (
            ("KiB per link", "kib", _digits),
            ("all connected after s", "connect_s", _digits),
            ("of C", "connect_s_x", _times),
            ("p50 µs alone", "alone_us", _digits),
            ("p50 µs among them", "p50_us", _digits),
            ("of alone", "to_alone", _times),
            ("p99 µs", "p99_us", _digits),
            _LOST,
        )
    if workload.kind == "fair":
        return (
            ("p50 µs alone", "alone_us", _digits),
            ("p99 µs alone", "alone_p99_us", _digits),
            ("p50 µs beside the flood", "p50_us", _digits),
            ("p99 µs beside the flood", "p99_us", _digits),
            ("p99 of alone", "p99_to_alone", _times),
            ("flood, messages/s", "flood", number),
            ("node waited for a core, % of the time", "waited", _digits),
            ("the ten waited for one, %", "polite_waited", _digits),
            _LOST,
        )
    side = "relay" if workload.kind == "relay" else "busier side"
    return (
        *(_LATENCY if workload.kind == "round_trip" else _RATE),
        (f"messages per CPU second, {side}", "per_cpu_s", number),
        ("of C", "per_cpu_s_x", _times),
        *(
            (f"CPU s per million: {role.replace('_', ' ')}", f"cpu_{role}", _digits)
            for role in reversed(workload.roles)
        ),
        ("CPU s per million: broker", "cpu_broker", _digits),
        _LOST,
    )


#: Kind -> what counts most: what it is, the figure, how it is written, whether more is better.
_TELLING: Final[dict[str, tuple[str, str, Callable[[float], str], bool]]] = {
    "stream": ("messages per CPU second, busier side", "per_cpu_s", number, True),
    "fan": ("messages per CPU second, busier side", "per_cpu_s", number, True),
    "relay": ("messages per CPU second of the relay", "per_cpu_s", number, True),
    "round_trip": ("p50 in µs", "p50_us", _digits, False),
    "busy": ("answers per second", "rate", number, True),
    "fair": ("p99 beside the flood, of alone", "p99_to_alone", _times, False),
    "idle": ("KiB per link", "kib", _digits, False),
    "churn": ("links per second", "rate", number, True),
    "importing": ("ms", "ms", _digits, False),
}
_OWN: Final = "netcore"


def write(folder: Path, data: Mapping[str, Any], workloads: Sequence[Workload]) -> list[str]:
    """Write report.md and its plots into a folder; return what could not be done."""
    rows = {
        workload.key: rows_of(workload, data["records"], data["yardsticks"])
        for workload in workloads
    }
    plots: dict[str, str] = {}
    problems = []
    try:
        from . import plots as drawing  # matplotlib is an extra
    except ImportError:
        problems.append("no plots: matplotlib is not installed (extra: bench)")
    else:
        plots = drawing.draw(folder, rows)
    parts = _head(data), _glance(rows, workloads), _pictures(plots), tables(rows, workloads)
    text = "\n".join([line for part in (*parts, _tail(data)) for line in part])
    (folder / "report.md").write_text(text + "\n", encoding="utf-8")
    return problems


def _head(data: Mapping[str, Any]) -> list[str]:
    rounds = "1 round" if data["rounds"] == 1 else f"medians of {data['rounds']} rounds"
    lines = [
        f"# Benchmark of {data['date']}",
        "",
        f"Written by `python -m tools.bench`: {rounds} of about {data['seconds']:g} s per "
        "measurement, all contestants in turn within each. [What each workload does and how to "
        "read the tables](README.md); [every single figure](results.json).",
        "",
    ]
    if data["quick"]:
        lines += [
            "**A quick run, which shows that everything works: its figures mean nothing.**",
            "",
        ]
    lines += ["| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in data["machine"].items()]
    lines += ["", "| contestant | version |", "|---|---|"]
    lines += [f"| {name} | {version} |" for name, version in data["contestants"].items()]
    return [*lines, ""]


def _glance(rows: Mapping[str, Sequence[Row]], workloads: Sequence[Workload]) -> list[str]:
    """Return a table of netcore, C and the best of the others, by what counts most."""
    lines = [
        "## At a glance",
        "",
        "| | measured in | netcore | C | best of the others | |",
        "|---|---|---:|---:|---:|---|",
    ]
    for workload in workloads:
        if workload.kind in _TELLING:
            lines += _glance_row(workload, rows[workload.key])
    return [*lines, ""] if len(lines) > 4 else []


def _glance_row(workload: Workload, rows: Sequence[Row]) -> list[str]:
    busy = workload.kind == "round_trip" and workload.options.get("window", 1) > 1
    unit, figure, write_value, more = _TELLING["busy" if busy else workload.kind]
    values = {row.contestant: row.figures[figure] for row in rows if figure in row.figures}
    if _OWN not in values:
        return []
    apart = (_OWN, YARDSTICK, BASELINE) if workload.kind == "importing" else (_OWN, YARDSTICK)
    others = {name: value for name, value in values.items() if not name.startswith(apart)}
    best = (max if more else min)(others, key=lambda name: others[name], default="")
    cells = [
        write_value(values[name]) if name in values else "" for name in (_OWN, YARDSTICK, best)
    ]
    return [f"| {workload.title} | {unit} | **{cells[0]}** | {cells[1]} | {cells[2]} | {best} |"]


def _pictures(plots: Mapping[str, str]) -> list[str]:
    return [line for name, title in plots.items() for line in (f"![{title}]({name})", "")]


def tables(rows: Mapping[str, Sequence[Row]], workloads: Sequence[Workload]) -> list[str]:
    """Return the lines of all tables."""
    lines = []
    for workload in workloads:
        lines += [f"## {workload.title[0].upper()}{workload.title[1:]}", ""]
        if workload.kind == "lookup":
            lines += _lookup_table(rows[workload.key])
        else:
            lines += _table(_columns(workload), rows[workload.key])
        lines += _failures(rows[workload.key])
    return lines


def _table(columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    used = [c for c in columns if any(c[1] in row.figures for row in rows)]
    lines = [
        "| contestant | " + " | ".join(heading for heading, _, _ in used) + " |",
        "|---|" + "---:|" * len(used),
    ]
    for row in rows:
        cells = [
            write_value(row.figures[name]) if name in row.figures else ""
            for _, name, write_value in used
        ]
        if row.figures:
            name = f"**{row.contestant}**" if row.contestant == "netcore" else row.contestant
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _lookup_table(rows: Sequence[Row]) -> list[str]:
    """Return nanoseconds by question and table, a column per contestant and language."""
    cases = list(dict.fromkeys(name for row in rows for name in row.figures))
    questions = list(dict.fromkeys(case.rpartition(", ")[0] for case in cases))
    ways = [
        (row, language)
        for row in rows
        for language in ("Python", "C")
        if any(name.endswith(f", {language}") for name in row.figures)
    ]
    lines = [
        "| ns | " + " | ".join(f"{row.contestant}, from {way}" for row, way in ways) + " |",
        "|---|" + "---:|" * len(ways),
    ]
    for question in sorted(questions, key=lambda q: q == "loop"):
        cells = [row.figures.get(f"{question}, {way}") for row, way in ways]
        name = "an empty loop, subtracted above" if question == "loop" else question
        written = ["" if cell is None else _digits(cell) for cell in cells]
        lines.append(f"| {name} | " + " | ".join(written) + " |")
    return [*lines, ""]


def _failures(rows: Sequence[Row]) -> list[str]:
    lines = [f"* {row.contestant}: {row.failures[0]}" for row in rows if row.failures]
    return ["Failed:", "", *lines, ""] if lines else []


def _tail(data: Mapping[str, Any]) -> list[str]:
    if not data["skipped"]:
        return []
    lines = [f"* {name}: {why}" for name, why in data["skipped"].items()]
    return ["## Not here", "", *lines]
