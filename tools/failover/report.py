"""The report for people: Markdown tables and, where matplotlib is installed, plots."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tools.bench import machine

from .contenders import CONTENDERS
from .figures import percentile
from .layout import LAYOUTS
from .results import Results
from .trial import FAULTS, RATE, Fault, Record

__all__ = ["write"]

NAME: Final = "failover"


def write(folder: Path, results: Results, date: str) -> list[str]:
    """Write the report and its plots into a folder; return what could not be done."""
    problems = []
    plots: dict[str, str] = {}
    try:
        from . import plots as drawing  # matplotlib is an extra
    except ImportError:
        problems.append("no plots: matplotlib is not installed (extra: bench)")
    else:
        plots = drawing.draw(folder, results.records)
    lines = [*_head(results, date), *_glance(results)]
    for layout in LAYOUTS.values():
        part = [line for fault in FAULTS.values() for line in _table(results, layout.key, fault)]
        if part:
            lines += [f"## {layout.title[0].upper()}{layout.title[1:]}", ""]
            name = f"{NAME}-{layout.key}.svg"
            if name in plots:
                lines += [f"![{plots[name]}]({name})", ""]
            lines += part
    lines += _calm(results.calm)
    lines += _failures(results)
    (folder / f"{NAME}.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return problems


def _head(results: Results, date: str) -> list[str]:
    lines = [
        f"# Fail-over, {date}",
        "",
        f"Written by `python -m tools.failover`: {RATE} messages per second from a source to a "
        "sink over relays, each a process of its own; then a relay or a link on their way fails. "
        "[What is measured and how to read it](README.md#fail-over); [every single figure]"
        f"({NAME}.json).",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in machine.describe().items()),
        *(f"| {name} | {version} |" for name, version in results.systems.items()),
        *(("", results.note) if results.note else ()),
    ]
    return [*lines, ""]


def _glance(results: Results) -> list[str]:
    """Return a table of all faults, with the worst of all repetitions of both networks."""
    names = [name for name in CONTENDERS if any(r.system == name for r in results.records)]
    lines = ["## At a glance", "", "The p99 over both networks, ms.", ""]
    lines += ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for fault in FAULTS.values():
        cells = []
        for name in names:
            records = [r for r in results.records if (r.system, r.fault) == (name, fault.key)]
            cells.append(_share_ms(records, 0.99) if records else "")
        lines.append(f"| {fault.title} | " + " | ".join(cells) + " |")
    return [*lines, ""] if names else []


def _share_ms(records: Sequence[Record], share: float) -> str:
    value = percentile([record.ms for record in records], share)
    if all(r.recovered for r in records if r.ms == value):
        return _ms(value)
    return f"> {CONTENDERS[records[0].system].patience_s * 1e3:,.0f}"  # nothing until we gave up


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.1f}"


def _table(results: Results, layout: str, fault: Fault) -> list[str]:
    rows = []
    for name in CONTENDERS:
        records = results.of((name, layout, fault.key))
        if records:
            rows.append(_row(name, records))
    if not rows:
        return []
    what = "first message after the begin of the dial" if fault.key == "restart" else "longest gap"
    wanted = f"netcore is to keep {fault.limit_ms:.0f} ms" if fault.limit_ms else ""
    return [
        f"### {fault.title[0].upper()}{fault.title[1:]}",
        "",
        f"The {what}, in ms; {wanted}.",
        "",
        "| | repetitions | median | p99 | worst | undisturbed, worst | messages lost, median |"
        " refused, median |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        *rows,
        "",
    ]


def _row(name: str, records: Sequence[Record]) -> str:
    # Where nothing flowed again it is not known what is lost and what is late.
    ended = [record for record in records if record.recovered]
    lost = f"{statistics.median(r.missing for r in ended):.0f}" if ended else ""
    before = max(record.before_ms for record in records)
    cells = [
        name,
        f"{len(records)}",
        _share_ms(records, 0.5),
        _share_ms(records, 0.99),
        _share_ms(records, 1.0),
        _ms(before) if before else "",
        lost,
        f"{statistics.median(r.refused for r in records):.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _calm(outcomes: Sequence[Mapping[str, Any]]) -> list[str]:
    if not outcomes:
        return []
    lines = [
        "## Calm",
        "",
        "netcore over lossy links (a user-space link between namespaces), all cores loaded by "
        "`stress-ng`. A suspicion is false: everybody lives all the time.",
        "",
        "| loss | minutes | links | packets lost | messages sent | not arrived | links closed |"
        " suspicions | longest gap at the sink, ms |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {o['loss']:.0%} | {o['seconds'] / 60:.1f} | {o['links']} | {o['packets_lost']:,} of "
        f"{o['packets']:,} | {o['sent']:,} | {o['missing']} | {o['closed']} | {o['suspects']} | "
        f"{o['longest_gap_ms']:,.0f} |"
        for o in outcomes
    ]
    return [*lines, ""]


def _failures(results: Results) -> list[str]:
    if not results.failures:
        return []
    texts = [f"{f['system']}, {f['layout']}, {f['fault']}: {f['error']}" for f in results.failures]
    lines = ["## Repetitions without figures", "", "The next run makes them again.", ""]
    lines += [f"* {text}" for text in dict.fromkeys(texts)]
    return [*lines, ""]
