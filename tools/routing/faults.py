"""Faults: one thing goes wrong in a settled network; how long until all routes are right again.

Facts first:

- A pair is a node and a destination. It has converged with the last change of its best path; the
  tables are compared with Dijkstra's at the end. Pairs whose best path does not change at all are
  left out.
- Time counts from the fault where the ends of a link see it at once (a reset, a process that ends).
  Where a link has to be missed, measured or dialled first it counts from the last cause (see
  ``lab``) before the change: the time until then is the liveness rules', and reported as well.
- The bound is diameter x (round trip + 10 ms) + 50 ms. Round trip + 10 ms is what a hop adds to a
  score, so with links that differ the first term is the highest score of all best paths.
- The least sync traffic: on each direction of each link that was there before and afterwards, each
  place whose announcement differs, once, as a withdrawal where it is gone; bytes with one head of a
  message for each direction that has something to say. On a link that is new: one full state. A
  restart is three changes: it goes, it comes with the links that it dials, and with the others.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, final

from netcore import wire
from netcore.route import Metric
from netcore.services.sync_wire import encode_entry
from tools.sim.oracle import Best

from .lab import HEAD_BYTES, Lab

__all__ = ["FAULTS", "Outcome", "provoke"]

WINDOW_MS: Final = 5_000
TALK_MS: Final = 1_500  # messages are sent for so long from the fault on
TALK_EVERY_MS: Final = 5
SLOW_MS: Final = 40  # one way
DOWN_MS: Final = 300  # how long a process takes to start again
REDIAL_MS: Final = 1_000  # when those dial again that have lost a link: ``Network.link``
_MESSAGE_BYTES: Final = HEAD_BYTES + 5
_FULL_BYTES: Final = HEAD_BYTES + 6

Told = dict[tuple[int, int], dict[int, Metric]]


@final
@dataclass(slots=True)
class Outcome:
    """What followed from a fault; times in ms.

    Attributes:
        kind: Of ``FAULTS``.
        what: The nodes it concerned.
        noticed_ms: From the fault to the last cause.
        bound_ms: What pairs have to converge in.
        converged_ms: Of each pair that keeps a path: how long it took.
        gone_ms: Of each pair that has none any more, likewise, and always from the fault.
        wrong: Pairs that are not as Dijkstra says.
        items: Announcements sent, and the least.
        size: Bytes sent, and the least.
        sent: Messages of the traffic.
        ttl_expired: Those of them that went in circles until they died.
        lost: Those that did not arrive.
    """

    kind: str
    what: str
    noticed_ms: int
    bound_ms: int
    converged_ms: list[int]
    gone_ms: list[int]
    wrong: int
    items: tuple[int, int]
    size: tuple[int, int]
    sent: int
    ttl_expired: int
    lost: int


def provoke(lab: Lab, kind: str) -> Outcome:
    """Let something go wrong, look for ``WINDOW_MS``, and repair it."""
    network = lab.network
    lab.clear()
    before, told = lab.oracle(), lab.told()
    expired = network.total("dropped_ttl_expired")
    begin_ms = network.now_ms
    what, dest, counts_from_fault, repair = FAULTS[kind](lab)
    sent = [0]
    received = _received(lab)
    _talk(lab, dest, sent)
    looks: list[tuple[int, Told]] = []
    if kind == "node restarted":  # it goes, comes with the links that it dials, and with the others
        for at_ms in (DOWN_MS - 1, REDIAL_MS - 1):
            network.run(begin_ms + at_ms - network.now_ms)
            looks.append((at_ms, lab.told()))
    network.run(begin_ms + WINDOW_MS - network.now_ms)
    after = lab.oracle()
    noticed_ms = lab.last_cause_ms - begin_ms
    outcome = Outcome(
        kind=kind,
        what=what,
        noticed_ms=noticed_ms,
        bound_ms=max(
            best[0] for row in (*before.values(), *after.values()) for best in row.values()
        )
        + 50,
        converged_ms=[],
        gone_ms=[],
        wrong=0,
        items=(lab.traffic.items, 0),
        size=(lab.traffic.size, 0),
        sent=sent[0],
        ttl_expired=network.total("dropped_ttl_expired") - expired,
        lost=sent[0] - (_received(lab) - received),
    )
    _judge(lab, outcome, begin_ms, counts_from_fault, after)
    states = [told, *(state for _, state in looks), lab.told()]
    least = [_least(one, two) for one, two in pairwise(states)]
    outcome.items = outcome.items[0], sum(items for items, _ in least)
    outcome.size = outcome.size[0], sum(size for _, size in least)
    repair()
    lab.settle()
    return outcome


def _judge(
    lab: Lab,
    outcome: Outcome,
    begin_ms: int,
    counts_from_fault: bool,
    after: Mapping[int, Mapping[int, Best]],
) -> None:
    causes = [when_ms - begin_ms for when_ms, *_ in lab.causes]
    last: dict[tuple[int, int], tuple[int, int | None, int]] = {}
    for when_ms, node_id, place, score, hop in lab.changes:
        if place < wire.SLOTS:
            last[node_id, place] = when_ms - begin_ms, score, hop
    routers = lab.routers()
    for (node_id, place), (when_ms, score, _) in last.items():
        if node_id not in routers:
            continue  # it died: what it did before is nobody's concern
        must = after[node_id].get(place)
        if score is None and must is None:
            outcome.gone_ms.append(when_ms)
        elif must is not None and score == must[0]:
            cause_ms = 0 if counts_from_fault else causes[bisect_right(causes, when_ms) - 1]
            outcome.converged_ms.append(when_ms - cause_ms)
    for node_id, router in routers.items():
        for place in after.keys() - {node_id}:
            best, must = router.chosen(place)[0], after[node_id].get(place)
            shown = None if best is None else best.metric.score
            outcome.wrong += shown != (None if must is None else must[0])


def _longest(*oracles: Mapping[int, Mapping[int, Best]]) -> int:
    return max(best[0] for oracle in oracles for row in oracle.values() for best in row.values())


def _least(before: Told, after: Told) -> tuple[int, int]:
    """Return how many announcements, and bytes, lead from one state to the next."""
    items = size = 0
    for ends, entries in after.items():
        known = before.get(ends)
        if known is None:
            items += len(entries)
            size += _FULL_BYTES + sum(len(encode_entry(p, m)) for p, m in entries.items())
            continue
        changed = [entries[p] for p in entries if entries[p] != known.get(p)]
        gone = len(known.keys() - entries.keys())
        items += len(changed) + gone
        if changed or gone:
            size += _MESSAGE_BYTES + 2 * gone + sum(len(encode_entry(0, m)) for m in changed)
    return items, size


def _received(lab: Lab) -> int:
    return lab.network.total("messages_delivered")


def _talk(lab: Lab, dest: int, sent: list[int]) -> None:
    """Send from everywhere; half of it to where the fault is."""
    network = lab.network
    ids = network.node_ids

    def some() -> None:
        for _ in range(4):
            source = lab.rng.choice(ids)
            goal = dest if lab.rng.random() < 0.5 else lab.rng.choice(ids)
            if source != goal:
                sent[0] += lab.send(source, goal)

    for at_ms in range(0, TALK_MS, TALK_EVERY_MS):
        network.call_at(network.now_ms + at_ms, some)


# -- the faults --------------------------------------------------------------------------------

#: what it concerned, where half of the traffic goes, whether time counts from the fault, the repair
Fault = tuple[str, int, bool, Callable[[], object]]


def _some_link(lab: Lab) -> tuple[int, int]:
    link = lab.rng.choice(lab.network.links)
    return link.a, link.b


def _cut(lab: Lab) -> Fault:
    a, b = _some_link(lab)
    lab.network.reset(a, b)
    lab.network.cut(a, b)
    return f"{a}-{b}", b, True, lambda: lab.network.heal(a, b)


def _silent_cut(lab: Lab) -> Fault:
    a, b = _some_link(lab)
    lab.network.cut(a, b)
    return f"{a}-{b}", b, False, lambda: lab.network.heal(a, b)


def _kill(lab: Lab) -> Fault:
    node_id = lab.rng.choice(lab.network.node_ids)
    lab.network.kill(node_id)
    return str(node_id), node_id, True, lambda: lab.network.restart(node_id)


def _power_failure(lab: Lab) -> Fault:
    node_id = lab.rng.choice(lab.network.node_ids)
    lab.network.kill(node_id, silent=True)
    return str(node_id), node_id, False, lambda: lab.network.restart(node_id)


def _restart(lab: Lab) -> Fault:
    node_id = lab.rng.choice(lab.network.node_ids)
    lab.network.kill(node_id)
    lab.network.call_at(lab.network.now_ms + DOWN_MS, lambda: lab.network.restart(node_id))
    return str(node_id), node_id, False, lambda: None


def _slow(lab: Lab) -> Fault:
    a, b = _some_link(lab)
    latency_ms = lab.network.path(a, b).quality.latency_ms
    lab.set_latency(a, b, SLOW_MS)
    return f"{a}-{b}", b, False, lambda: lab.set_latency(a, b, latency_ms)


FAULTS: Final[dict[str, Callable[[Lab], Fault]]] = {
    "link cut": _cut,
    "link cut in silence": _silent_cut,
    "node killed": _kill,
    "power failure of a node": _power_failure,
    "node restarted": _restart,
    "link slowed": _slow,
}
