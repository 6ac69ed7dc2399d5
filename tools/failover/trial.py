"""One repetition: build the network, let messages flow, make the fault, see how long they stop."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from tools.netlab import Lab, Space

from .contenders import Contender, Way, part_of
from .figures import count_missing, first_after, gaps, longest_gap_ms
from .layout import SOURCE, Addresses, Layout
from .stage import Stage, StageError

__all__ = ["FAULTS", "Fault", "Record", "Trial"]

RATE: Final = 500
BEFORE_S: Final = 0.6  # undisturbed, for comparison
FLOW_TIMEOUT_S: Final = 40.0
#: Of the messages that are due in 200 ms, those that must have come: they flow.
FLOWING: Final = RATE * 0.2 * 0.75
LOOK_S: Final = 0.05
SHORTEST_GAP_MS: Final = 6.0  # kept for the plots
AFTERMATH_S: Final = 0.3  # what a fault may still cause once messages flow again
#: Nobody notices mere silence so soon: a shorter gap means that messages had just changed ways.
NOTICED_MS: Final = 100.0
#: How the error of a trial begins whose fault changed nothing.
HIT_NOTHING: Final = "the fault hit nothing that was in use"
GONE_S: Final = 0.3  # between the death of a relay and its restart


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Attributes:
        key: As the command line knows it.
        title: As the report has it.
        watch_s: For so long at least messages are watched after it.
        limit_ms: What netcore has to keep, 99 times of 100.
    """

    key: str
    title: str
    watch_s: float
    limit_ms: float


FAULTS: Final = {
    fault.key: fault
    for fault in (
        Fault("kill", "relay killed (SIGKILL)", 0.6, 20.0),
        Fault("stop", "relay stopped (SIGSTOP)", 1.0, 700.0),
        Fault("drop", "link silently dropped (nftables)", 1.0, 700.0),
        Fault("restart", "relay restarted, no other way", 0.0, 300.0),
    )
}


