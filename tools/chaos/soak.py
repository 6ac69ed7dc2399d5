"""A long run: a million messages and more, reconnects, hook errors; memory and descriptors flat.

Three nodes in a line in this process: a source, a relay, a sink. Small and large messages, calls
and broadcasts go over both links at full speed, never more than a window of them at once. Every so
often a link is closed and dialled again, and a hook raises. At the end every message is accounted
for, and neither memory nor objects nor descriptors have grown.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from netcore import (
    BehaviorAgent,
    CallAnswer,
    Message,
    NetworkBehavior,
    Node,
    RouteRule,
    RpcAnswer,
    RpcRequest,
)
from netcore.cli.screen import Screen

from .growth import MIB, anonymous_bytes, mib
from .scenario import Table

SERVICE: Final = 10
WINDOW: Final = 2_000
SMALL, LARGE = bytes(64), bytes(40_000)
MOST_GROWN: Final = MIB
PATIENCE_S: Final = 30.0
CALL_MS: Final = 60_000  # on a machine with no time for this process a window takes seconds


class Sink(NetworkBehavior):
    """Counts what arrives; raises when it is told to."""

    service_id = SERVICE

    def __init__(self) -> None:
        self.messages = self.broadcasts = self.calls = self.raised = 0

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Count."""
        if message.route.kind == RouteRule.services().kind:
            self.broadcasts += 1
            return
        self.messages += 1
        if message.meta:
            self.raised += 1
            raise RuntimeError("a hook that fails now and then")

    def on_rpc(self, agent: BehaviorAgent, req: RpcRequest, res: RpcAnswer) -> bool:
        """Answer."""
        self.calls += 1
        res.ok(req.payload)
        return True


class Source(NetworkBehavior):
    """Sends."""

    service_id = SERVICE

    def __init__(self) -> None:
        self.messages = self.broadcasts = self.calls = self.answers = 0
        self.failed: Counter[str] = Counter()

    def on_answer(self, answer: CallAnswer) -> None:
        """Count an answer."""
        self.answers += answer.ok
        if not answer.ok:
            self.failed[type(answer.error).__name__] += 1


