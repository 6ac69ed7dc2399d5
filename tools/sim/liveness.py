"""What must become true again once the faults are over."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from netcore import RouteRule
from netcore.sim import Network

from .crew import Crew
from .oracle import check_owners, compare
from .scenario import EXTRA_SERVICES, LONGEST_CALL_MS, PROBE, Scenario
from .spread import LEVELS
from .violation import Violation

__all__ = ["check", "repair"]

LINKS_MS: Final = 60_000  # TCP tries again ever more rarely, and dials have their timeouts
LATE_MS: Final = 6_300  # what TCP has lost five times is there by then
TABLES_MS: Final = 3_000
TRAFFIC_MS: Final = 20_000
STEP_MS: Final = 50


def repair(network: Network) -> None:
    """End all faults that have not ended, the loss of packets among them, and its effects."""
    network.heal()
    is_lossy = False
    for link in network.links:
        quality = network.path(link.a, link.b).quality
        if quality.loss:  # it falls silent now and then, which suspends its routes
            is_lossy = True
            network.link(
                link.a,
                link.b,
                latency_ms=quality.latency_ms,
                jitter_ms=quality.jitter_ms,
                bandwidth_kbps=quality.bandwidth_kbps,
                redial_ms=link.redial_ms,
            )
    for node_id in network.node_ids:
        if not network.is_running(node_id):
            network.restart(node_id)
        elif network.is_frozen(node_id):
            network.thaw(node_id)
    if is_lossy:
        network.run(LATE_MS)


def check(network: Network, crew: Crew, scenario: Scenario) -> int:
    """Let everything come to rest, and look.

    Returns:
        How long after all links were up the tables were right, in ms.

    Raises:
        Violation: It did not, or it is not as it must be.
    """
    repair(network)
    why: str | None = ""
    end_ms = network.now_ms + LINKS_MS
    up_ms: int | None = None  # since when all links are up
    while True:
        network.run(STEP_MS)
        missing = _missing(network)
        if missing is not None:
            up_ms = None
            if network.now_ms > end_ms:
                raise Violation("links", missing)
            continue
        up_ms = network.now_ms if up_ms is None else up_ms
        why = compare(network, scenario.services)
        if why is None:
            break
        if network.now_ms - up_ms >= TABLES_MS:
            raise Violation("tables", f"{network.now_ms - up_ms} ms after all links were up: {why}")
    rng = Random(scenario.seed)
    check_owners(network, [*network.node_ids, *(rng.randrange(1 << 32) for _ in range(20))])
    settled_ms = network.now_ms - up_ms
    _check_traffic(network, crew, scenario)
    return settled_ms


def _missing(network: Network) -> str | None:
    """Return a link that is not up, alive and the only one of its pair; None: there is none."""
    wanted: dict[int, list[int]] = {node_id: [] for node_id in network.node_ids}
    for link in network.links:
        wanted[link.a].append(link.b)
        wanted[link.b].append(link.a)
    for node_id, peers in wanted.items():
        found = network.node(node_id).connections
        there = sorted(stats.remote_node_id for stats in found)
        if there != sorted(peers):
            return f"node {node_id} has links to {there}, not to {sorted(peers)}"
        for stats in found:
            if stats.suspect or stats.closing:
                return f"node {node_id}: the link to {stats.remote_node_id} is suspect or closing"
    return None


def _check_traffic(network: Network, crew: Crew, scenario: Scenario) -> None:
    """Send from everywhere to everywhere; all of it must arrive, where it belongs."""
    numbers: list[int] = []
    ids = network.node_ids
    offered = {service for services in scenario.services.values() for service in services}
    for source in ids:
        numbers += [_sent(crew, source, "node", dest, PROBE) for dest in ids]
        numbers += [_sent(crew, source, "key", dest, PROBE) for dest in ids]
        numbers += [
            _sent(crew, source, "service", 0, service)
            for service in EXTRA_SERVICES
            if service in offered
        ]
        network.run(20)  # the queues of some networks are short
    _wait(network, lambda: all(crew.sent[n].delivered is not None for n in numbers), "messages")
    _check_broadcasts(network, crew, scenario)
    network.run(LONGEST_CALL_MS)  # calls from before leave no room for new ones in some networks
    calls = [
        crew.begin_call(source, RouteRule.node(dest), PROBE, TRAFFIC_MS)
        for source, dest in zip(ids, [*ids[1:], ids[0]], strict=True)
    ]
    what = [call for call in calls if call is not None]
    if len(what) < len(calls):
        raise Violation("traffic", "a call was refused")
    _wait(network, lambda: all(call.times for call in what), "calls")
    for number in numbers:
        sent = crew.sent[number]
        if sent.rule == "key" and sent.delivered != sent.dest:
            raise Violation("traffic", f"{sent.dest}'s key went to {sent.delivered}")


def _check_broadcasts(network: Network, crew: Crew, scenario: Scenario) -> None:
    """Broadcast from everywhere; whoever offers the service within the level must hear it."""
    spreads = []
    for at, source in enumerate(network.node_ids):
        spread = crew.spread(source, LEVELS[at % len(LEVELS)], PROBE)
        if spread is None:
            raise Violation("traffic", f"node {source} refused a broadcast")
        spreads.append(spread)
        network.run(20)
    _wait(network, lambda: not any(s.missing(scenario.services) for s in spreads), "broadcasts")


def _sent(crew: Crew, source: int, how: str, dest: int, service: int) -> int:
    number = crew.send_one(source, how, dest, service)
    if not number:
        raise Violation("traffic", f"node {source} refused a message to {how} {dest}/{service}")
    return number


def _wait(network: Network, condition: Callable[[], bool], what: str) -> None:
    for _ in range(TRAFFIC_MS // STEP_MS):
        if condition():
            return
        network.run(STEP_MS)
    raise Violation("traffic", f"{what} did not arrive in {TRAFFIC_MS} ms")
