"""Speed: how fast virtual time passes, beside the real one.

    heartbeats   10 nodes in a ring that do nothing but live
    crowd        300 nodes at random, 3 links each in the mean, likewise
    converge     1,000 nodes at random, from nothing until no table changes

Measured is processor time of this process, so that others on the machine matter less. Memory is the
most that the process has had, so far.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, final

from netcore._backend import BackendName
from netcore.sim import Network

__all__ = ["CASES", "Speed", "measure"]

LATENCY_MS: Final = 5
SLICE_MS: Final = 10_000  # of virtual time, between two looks at the clock


@final
@dataclass(frozen=True, slots=True)
class Speed:
    """One measurement.

    Attributes:
        case: Its name.
        backend: "fast" or "pure".
        nodes: How many.
        links: How many.
        build_s: Until the tables were right, in seconds of the processor.
        settled_ms: The same in virtual time.
        virtual_ms: How much virtual time passed after that ...
        run_s: ... and what it took.
        frames: Writes that left a node meanwhile.
        memory_mib: The most the process has had.
    """

    case: str
    backend: BackendName
    nodes: int
    links: int
    build_s: float
    settled_ms: int
    virtual_ms: int
    run_s: float
    frames: int
    memory_mib: int

    @property
    def text(self) -> str:
        """One line."""
        line = (
            f"{self.case:10} {self.backend:4} {self.nodes:>5} nodes {self.links:>5} links   "
            f"tables right after {self.settled_ms} ms in {self.build_s:.1f} s   "
        )
        if self.virtual_ms:
            times = self.virtual_ms / 1_000 / self.run_s
            each_us = self.run_s * 1e6 / max(1, self.frames)
            line += (
                f"{self.virtual_ms / 1_000:.0f} s in {self.run_s:.1f} s: {times:.0f} x real time, "
                f"{each_us:.0f} us a write   "
            )
        return line + f"{self.memory_mib} MiB"


#: Name -> how many nodes, how long they live on (virtual seconds, unless told otherwise), and how
#: they are linked.
CASES: Final[dict[str, tuple[int, int, Callable[[Network, int], object]]]] = {
    "heartbeats": (10, 3_600, lambda net, n: net.topology.ring(n, latency_ms=LATENCY_MS)),
    "crowd": (300, 600, lambda net, n: net.topology.random(n, latency_ms=LATENCY_MS)),
    "converge": (1_000, 0, lambda net, n: net.topology.random(n, latency_ms=LATENCY_MS)),
}


def measure(
    case: str, backend: BackendName, *, nodes: int = 0, virtual_s: int | None = None
) -> Iterator[float | Speed]:
    """Yield how far it is, from 0 to 1, and last the outcome.

    Args:
        case: A name of ``CASES``.
        backend: Of all nodes.
        nodes: How many; 0: as the case has it.
        virtual_s: How long they live on, in virtual seconds; None: as the case has it.
    """
    count, seconds, join = CASES[case]
    virtual_ms = 1_000 * (seconds if virtual_s is None else virtual_s)
    with Network(seed=1, backend=backend, keep_events=100) as network:
        begin_s = time.process_time()
        join(network, nodes or count)
        settled_ms = network.settle()
        built_s = time.process_time()
        events, end_ms = len(network.trace), network.now_ms + virtual_ms
        while (left_ms := end_ms - network.now_ms) > 0:
            network.run(min(left_ms, SLICE_MS))
            yield 1 - (left_ms - SLICE_MS) / virtual_ms
        yield Speed(
            case,
            backend,
            len(network.node_ids),
            len(network.links),
            built_s - begin_s,
            settled_ms,
            virtual_ms,
            time.process_time() - built_s,
            len(network.trace) - events,
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        )