class Line:
    """The three nodes."""

    def __init__(self) -> None:
        self.source, self.sink = Source(), Sink()
        self.nodes = [Node(1, [self.source]), Node(2), Node(3, [self.sink])]
        self.addr = self.nodes[1].listen("/ip4/127.0.0.1/tcp/0")
        self.agent = self.nodes[0].agent(SERVICE)
        self.reconnects = 0
        self.turned = time.monotonic()
        self.longest_s = 0.0  # between two turns: also what others took of the machine
        for node in (self.nodes[0], self.nodes[2]):
            node.connect(self.addr)
        self.until(self.is_up)

    def is_up(self) -> bool:
        """Return whether there is a way to the sink, and the links that belong to it only."""
        return (
            self.nodes[0].router.path_to_node(3).is_next
            and len(self.nodes[1].connections) == 2
            and not any(link.closing for link in self.nodes[1].connections)
        )

    def turn(self, wait_s: float = 0) -> None:
        """Let each node make a turn."""
        for node in self.nodes:
            node.poll(0)
        now = time.monotonic()
        self.longest_s = max(self.longest_s, now - self.turned)
        self.turned = now
        if wait_s:
            time.sleep(wait_s)

    def until(self, condition: Callable[[], bool]) -> None:
        """Make turns until something is so."""
        end = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > end:
                raise RuntimeError("it did not come to that in time")
            self.turn(0.001)

    def under_way(self) -> int:
        """Return how many messages, calls and broadcasts have not arrived."""
        source, sink = self.source, self.sink
        return (
            source.messages
            - sink.messages
            + source.broadcasts
            - sink.broadcasts
            + source.calls
            - source.answers
            - source.failed.total()
        )

    def send(self) -> None:
        """Send what the window takes, then make a turn."""
        source, agent = self.source, self.agent
        for _ in range(max(0, WINDOW - self.under_way()) // 100):
            for _ in range(97):
                agent.send_to_node(3, SMALL)
            agent.send_to_node(3, LARGE)
            agent.broadcast(SMALL)
            agent.call(RouteRule.node(3), SERVICE, SMALL, source.on_answer, CALL_MS)
            source.messages += 98
            source.broadcasts += 1
            source.calls += 1
        self.turn()

    def disturb(self) -> None:
        """Close one link and dial again, let a hook raise; nothing is under way meanwhile."""
        self.until(lambda: self.under_way() == 0)
        end = self.nodes[2 * (self.reconnects % 2)]
        end.agent(SERVICE).close_conn(end.connections[0].conn_id)
        self.until(lambda: not end.connections)
        end.connect(self.addr)
        self.reconnects += 1
        self.until(self.is_up)
        self.agent.send_to_node(3, SMALL, meta=1)
        self.source.messages += 1
        self.until(lambda: self.under_way() == 0)

    def close(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            node.close(0)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--seconds", type=float, default=1_800, help="at least (default: 1800)")
    parser.add_argument("--messages", type=int, default=1_000_000, help="at least (default: 10^6)")
    parser.add_argument(
        "--every", type=float, default=60, help="seconds between disturbances (default: 60)"
    )


def run(options: argparse.Namespace, screen: Screen, table: Table) -> None:
    """Run, and measure all the time."""
    logging.getLogger("netcore").setLevel(logging.CRITICAL)  # the errors are on purpose
    fds = len(os.listdir("/proc/self/fd"))
    line = Line()
    try:
        soak(line, options, screen, table)
    finally:
        line.close()
        logging.getLogger("netcore").setLevel(logging.NOTSET)
    left = len(os.listdir("/proc/self/fd"))
    table.add(
        "descriptors after the nodes, and before", f"{left}, {fds}", "equal", holds=left == fds
    )


def soak(line: Line, options: argparse.Namespace, screen: Screen, table: Table) -> None:
    """Send, disturb, look; then put what was seen into the table."""
    start = time.monotonic()
    line.disturb()  # once for each kind of thing that is made when first needed
    line.disturb()
    warm_until = start + min(5.0, options.seconds / 4)
    disturbed = time.monotonic()
    samples: list[tuple[int, int, int]] = []
    looked = 0.0
    while (now := time.monotonic()) < start + options.seconds or (
        line.source.messages < options.messages
    ):
        for _ in range(20):
            line.send()
        if now - disturbed >= options.every:
            line.disturb()
            disturbed = time.monotonic()
        if now - looked >= min(1.0, options.seconds / 50) and now > warm_until:
            looked = now
            samples.append(look(line))
            screen.show(
                [
                    f"[{now - start:.0f} s of {options.seconds:.0f}] "
                    f"{line.source.messages:,} messages, {line.reconnects} reconnects, "
                    f"{mib(samples[-1][0])}"
                ]
            )
    line.disturb()
    line.until(lambda: line.under_way() == 0)
    samples.append(look(line))
    report(line, samples, time.monotonic() - start, table)


def look(line: Line) -> tuple[int, int, int]:
    """Return memory, objects and descriptors, when nothing is under way."""
    line.until(lambda: line.under_way() == 0)
    gc.collect()
    return anonymous_bytes(), len(gc.get_objects()), len(os.listdir("/proc/self/fd"))


def report(line: Line, samples: list[tuple[int, int, int]], seconds: float, table: Table) -> None:
    """Put everything into the table."""
    third = max(1, len(samples) // 3)
    first, last = samples[:third], samples[-third:]
    memory = [statistics.median(s[0] for s in part) for part in (first, last)]
    objects = [statistics.median(s[1] for s in part) for part in (first, last)]
    fds = {s[2] for s in samples}
    source, sink = line.source, line.sink
    stats = [node.stats() for node in line.nodes]
    dropped = sum(s.dropped + s.broadcast_copies_dropped for s in stats)
    table.add("seconds", f"{seconds:.0f}")
    table.add("messages sent, arrived", f"{source.messages}, {sink.messages}", "equal",
              holds=source.messages == sink.messages)  # fmt: skip
    table.add("broadcasts", f"{source.broadcasts}, {sink.broadcasts}", "equal",
              holds=source.broadcasts == sink.broadcasts)  # fmt: skip
    failed = ", ".join(f"{count} {name}" for name, count in source.failed.items())
    table.add("calls, answers", f"{source.calls}, {source.answers}", failed or "equal",
              holds=source.calls == source.answers == sink.calls)  # fmt: skip
    table.add("dropped anywhere", dropped, "0", holds=dropped == 0)
    table.add("longest time between turns", f"{line.longest_s:.1f} s")
    table.add("reconnects", line.reconnects)
    errors = sum(s.hook_errors for s in stats)
    table.add("hook errors, raised", f"{errors}, {sink.raised}", "equal",
              holds=errors == sink.raised == line.reconnects)  # fmt: skip
    table.add("memory, first third", mib(memory[0]))
    grown = memory[1] - memory[0]
    table.add(
        "memory, last third", mib(memory[1]), f"+ {mib(MOST_GROWN)}", holds=grown < MOST_GROWN
    )
    table.add("objects, first and last third", f"{objects[0]:.0f}, {objects[1]:.0f}", "+ 100",
              holds=objects[1] - objects[0] < 100)  # fmt: skip
    table.add("descriptors", ", ".join(map(str, sorted(fds))), "one number", holds=len(fds) == 1)
