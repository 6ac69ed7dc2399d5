"""Report: from results to figures, targets, Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from .faults import FAULTS
from .runner import CALM, JITTER, MOVES

__all__ = ["percentile", "targets", "write"]

Result = Mapping[str, Any]
#: what, the figure, the target, whether it is met
Target = tuple[str, str, str, bool]

_INTRO: Final = """\
# Routing

How well nodes route, in the simulator: random networks with 4 links per node of 1 to 10 ms one way.
`routing.json` has every single figure. Repeat it with

```sh
python -m pip install -e '.[bench]' && python -m tools.routing
```

(`--seeds 3 --nodes 100 --count 3` unless told otherwise; `--quick` shows that everything works).
It takes about ten minutes of two cores. Time is virtual: the same seeds give the same figures on
every machine, however busy it is.
"""
_TERMS: Final = """\
## What is counted

* A *pair* is a node and a destination; those whose best path a fault does not change are left out.
  A pair has converged with the last change of its best path. The tables are compared with Dijkstra
  5 s after the fault.
* Time counts from the fault where the ends of a link see it at once (cut with a reset, killed).
  Where a link has to be missed, measured or dialled first it counts from the last moment before the
  change at which an end of a link noticed something; *noticed* is when the last one did. What is
  *gone* always counts from the fault.
* The *bound* of a network is diameter x (round trip + 10 ms) + 50 ms. Round trip + 10 ms is what a
  hop adds to a score, so the first term is the highest score of all best paths.
* The *least* that there is to say: on each direction of each link, each announcement that differs
  before and afterwards, once, as an entry or a withdrawal; on a new link one full state. *Items*
  are entries, withdrawals and losses; bytes include the heads of messages. A restart (300 ms after
  the death) is three changes: the node goes, comes with the links that it dials, and with the
  others a second later.
* During the first 1.5 s of each fault four messages leave every 5 ms from random nodes, half of
  them to where the fault is. *Died by TTL* are those that went in circles.
