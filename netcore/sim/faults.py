"""Random faults: a list of operations made from a seed, for ``Network.play``."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from random import Random

from .._typing import TYPE_CHECKING, Any, Final
from ..errors import LocalError

if TYPE_CHECKING:
    from .network import Network

__all__ = ["FAULTS", "random_faults"]

#: What may happen, and what ends it; None: nothing needs to.
FAULTS: Final[dict[str, str | None]] = {
    "cut": "heal",
    "cut_one_way": "heal",
    "reset": None,
    "kill": "restart",
    "freeze": "thaw",
}
_OF_NODES: Final = frozenset({"kill", "freeze"})


def random_faults(
    network: Network,
    duration_ms: int,
    *,
    mean_gap_ms: int = 2_000,
    mean_length_ms: int = 3_000,
    kinds: Sequence[str] = tuple(FAULTS),
    seed: int | None = None,
) -> list[list[Any]]:
    """Return faults for the nodes and links that there are now, all of them over in the end.

    Args:
        network: Where they will happen; nothing happens yet.
        duration_ms: From now on; what has an end ends by then.
        mean_gap_ms: Between the beginnings of two faults.
        mean_length_ms: Of a fault that ends.
        kinds: Which of ``FAULTS``.
        seed: Of their choice; None: the network's.
    """
    unknown = set(kinds) - set(FAULTS)
    if unknown or not kinds:
        raise LocalError(f"kinds of faults are {', '.join(FAULTS)}, not {sorted(unknown)}")
    rnd = Random(f"{network.seed if seed is None else seed}/faults")
    begin_ms, end_ms = network.now_ms, network.now_ms + duration_ms
    targets: dict[bool, list[dict[str, int]]] = {
        True: [{"node_id": node_id} for node_id in network.node_ids if network.is_running(node_id)],
        False: [{"a": link.a, "b": link.b} for link in network.links],
    }
    free_ms: dict[tuple[int, ...], int] = {}  # one fault of a node or link at a time
    operations: list[list[Any]] = []
    now_ms = begin_ms
    while (now_ms := now_ms + 1 + _draw(rnd, mean_gap_ms)) < end_ms:
        kind = rnd.choice(list(kinds))
        choice = targets[kind in _OF_NODES]
        length_ms = 1 + _draw(rnd, mean_length_ms)
        if not choice:
            continue
        args = rnd.choice(choice)
        key = tuple(args.values())
        if free_ms.get(key, 0) > now_ms:
            continue
        over_ms = min(end_ms, now_ms + length_ms)
        operations += _fault(rnd, kind, args, now_ms, over_ms)
        free_ms[key] = over_ms + 1
    return sorted(operations, key=itemgetter(0))


def _fault(
    rnd: Random, kind: str, args: dict[str, int], now_ms: int, over_ms: int
) -> list[list[Any]]:
    """Return a fault and its end."""
    there = dict(args)
    if kind == "cut_one_way" and rnd.random() < 0.5:
        there = {"a": args["b"], "b": args["a"]}
    elif kind == "kill":
        there["silent"] = rnd.random() < 0.25
    end = FAULTS[kind]
    fault = [[now_ms, kind, there]]
    return fault if end is None else [*fault, [over_ms, end, dict(args)]]


def _draw(rnd: Random, mean_ms: int) -> int:
    return int(rnd.expovariate(1 / max(1, mean_ms)))
