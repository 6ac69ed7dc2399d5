"""From what the processes said to the figures of the report.

Facts first:
- A figure is the median of the rounds' figures, a ratio the median of the rounds' ratios: what
  disturbs one round disturbs both of its sides.
- The receiving side says how fast a stream was, the asking side how fast answers came.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .measure import Results
from .workloads import Workload

__all__ = ["BASELINE", "Row", "busier", "rows_of"]

#: Whose import is that of a bare interpreter.
BASELINE: Final = "bare Python sockets"

_CPU: Final = ("cpu", "broker_cpu")

Figures = dict[str, float]


@dataclass(slots=True)
class Row:
    """A contestant at a workload: medians of its rounds.

    Attributes:
        contestant: Its name.
        figures: By name; see ``_FIGURES`` and the functions there.
        percentiles: Latencies in ns, p0..p100; empty where there are none.
        failures: What went wrong, per round in which something did.
    """

    contestant: str
    figures: Figures = field(default_factory=dict)
    percentiles: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def rows_of(
    workload: Workload, records: Sequence[Mapping[str, Any]], yardsticks: Mapping[str, str]
) -> list[Row]:
    """Return a row per contestant, in the order of the records.

    Args:
        workload: Which.
        records: All measurements, as in the JSON.
        yardsticks: Contestant -> whom it is compared with.
    """
    mine = [record for record in records if record["workload"] == workload.key]
    figures = {
        (record["round"], record["contestant"]): _figures(workload, record["results"])
        for record in mine
        if record["results"]
    }
    rows = {record["contestant"]: Row(record["contestant"]) for record in mine}
    for record in mine:
        if record["error"]:
            rows[record["contestant"]].failures.append(record["error"])
    for name, row in rows.items():
        rounds = [
            {**own, **_ratios(own, figures.get((number, yardsticks.get(name, ""))))}
            if workload.kind != "importing"
            else _above(own, figures.get((number, BASELINE)))
            for (number, other), own in figures.items()
            if other == name
        ]
        row.figures = _medians(rounds)
        row.percentiles = _percentiles(r["results"] for r in mine if r["contestant"] == name)
    return list(rows.values())


def busier(results: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the CPU seconds of the process that used most, a broker's included."""
    processes = [fields.get(name, 0.0) for fields in results.values() for name in _CPU]
    return max(map(float, processes), default=0.0)


def _figures(workload: Workload, results: Results) -> Figures:
    if workload.kind == "importing":
        only = results["importing"]
        return {"ms": only["seconds"] * 1e3, "mib": only["pss_kib"] / 1024}
    if workload.kind == "lookup":
        return {name: float(value) for name, value in results["lookup"]["nanoseconds"].items()}
    figures = _of_messages(workload, results)
    client = results[workload.roles[-1]]
    if "latency_ns" in client:
        percentiles = client["latency_ns"]
        figures["p50_us"] = percentiles[50] / 1e3
        figures["p99_us"] = percentiles[99] / 1e3
        figures["p99_9_us"] = client["p99_9"] / 1e3
    if workload.kind == "idle":
        figures.update(_of_idle(workload, results))
    if workload.kind == "fair":
        figures.update(_of_fair(results))
    return figures


def _of_messages(workload: Workload, results: Results) -> Figures:
    one_way = workload.kind in ("stream", "relay", "fan")
    teller = results[workload.roles[0 if one_way else -1]]
    messages = float(teller["messages"])
    counting = [teller] if workload.kind == "idle" else results.values()
    figures: Figures = {"lost": max(float(fields.get("lost") or 0) for fields in counting)}
    if messages <= 0 or teller["seconds"] <= 0:
        return figures
    figures["rate"] = messages / teller["seconds"]
    figures["bytes"] = figures["rate"] * workload.size
    for role, fields in results.items():
        figures[f"cpu_{role}"] = fields["cpu"] / messages * 1e6
        if "broker_cpu" in fields and "relay" not in results:
            figures["cpu_broker"] = fields["broker_cpu"] / messages * 1e6
    cpu = results["relay"]["cpu"] if "relay" in results else busier(results)
    if cpu > 0:
        figures["per_cpu_s"] = messages / cpu
    return figures


def _of_idle(workload: Workload, results: Results) -> Figures:
    client, server = results["idle_client"], results["idle_server"]
    links = workload.options["links"]
    return {
        "connect_s": client["connect_seconds"],
        # The server's first mark is at its second link.
        "kib": max(0, server["pss_after_kib"] - server["pss_before_kib"]) / max(1, links - 2),
        "alone_us": client["alone"][50] / 1e3,
        "to_alone": client["latency_ns"][50] / max(1, client["alone"][50]),
    }


def _of_fair(results: Results) -> Figures:
    node, flooder, polite = results["fair_node"], results["flooder"], results["polite"]
    return {
        "lost": max(float(polite["lost"]), abs(flooder["messages"] - node["messages"])),
        "alone_us": polite["alone"][50] / 1e3,
        "alone_p99_us": polite["alone"][99] / 1e3,
        "p99_to_alone": polite["latency_ns"][99] / max(1, polite["alone"][99]),
        "flood": flooder["messages"] / max(1e-9, flooder["seconds"]),
        "waited": 100 * node["waited"] / max(1e-9, flooder["seconds"]),
        "polite_waited": 100 * polite["waited"] / max(1e-9, polite["seconds"]),
    }


#: Figure -> whether more is better.
_COMPARED: Final = {"rate": True, "per_cpu_s": True, "p50_us": False, "connect_s": False}


def _ratios(own: Figures, other: Figures | None) -> Figures:
    """Return each compared figure as a multiple of the yardstick's in the same round."""
    if other is None:
        return {}
    return {
        f"{name}_x": own[name] / other[name]
        for name in _COMPARED
        if own.get(name) is not None and other.get(name)
    }


def _above(own: Figures, bare: Figures | None) -> Figures:
    """Return an import's figures without those of a bare interpreter in the same round."""
    return own if bare is None else {name: own[name] - bare[name] for name in own}


def _medians(rounds: Sequence[Figures]) -> Figures:
    values: dict[str, list[float]] = defaultdict(list)
    for figures in rounds:
        for name, value in figures.items():
            values[name].append(value)
    return {
        # A message lost in one round is not lost in the median.
        name: max(several) if name == "lost" else statistics.median(several)
        for name, several in values.items()
    }


def _percentiles(several: Iterable[Results]) -> list[float]:
    """Return the median over the rounds of each percentile."""
    lists = [
        fields["latency_ns"]
        for results in several
        for fields in results.values()
        if "latency_ns" in fields
    ]
    return [statistics.median(values) for values in zip(*lists, strict=True)]