"""


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which that share of all values is; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0


def _of(results: Iterable[Result], what: str, *, no_losses: bool = False) -> list[Any]:
    return [
        outcome
        for result in results
        if result["what"] == what and result["no_losses"] is no_losses
        for outcome in result["results"]
    ]


def _within(outcomes: Sequence[Any]) -> float:
    """Return the share of pairs that converged within the bound of their network."""
    pairs = [ms <= o["bound_ms"] for o in outcomes for ms in o["converged_ms"]]
    return sum(pairs) / len(pairs) if pairs else 1.0


def _ratio(outcomes: Sequence[Any], name: str) -> list[float]:
    return [o[name][0] / o[name][1] for o in outcomes if o[name][1]]


def targets(results: Sequence[Result]) -> list[Target]:
    """Return what is demanded, and what was found."""
    faults = {kind: _of(results, kind) for kind in FAULTS}
    every = [outcome for outcomes in faults.values() for outcome in outcomes]
    found: list[Target] = []

    def add(what: str, value: float, unit: str, target: str, is_met: bool) -> None:
        found.append((what, f"{value:.4g}{unit}", target, is_met))

    calm = _of(results, CALM)
    stretches = [stretch for one in calm for stretch in one["stretches"]]
    if stretches:
        worst = max(stretches)
        add("stretch, the worst pair", worst, "", "≤ 1.01", worst <= 1.01)
        cost = max(one["bytes_per_s"] for one in calm)
        add("bytes of sync per second and link, at rest", cost, "", "< 100", cost < 100)
    if every:
        share = 100 * min(_within(outcomes) for outcomes in faults.values())
        add("pairs within the bound, the worst fault", share, " %", "≥ 95 %", share >= 95)
        gone = [ms for o in every for ms in o["gone_ms"]]
        add("unreachable pairs gone, the last one", max(gone, default=0), " ms", "≤ 1000 ms",
            max(gone, default=0) <= 1_000)  # fmt: skip
        wrong = sum(o["wrong"] for o in every)
        add("pairs not as Dijkstra says", wrong, "", "0", wrong == 0)
        for name, words in (("items", "announcements"), ("size", "bytes")):
            ratio = sum(o[name][0] for o in every) / max(1, sum(o[name][1] for o in every))
            add(f"sync over the least, {words}, all faults", ratio, " x", "≤ 4 x", ratio <= 4)
        worst = max(_ratio(every, "items"))
        add("sync over the least, announcements, the worst fault", worst, " x", "≤ 4 x", worst <= 4)
        dead = 100 * sum(o["ttl_expired"] for o in every) / max(1, sum(o["sent"] for o in every))
        add("messages that died by TTL", dead, " %", "≤ 0.5 %", dead <= 0.5)
    shaken = _of(results, JITTER)
    if shaken:
        add("changes of a metric in 5 min of ±15 %, the worst link", max(shaken), "", "≤ 1",
            max(shaken) <= 1)  # fmt: skip
    moved = _of(results, MOVES)
    if moved:
        add("traffic leaves a link that goes from 5 to 80 ms, the last", max(moved), " ms",
            "≤ 2000 ms", max(moved) <= 2_000)  # fmt: skip
    return found


def _rows(results: Sequence[Result], *, no_losses: bool) -> list[str]:
    rows = [
        "| fault | times | noticed ms | converged p50, p95, max ms | within bound | gone, last ms "
        "| items, median, max | bytes | died by TTL |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in FAULTS:
        outcomes = _of(results, kind, no_losses=no_losses)
        if not outcomes:
            continue
        took = [ms for o in outcomes for ms in o["converged_ms"]]
        gone = [ms for o in outcomes for ms in o["gone_ms"]]
        items = _ratio(outcomes, "items")
        size = sum(o["size"][0] for o in outcomes) / max(1, sum(o["size"][1] for o in outcomes))
        dead, sent = (sum(o[name] for o in outcomes) for name in ("ttl_expired", "sent"))
        rows.append(
            f"| {kind} | {len(outcomes)} "
            f"| {percentile([o['noticed_ms'] for o in outcomes], 0.5)} "
            f"| {percentile(took, 0.5)}, {percentile(took, 0.95)}, {max(took, default=0)} "
            f"| {100 * _within(outcomes):.1f} % | {max(gone, default='-')} "
            f"| {percentile(items, 0.5):.2f} x, {max(items, default=0):.2f} x | {size:.2f} x "
            f"| {dead} of {sent} |"
        )
    return rows


def write(folder: Path, results: Sequence[Result], date: str) -> list[str]:
    """Write ``routing.json``, ``routing.md`` and the plots; return what could not be done."""
    problems: list[str] = []
    folder.mkdir(parents=True, exist_ok=True)
    ordered = sorted(results, key=lambda r: (r["no_losses"], r["what"], r["seed"]))
    text = json.dumps([_short(result) for result in ordered], separators=(",", ":"))
    (folder / "routing.json").write_text(text.replace('},{"what"', '},\n{"what"') + "\n")
    try:
        from . import plots  # matplotlib is an extra
    except ImportError:
        problems.append("no plots: matplotlib is not installed (extra: bench)")
        drawn: dict[str, str] = {}
    else:
        drawn = plots.draw(folder, ordered)
    seeds = len({r["seed"] for r in ordered})
    nodes = max(r["nodes"] for r in ordered)
    parts = [_INTRO]
    if date:
        options = f"--seeds {seeds} --nodes {nodes} --count {max(r['count'] for r in ordered)}"
        parts.append(f"Measured on {date} with `{options}`.\n")
    parts.append("| what | found | target | |\n|---|---|---|---|")
    parts += [
        f"| {w} | {v} | {t} | {'yes' if ok else '**no**'} |" for w, v, t, ok in targets(ordered)
    ]
    parts.append("\n## Single faults\n")
    parts += _rows(ordered, no_losses=False)
    parts += [f"\n![{title}]({name})" for name, title in drawn.items()]
    if any(r["no_losses"] for r in ordered):
        parts.append(
            "\n## Without naming lost links\n\nThe same faults in the first of the networks, while "
            "nobody names a lost link: ways that are gone are hunted for.\n"
        )
        parts += _rows(ordered, no_losses=True)
    parts.append("\n" + _TERMS)
    (folder / "routing.md").write_text("\n".join(parts))
    return problems


def _short(result: Result) -> dict[str, Any]:
    """Return a result with its long lists as [value, how often]."""
    return {**result, "results": [_counted(outcome) for outcome in result["results"]]}


def _counted(outcome: object) -> object:
    if not isinstance(outcome, dict):
        return outcome
    short = dict(outcome)
    for name in ("converged_ms", "gone_ms", "stretches"):
        values = outcome.get(name)
        if values is not None:
            short[name] = [[value, values.count(value)] for value in sorted(set(values))]
    return short
