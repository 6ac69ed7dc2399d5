"""netcore over lossy links under load: is a living neighbour ever suspected?

``python -m tools.failover calm``: for each loss a line of three nodes and a fourth one that idles
at the middle one, each in a namespace of its own, links with latency and loss between them;
messages from one end to the other; every core loaded by ``stress-ng``. All losses run at the same
time.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from netcore.cli.screen import Screen
from tools.netlab import Lab, Link, Shape, why_not

from . import report
from .actor import Part
from .figures import count_missing, longest_gap_ms
from .results import Results
from .stage import Process

__all__ = ["Outcome", "Run", "main"]

MODULE: Final = "tools.failover.systems.netcore_node"
RATE: Final = 500
SOURCE, MIDDLE, SINK, IDLE = range(4)
ROLES: Final = ("source", "relay", "sink", "relay")
PORT: Final = 5_000  # in namespaces of our own every port is free
#: What was sent last may take: several retransmissions of TCP, each after twice the time.
LAST_ONES_S: Final = 30.0
LOOK_S: Final = 1.0


@dataclass(frozen=True)
class Outcome:
    """What one network saw.

    Attributes:
        loss: Share of packets lost, on each link and in each direction.
        seconds: How long messages were sent.
        links: Links with loss.
        packets: Packets that went into them.
        packets_lost: Those that vanished.
        sent: Messages sent.
        missing: Those that did not arrive.
        again: Those that arrived twice.
        closed: Links that closed, at either end.
        suspects: Times that a node suspected a link.
        longest_gap_ms: Without a message at the sink.
    """

    loss: float
    seconds: float
    links: int
    packets: int
    packets_lost: int
    sent: int
    missing: int
    again: int
    closed: int
    suspects: int
    longest_gap_ms: float

    @property
    def is_calm(self) -> bool:
        """Whether nobody closed a link, and nothing was lost."""
        return not (self.closed or self.missing or self.again)


class Run:
    """A network with loss; a context manager.

    Args:
        shape: Of all its links.
        rate: Messages per second.
    """

    def __init__(self, shape: Shape, rate: int = RATE) -> None:
        self._shape = shape
        self._rate = rate
        self._stack = ExitStack()
        self._processes: list[Process] = []
        self._links: list[Link] = []
        self._began_ns = 0

    def __enter__(self) -> Run:
        try:
            self._build()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _build(self) -> None:
        lab = self._stack.enter_context(Lab(seed=round(self._shape.loss * 1_000)))
        spaces = [lab.space(name) for name in ("source", "middle", "sink", "idle")]
        dials: dict[int, list[tuple[int, str, int]]] = {node: [] for node in range(4)}
        listens: list[tuple[str, int]] = []
        for node in (SOURCE, SINK, IDLE):
            link = lab.link(spaces[node], spaces[MIDDLE], self._shape)
            self._links.append(link)
            dials[node].append((MIDDLE, link.b.addr, PORT))
            listens.append((link.b.addr, PORT))
        for node, role in enumerate(ROLES):
            part = Part(
                node=node,
                role=role,
                sink=SINK,
                rate=self._rate,
                listen=listens if node == MIDDLE else [],
                dial=dials[node],
                neighbours=dials[node],
                extra={"insecure": True},
            )
            process = Process(MODULE, asdict(part), spaces[node])
            self._stack.callback(process.close)
            self._processes.append(process)
        for process in self._processes:
            process.read()
        for process in self._processes:
            process.ask("dial")

    def begin(self) -> None:
        """Send, once there is a way."""
        self._wait(lambda: all(p.ask("stats")["links_opened"] for p in self._processes))
        self._wait(lambda: self._processes[SOURCE].ask("has_route")["route"])
        self._began_ns = time.monotonic_ns()
        self._processes[SOURCE].ask("send")

    def wait_for(self, messages: int) -> None:
        """Wait until so many have arrived.

        Raises:
            TimeoutError: They do not.
        """
        self._wait(lambda: self._processes[SINK].ask("look")["count"] >= messages)

    def suspects(self) -> int:
        """Return how often a node suspected a link until now."""
        return sum(process.ask("stats")["suspects"] for process in self._processes)

    def end(self) -> Outcome:
        """Send no more, wait for what is under way, and return what happened."""
        sent = self._processes[SOURCE].ask("stop")
        ended_ns = time.monotonic_ns()
        sink = self._processes[SINK]
        with suppress(TimeoutError):  # what is missing then is in the outcome
            self._wait(lambda: sink.ask("look")["count"] >= sent["sent"])
        arrivals = sink.ask("report")
        missing, again = count_missing(arrivals["numbers"], 0, sent["sent"])
        counts = [count for link in self._links for count in link.counts()]
        stats = [process.ask("stats") for process in self._processes]
        return Outcome(
            loss=self._shape.loss,
            seconds=(ended_ns - self._began_ns) / 1e9,
            links=len(self._links),
            packets=sum(c.carried + c.lost + c.overflowed for c in counts),
            packets_lost=sum(c.lost + c.overflowed for c in counts),
            sent=sent["sent"],
            missing=missing,
            again=again,
            closed=sum(s["links_closed"] for s in stats),
            suspects=sum(s["suspects"] for s in stats),
            longest_gap_ms=longest_gap_ms(arrivals["stamps"], self._began_ns, ended_ns),
        )

    def _wait(self, condition: Callable[[], bool]) -> None:
        give_up = time.monotonic() + LAST_ONES_S
        while not condition():
            if time.monotonic() > give_up:
                raise TimeoutError("it does not come true")
            time.sleep(0.05)


@contextmanager
def load(seconds: float) -> Iterator[None]:
    """Load every core while the block runs, but not for much longer than it should."""
    process = subprocess.Popen(
        ["stress-ng", "--cpu", str(os.cpu_count()), "--timeout", f"{seconds + LAST_ONES_S:.0f}s"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def main(argv: Sequence[str]) -> int:
    """Run, and write the report."""
    parser = argparse.ArgumentParser(prog="python -m tools.failover calm", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="(default: 600)")
    parser.add_argument("--loss", type=float, nargs="+", default=[0.01, 0.05], help="shares")
    parser.add_argument("--latency-ms", type=float, default=5.0)
    parser.add_argument("--jitter-ms", type=float, default=2.0)
    parser.add_argument("--no-load", action="store_true", help="leave the cores alone")
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks"), metavar="FOLDER")
    parser.add_argument("--date", default=datetime.date.today().isoformat())
    options = parser.parse_args(argv)
    reason = why_not()
    if reason is None and not options.no_load and shutil.which("stress-ng") is None:
        reason = "stress-ng is not installed"
    if reason is not None:
        print(f"cannot run here: {reason}", file=sys.stderr)
        return 1
    shapes = [Shape(options.latency_ms, options.jitter_ms, loss) for loss in options.loss]
    outcomes = _run(shapes, options.seconds, loaded=not options.no_load)
    results = Results(options.output / "failover.json")
    results.set_calm(asdict(outcome) for outcome in outcomes)
    for problem in report.write(options.output, results, options.date):
        print(problem, file=sys.stderr)
    return 0 if all(outcome.is_calm for outcome in outcomes) else 1


def _run(shapes: Sequence[Shape], seconds: float, *, loaded: bool) -> list[Outcome]:
    screen = Screen(sys.stderr)
    with ExitStack() as stack:
        if loaded:
            stack.enter_context(load(seconds))
        runs = [stack.enter_context(Run(shape)) for shape in shapes]
        for run in runs:
            run.begin()
        began, shown = time.monotonic(), 0.0
        while (passed := time.monotonic() - began) < seconds:
            time.sleep(min(LOOK_S, seconds - passed))
            if screen.live or passed - shown > 60:
                counts = ", ".join(
                    f"{shape.loss:.0%} loss: {run.suspects()} suspicions"
                    for shape, run in zip(shapes, runs, strict=True)
                )
                line = f"[{passed:.0f}/{seconds:.0f} s] {counts}"
                (screen.show([line]) if screen.live else screen.say(line))
                shown = passed
        screen.show([])
        outcomes = [run.end() for run in runs]
    for outcome in outcomes:
        screen.say(str(outcome), "" if outcome.is_calm else "bad")
    return outcomes


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