@dataclass
class Record:
    """What one repetition found.

    Attributes:
        system: Name of the contender.
        layout: Key of the layout.
        fault: Key of the fault.
        repetition: From 0.
        error: Why there are no figures; empty: there are.
        ms: The longest gap; of a restart, the time from the begin of the dial to the first message.
        recovered: Whether messages flowed again within the patience; if not, ``ms`` is that.
        before_ms: The longest gap in the time before.
        missing: Messages that were sent after the fault, and accepted, and never came.
        again: Messages that came twice.
        refused: Sends after the fault that raised.
        gaps: (begin after the fault, length) in ms, of those worth drawing.
    """

    system: str
    layout: str
    fault: str
    repetition: int
    error: str = ""
    ms: float = 0.0
    recovered: bool = False
    before_ms: float = 0.0
    missing: int = 0
    again: int = 0
    refused: int = 0
    gaps: list[tuple[float, float]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


class Trial:
    """One repetition.

    Args:
        contender: Who.
        layout: In which network.
        fault: What goes wrong.
        repetition: Its number; chooses which of several relays or links it is.
        isolated: Run in a namespace of its own, which links dropped by nftables need.
    """

    def __init__(
        self,
        contender: Contender,
        layout: Layout,
        fault: Fault,
        repetition: int,
        isolated: bool,
    ) -> None:
        self._contender = contender
        self._layout = layout
        self._fault = fault
        self._isolated = isolated
        self._addresses = Addresses.choose(layout, isolated)
        # The same for all systems, so that each has the same share of near and far ones.
        self._rng = random.Random(f"{layout.key} {fault.key} {repetition}")
        self._record = Record(contender.name, layout.key, fault.key, repetition)
        self._space: Space | None = None

    def run(self) -> Record:
        """Do it; what goes wrong in doing so is in the record."""
        try:
            with self._ground(), Stage(self._contender.module, self._space) as stage:
                self._begin(stage)
                self._measure(stage)
        except (StageError, OSError) as error:
            self._record.error = str(error) or type(error).__name__
        return self._record

    @contextmanager
    def _ground(self) -> Iterator[None]:
        if not self._isolated:
            yield
            return
        with Lab() as lab:
            self._space = lab.space("net")
            yield

    # -- before the fault ------------------------------------------------------------------------

    def _begin(self, stage: Stage) -> None:
        layout = self._layout
        for node in layout.nodes:
            stage.start(node, self._part(node))
        for node in layout.nodes:
            stage[node].read()  # it is ready
        ends = [node for node in layout.nodes if layout.role(node) != "relay"]
        order = layout.nodes
        if self._contender.dials_last:
            order = [node for node in layout.nodes if node not in ends] + ends
        for node in order:
            stage[node].tell("dial")
        for node in order:
            stage[node].read()
        stage[SOURCE].ask("send")
        self._await_flow(stage)
        time.sleep(self._contender.settle_s)

    def _part(self, node: int) -> dict[str, Any]:
        return part_of(self._contender, self._layout, node, self._addresses, RATE)

    def _await_flow(self, stage: Stage, timeout_s: float = FLOW_TIMEOUT_S) -> bool:
        give_up = time.monotonic() + timeout_s
        while stage[self._layout.sink].ask("look")["recent"] < FLOWING:
            if time.monotonic() > give_up:
                if timeout_s == FLOW_TIMEOUT_S:
                    raise StageError("messages do not flow, before any fault")
                return False
            time.sleep(LOOK_S)
        return True

    # -- the fault -------------------------------------------------------------------------------

    def _measure(self, stage: Stage) -> None:
        time.sleep(BEFORE_S)
        way = self._contender.find_way(self._layout, stage)  # last: it may still change at first
        before = stage[SOURCE].ask("report")
        if self._fault.key == "restart":
            since_ns = self._restart(stage, way)
        else:
            since_ns = self._break(stage, way)
        time.sleep(self._fault.watch_s)
        patience_s = self._contender.patience_s - self._fault.watch_s
        record = self._record
        record.recovered = self._await_flow(stage, patience_s)
        if record.recovered:
            time.sleep(AFTERMATH_S)
        self._evaluate(stage, before, since_ns, time.monotonic_ns())

    def _break(self, stage: Stage, way: Way) -> int:
        """Make the fault; return when, in ns."""
        if self._fault.key == "drop":
            assert self._space is not None
            net = self._addresses.net(self._rng.choice(way.links))
            started_ns = time.monotonic_ns()
            self._space.drop(f"ip saddr {net}.0/24", f"ip daddr {net}.0/24")
            return started_ns
        victim = stage[self._rng.choice(way.relays)]
        return victim.kill() if self._fault.key == "kill" else victim.freeze()

    def _restart(self, stage: Stage, way: Way) -> int:
        """Leave one way only, kill a relay on it, start it again; return when it began to dial."""
        stage[way.spare].kill()
        time.sleep(self._fault.watch_s + LOOK_S)
        self._await_flow(stage)
        time.sleep(BEFORE_S)
        victim = self._rng.choice(way.vital)
        killed_ns = stage[victim].kill()
        time.sleep(GONE_S)
        looked = stage[self._layout.sink].ask("look")
        if looked["last_ns"] > killed_ns + GONE_S * 0.5e9:
            raise StageError("messages flow without the relay that is to be restarted")
        reborn = stage.start(victim, self._part(victim))
        reborn.read()
        dial_ns: int = reborn.ask("dial_all")["dial_ns"]
        return dial_ns

    # -- what came of it -------------------------------------------------------------------------

    def _evaluate(
        self, stage: Stage, before: Mapping[str, int], since_ns: int, until_ns: int
    ) -> None:
        record = self._record
        sent = stage[SOURCE].ask("stop")
        time.sleep(LOOK_S)
        report = stage[self._layout.sink].ask("report")
        stamps: list[int] = report["stamps"]
        record.refused = sent["refused"] - before["refused"]
        missing, record.again = count_missing(report["numbers"], before["sent"], sent["sent"])
        record.missing = missing - record.refused
        if self._fault.key == "restart":
            came_ns = first_after(stamps, since_ns)
            record.ms = ((came_ns or until_ns) - since_ns) / 1e6
        else:
            before_ns = since_ns - int(BEFORE_S * 1e9)
            undisturbed = [stamp for stamp in stamps if stamp <= since_ns]
            record.before_ms = longest_gap_ms(undisturbed, before_ns, since_ns)
            record.ms = longest_gap_ms(stamps, since_ns, until_ns)
            if self._fault.key in ("stop", "drop") and record.ms < NOTICED_MS:
                raise StageError(f"{HIT_NOTHING}: {record.ms:.1f} ms")
        record.gaps = [
            (round(begin, 1), round(length, 1))
            for begin, length in gaps(stamps, since_ns, until_ns, SHORTEST_GAP_MS)
        ]
