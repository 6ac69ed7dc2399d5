"""A compiled call runs the two hooks of its user, and no other Python code."""

from __future__ import annotations

import sys
from collections import Counter
from types import FrameType
from typing import Any

import pytest

from netcore import NetworkBehavior, RouteRule
from support.nodes import nodes_of

CALLS = 500
IN_FLIGHT = 50


class Peer(NetworkBehavior):
    """Answers calls, and calls until enough were answered."""

    service_id = 30

    def __init__(self) -> None:
        self.agent: Any = None
        self.rule = RouteRule.node(2)
        self.started = self.done = 0

    def on_rpc(self, agent: Any, req: Any, res: Any) -> bool:
        res.ok(req.payload)
        return True

    def on_done(self, answer: Any) -> None:
        self.done += answer.ok
        if self.started % CALLS:
            self.started += 1
            self.agent.call(self.rule, 30, b"x" * 64, self.on_done)

    def begin(self) -> None:
        self.started += IN_FLIGHT
        for _ in range(IN_FLIGHT):
            self.agent.call(self.rule, 30, b"x" * 64, self.on_done)


def test_compiled_calls_run_only_the_hooks_of_their_users() -> None:
    pytest.importorskip("netcore._fast.calls")

    def profile(frame: FrameType, event: str, arg: object) -> None:
        if event == "call":
            called[frame.f_code.co_name] += 1

    with nodes_of("fast") as nodes:
        # No tick and no ping may fall into the measurement: they are Python, and rare.
        quiet = {"tick_ms": 60_000, "ping_interval_ms": 60_000, "max_ping_interval_ms": 60_000}
        peers = Peer(), Peer()
        one, two = (nodes.add(node_id, peer, **quiet) for node_id, peer in enumerate(peers, 1))
        nodes.join(one, two)
        nodes.settle()
        peers[0].agent = one.agent(30)
        least: list[int] = []
        for run in range(1, 4):
            called: Counter[str] = Counter()
            peers[0].begin()
            while peers[0].done < run * CALLS:
                for node in (one, two):
                    run_once = node._loop.run_once
                    sys.setprofile(profile)
                    run_once(0)
                    sys.setprofile(None)
            assert called["on_rpc"] == called["on_done"] == CALLS
            least.append(called.total() - 2 * CALLS)
        # router_sync may speak in one of the runs; it never does in all of them.
        assert min(least) == 0
