"""One seed of a campaign: play its scenario, and look at what must hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, final

from netcore.sim import Network, SimulationError

from . import liveness
from .crew import Crew
from .scenario import Scenario
from .tap import Tap
from .violation import Violation
from .watch import watch

__all__ = ["Outcome", "run"]

REST_MS: Final = 10_000  # until nothing is under way: a link is dead in less
KEPT_EVENTS: Final = 2_000
_POLITE: Final = frozenset({0})
_COPIES_ENDED: Final = (
    "broadcasts_received",
    "broadcasts_duplicate",
    "broadcasts_stale",
    "broadcast_copies_dropped",
)


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """How a seed has ended.

    Attributes:
        seed: Which.
        kind: Of the violation; empty: there was none.
        text: Its text.
        sent: Messages and calls that nodes accepted.
        delivered: Messages of which the probes saw the end.
        now_ms: Virtual time at the end.
        settled_ms: Liveness: how long after all links were up the tables were right.
    """

    seed: int
    kind: str
    text: str
    sent: int
    delivered: int
    now_ms: int
    settled_ms: int = 0


def run(scenario: Scenario) -> Outcome:
    """Play a scenario to its end."""
    crew = Crew(scenario)
    network = Network(
        scenario.seed, backend=scenario.backend, keep_events=KEPT_EVENTS, **scenario.options
    )
    network.allow_hook_errors = True  # the watch tells of them
    network.actions.update(
        send=crew.send, broadcast=crew.broadcast, close=crew.close, cross=crew.cross
    )
    crew.network = network
    network._fabric.tap = Tap(crew, secret=scenario.options["secret"] is not None)
    ledger = _Ledger(network)
    settled_ms = 0
    try:
        with network:
            _play(network, crew, scenario)
            if scenario.kind == "safety":
                liveness.repair(network)
                network.run(REST_MS)
                ledger.check()
            else:
                settled_ms = liveness.check(network, crew, scenario)
            crew.check_calls()
            network.close()
        if crew.violation is not None:
            raise crew.violation
    except Violation as violation:
        return _outcome(network, crew, violation.kind, violation.text)
    except SimulationError as error:
        return _outcome(network, crew, "simulation", str(error))
    return replace(_outcome(network, crew, "", ""), settled_ms=settled_ms)


def _play(network: Network, crew: Crew, scenario: Scenario) -> None:
    for operation in scenario.operations:
        network.run(max(0, operation[0] - network.now_ms))
        # What was left out by shrink may be needed by what was not.
        network.play([operation], behaviors=crew.behaviors, skip_invalid=True)
        if operation[1] == "add_node":
            watch(network, crew)
    network.run(max(0, scenario.end_ms - network.now_ms))


def _outcome(network: Network, crew: Crew, kind: str, text: str) -> Outcome:
    return Outcome(
        network.seed,
        kind,
        text,
        len(crew.sent) + len(crew.spreads) + len(crew.calls),
        crew.seen,
        network.now_ms,
    )


@final
class _Ledger:
    """Does what was sent equal what was delivered and dropped?

    Equal it is where nobody died and no link broke: a stream that breaks takes with it what was in
    the systems' buffers, and nobody can tell how much. Else there is no more of it than was sent.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._broken = False
        network.trace.watch(self._on_event)

    def _on_event(self, event: tuple[int | str, ...]) -> None:
        if event[1] == "down" and event[4] not in _POLITE:
            self._broken = True

    def check(self) -> None:
        """Compare.

        Raises:
            Violation: It does not.
        """
        network = self._network
        nodes = network._fabric.nodes.values()
        totals = [node.total for node in nodes]
        sent = sum(total("messages_sent") for total in totals)
        ended = sum(total("messages_delivered") + total("dropped") for total in totals)
        is_whole = not self._broken and not any(node.past for node in nodes)
        if ended > sent or (ended < sent and is_whole):
            raise Violation("account", f"{sent} sent, {ended} delivered or dropped")
        copies = sum(total("broadcast_copies") for total in totals)
        came = sum(total(name) for name in _COPIES_ENDED for total in totals)
        if came > copies or (came < copies and is_whole):
            raise Violation("account", f"{copies} copies of broadcasts, {came} ended")
