"""A compiled relay works without the interpreter: no Python frame, no object per message."""

from __future__ import annotations

import sys
from types import FrameType

import pytest

from netcore import Node
from support.nodes import SINK, Nodes, nodes_of

MESSAGES = 2_000


def _relay_turns(nodes: Nodes, sender: Node, relay: Node) -> tuple[list[str], int]:
    """Return which Python functions ran in the relay's loop, and how many memory blocks it kept."""
    agent = sender.agent(SINK)
    for _ in range(MESSAGES):
        agent.send_to_node(3, b"x" * 64)
    before = relay.stats().messages_relayed
    called: list[str] = []

    def profile(frame: FrameType, event: str, arg: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_qualname if sys.version_info >= (3, 11) else "?")

    blocks = sys.getallocatedblocks()
    while relay.stats().messages_relayed < before + MESSAGES:
        sender.poll(0)
        run_once = relay._loop.run_once
        sys.setprofile(profile)
        run_once(0)
        sys.setprofile(None)
    blocks = sys.getallocatedblocks() - blocks
    nodes.settle()
    return called, blocks


def test_compiled_relay_runs_no_python_frame_per_message() -> None:
    pytest.importorskip("netcore._fast.switch")
    with nodes_of("fast") as nodes:
        # No tick and no ping may fall into the measurement: they are Python, and rare.
        quiet = {"tick_ms": 60_000, "ping_interval_ms": 60_000, "max_ping_interval_ms": 60_000}
        one, two, three = nodes.chain(3, **quiet)
        nodes.settle()
        runs = [_relay_turns(nodes, one, two) for _ in range(3)]
        assert len(nodes.sinks[three].messages) == 3 * MESSAGES
        # router_sync may speak in one of the runs; it never does in all of them.
        assert min(len(called) for called, _ in runs) == 0
        assert min(blocks for _, blocks in runs) < MESSAGES / 10
