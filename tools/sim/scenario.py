"""Scenario: from a seed to a network and to everything that will be done to it, as plain data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from operator import itemgetter
from random import Random
from types import SimpleNamespace
from typing import Any, Final, Literal, cast, final

from netcore import wire
from netcore.sim import Network, random_faults
from netcore.sim.faults import FAULTS

from .spread import LEVELS

__all__ = ["EXTRA_SERVICES", "LONGEST_CALL_MS", "PROBE", "Kind", "Scenario", "make"]

Kind = Literal["safety", "liveness"]

PROBE: Final = 10  # on every node
EXTRA_SERVICES: Final = (20, 21, 22)  # on some
LONGEST_CALL_MS: Final = 3_000
BUILD_MS: Final = 1_000
SECRET: Final = b"of the campaigns"


@final
@dataclass(frozen=True, slots=True)
class Scenario:
    """What a seed stands for.

    Attributes:
        kind: Of the campaign.
        seed: Of all of it.
        backend: "fast" or "pure".
        options: As ``Network`` takes them.
        services: What each node offers.
        operations: What is done, as ``Network.play`` takes it.
        end_ms: When no more faults happen.
        kept: Which operations of the whole scenario are left; None: all.
    """

    kind: Kind
    seed: int
    backend: Literal["fast", "pure"]
    options: dict[str, Any]
    services: dict[int, list[int]]
    operations: list[list[Any]]
    end_ms: int
    kept: tuple[int, ...] | None = None

    def keep(self, numbers: Iterable[int]) -> Scenario:
        """Return the scenario with these operations of the whole one only."""
        kept = tuple(sorted(numbers))
        known = self.kept or range(len(self.operations))
        by_number = dict(zip(known, self.operations, strict=True))
        return replace(self, operations=[by_number[number] for number in kept], kept=kept)

    @property
    def is_connected(self) -> bool:
        """Whether every zone, sub-zone and group is connected within itself."""
        nodes = [args["node_id"] for _, name, args in self.operations if name == "add_node"]
        pairs = [(args["a"], args["b"]) for _, name, args in self.operations if name == "link"]
        return all(
            _is_connected({n for n in nodes if n >> shift == prefix}, pairs)
            for shift in (8, 16, 24, 32)
            for prefix in {n >> shift for n in nodes}
        )


def _is_connected(nodes: set[int], pairs: list[tuple[int, int]]) -> bool:
    left, waiting = set(nodes), list(nodes)[:1]
    while waiting:
        node = waiting.pop()
        if node in left:
            left.discard(node)
            waiting += [b for a, b in pairs if a == node] + [a for a, b in pairs if b == node]
    return not left


def make(kind: Kind, seed: int, backend: Literal["fast", "pure"], most_nodes: int = 8) -> Scenario:
    """Return what a seed stands for.

    Args:
        kind: Of the campaign.
        seed: Of all of it; both campaigns see the same seed with other eyes, and other faults.
        backend: Of all nodes.
        most_nodes: At most so many nodes.
    """
    rng = Random(f"{kind}/{seed}")
    ids = _draw_ids(rng, rng.randint(2, most_nodes))
    pairs = _draw_pairs(rng, ids)
    services: dict[int, list[int]] = {node_id: [PROBE] for node_id in ids}
    for service in EXTRA_SERVICES:
        for node_id in rng.sample(ids, rng.choice([1, 1, min(2, len(ids))])):
            services[node_id].append(service)
    built: list[list[Any]] = [[0, "add_node", {"node_id": node_id}] for node_id in ids]
    built += [[0, "link", {"a": a, "b": b, **_draw_quality(rng)}] for a, b in pairs]
    begin_ms = rng.choice([0, BUILD_MS, BUILD_MS])  # faults also while it is being built
    end_ms = begin_ms + rng.choice([2_000, 4_000, 8_000])
    faults = _draw_faults(rng, seed, ids, pairs, begin_ms, end_ms)
    traffic = _draw_traffic(rng, ids, end_ms)
    traffic += _draw_broadcasts(Random(f"{kind}/{seed}/broadcasts"), ids, end_ms)
    later = sorted([*faults, *traffic], key=itemgetter(0))
    return Scenario(
        kind, seed, backend, _draw_options(rng), services, [*built, *later], end_ms
    )  # fmt: skip


def _draw_options(rng: Random) -> dict[str, Any]:
    return {
        "secret": SECRET if rng.random() < 0.25 else None,
        "window_bytes": rng.choice([2_048, 16_384, 262_144]),
        "ping_interval_ms": rng.choice([200, 500]),
        "rtt_interval_ms": rng.choice([500, 1_000]),
        "dead_ms": rng.choice([2_000, 4_000]),
        "handshake_timeout_ms": rng.choice([1_000, 3_000]),
        "close_timeout_ms": rng.choice([500, 2_000]),
        "tick_ms": 1_000,
        "write_high_bytes": rng.choice([4_096, 65_536]),
        "write_low_bytes": 1_000,
        "local_queue_bytes": rng.choice([4_096, 65_536]),
        "control_queue_bytes": 262_144,
        "max_frame_bytes": rng.choice([4_096, 65_536]),
        "max_pending_calls": rng.choice([16, 1_000]),
        "max_answers_open": rng.choice([16, 1_000]),
    }


def _draw_ids(rng: Random, count: int) -> list[int]:
    """Return ids in several zones, sub-zones and groups, mostly beside one another."""
    ids = [rng.randrange(wire.NO_NODE)]
    while len(ids) < count:
        parts = list(rng.choice(ids).to_bytes(4, "little"))
        for layer in range(rng.choice([1, 1, 2, 3, 4])):
            parts[layer] = rng.randrange(256)
        node_id = int.from_bytes(bytes(parts), "little")
        if node_id not in ids and node_id != wire.NO_NODE:
            ids.append(node_id)
    return ids


def _draw_pairs(rng: Random, ids: list[int]) -> list[tuple[int, int]]:
    """Return links that connect every part in itself, and some more."""
    pairs: dict[tuple[int, int], tuple[int, int]] = {}

    def join(a: int, b: int) -> None:
        pairs.setdefault((min(a, b), max(a, b)), (a, b) if rng.random() < 0.5 else (b, a))

    for shift in (0, 8, 16, 24):
        parts: dict[int, list[int]] = {}
        for node_id in ids:
            parts.setdefault(node_id >> shift, []).append(node_id)
        siblings: dict[int, list[list[int]]] = {}
        for prefix, members in parts.items():
            siblings.setdefault(prefix >> 8, []).append(members)
        for groups in siblings.values():
            for at in range(1, len(groups)):
                join(rng.choice(groups[at]), rng.choice(groups[rng.randrange(at)]))
    for _ in range(rng.randrange(len(ids))):
        join(*rng.sample(ids, 2))
    return list(pairs.values())


def _draw_quality(rng: Random) -> dict[str, Any]:
    quality: dict[str, Any] = {
        "latency_ms": rng.choice([1, 2, 5, 20, 60]),
        "redial_ms": rng.choice([100, 500, 1_000]),
    }
    if rng.random() < 0.2:
        quality["jitter_ms"] = rng.choice([1, 5, 20])
    if rng.random() < 0.15:
        quality["loss"] = rng.choice([0.01, 0.05])
    if rng.random() < 0.1:
        quality["bandwidth_kbps"] = rng.choice([500, 10_000])
    return quality


def _draw_faults(
    rng: Random,
    seed: int,
    ids: list[int],
    pairs: list[tuple[int, int]],
    begin_ms: int,
    end_ms: int,
) -> list[list[Any]]:
    network = SimpleNamespace(
        seed=seed,
        now_ms=begin_ms,
        node_ids=ids,
        is_running=lambda node_id: True,
        links=[SimpleNamespace(a=a, b=b) for a, b in pairs],
    )
    kinds = rng.sample(list(FAULTS), rng.randint(1, len(FAULTS)))
    faults = random_faults(
        cast(Network, network),
        end_ms - begin_ms,
        mean_gap_ms=rng.choice([100, 400, 1_500]),
        mean_length_ms=rng.choice([200, 1_000, 3_000]),
        kinds=kinds,
    )
    for _ in range(rng.choice([0, 0, 1, 3])):
        when_ms = rng.randrange(begin_ms, end_ms)
        node_id, (a, b) = rng.choice(ids), rng.choice(pairs)
        faults += rng.choice(
            [
                [[when_ms, "stop", {"node_id": node_id}]],
                [[when_ms, "restart", {"node_id": node_id}]],
                [[when_ms, "link", {"a": a, "b": b, **_draw_quality(rng)}]],
                [[when_ms, "do", {"action": "close", "node": a, "to": b}]],
                [[when_ms, "do", {"action": "cross", "a": a, "b": b}]],
            ]
        )
    return faults


def _draw_traffic(rng: Random, ids: list[int], end_ms: int) -> list[list[Any]]:
    """Return sends and calls, some of them in bursts that fill queues."""
    traffic: list[list[Any]] = []
    for _ in range(rng.choice([10, 30, 60])):
        when_ms = rng.randrange(end_ms)
        args = {
            "node": rng.choice(ids),
            "how": rng.choice(["node", "node", "node", "key", "service", "link", "link", "local"]),
            "to": rng.choice(ids),
            "key": rng.randrange(1 << 32),
            "service": rng.choice([PROBE, PROBE, *EXTRA_SERVICES, 99]),
            "ttl": rng.choice([1, 2, 3, 64, 255]),
            "size": rng.choice([0, 0, 50, 1_000, 5_000]),
            "count": rng.choice([1, 1, 1, 3, 20]),
        }
        if rng.random() < 0.3:
            args["call_ms"] = rng.choice([1, 50, 500, LONGEST_CALL_MS])
        traffic.append([when_ms, "do", {"action": "send", **args}])
    return traffic


def _draw_broadcasts(rng: Random, ids: list[int], end_ms: int) -> list[list[Any]]:
    return [
        [
            rng.randrange(end_ms),
            "do",
            {
                "action": "broadcast",
                "node": rng.choice(ids),
                "level": rng.choice(LEVELS),
                "service": rng.choice([PROBE, PROBE, *EXTRA_SERVICES, 99]),
                "ttl": rng.choice([1, 2, 64, 64]),
                "size": rng.choice([0, 50, 3_000]),
            },
        ]
        for _ in range(rng.choice([5, 10, 20]))
    ]
