"""Links that come and go, tens of thousands of them: what they leave behind.

Two nodes in one process; garbage is collected by reference counts alone.
"""

from __future__ import annotations

import argparse
import gc
import time
import weakref

from netcore import BehaviorAgent, ConnectionHandler, ConnectionSender, NetworkBehavior, Node
from netcore.cli.screen import Screen

from .scenario import Table
from .victim import open_fds, rss_kib


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add how many."""
    parser.add_argument("--backend", choices=("fast", "pure"), default="fast")
    parser.add_argument("--cycles", type=int, default=20_000)
    parser.add_argument("--warm-up", type=int, default=2_000)


class Handler(ConnectionHandler):
    """One per link, for as long as the link lives."""


class Keeper(NetworkBehavior):
    """Knows which handlers are still there."""

    service_id = 10

    def __init__(self) -> None:
        self.handlers: weakref.WeakSet[Handler] = weakref.WeakSet()

    def on_incoming_connection_connected(
        self, agent: BehaviorAgent, conn: ConnectionSender
    ) -> Handler:
        """Give the link a handler."""
        handler = Handler()
        self.handlers.add(handler)
        return handler

    on_outgoing_connection_connected = on_incoming_connection_connected


def run(options: argparse.Namespace, screen: Screen, table: Table) -> None:
    """Connect and close, over and over."""
    keepers = Keeper(), Keeper()
    name = options.backend
    with Node(1, [keepers[0]], backend=name) as one, Node(2, [keepers[1]], backend=name) as two:
        address = two.listen("/ip4/127.0.0.1/tcp/0")

        def cycle() -> None:
            conn_id = one.connect(address)
            while not (one.connections and two.connections):
                one.poll(0)
                two.poll(0)
            one.agent(10).close_conn(conn_id)
            while one.connections or two.connections:
                one.poll(0)
                two.poll(0)

        for _ in range(options.warm_up):
            cycle()
        gc.collect()
        gc.disable()
        try:
            kib, fds, begin = rss_kib(), open_fds(), time.monotonic()
            for number in range(options.cycles):
                cycle()
                if not number % 100:
                    screen.show([f"{number} of {options.cycles}"])
            spent_s, grown = time.monotonic() - begin, rss_kib() - kib
            left = sum(len(keeper.handlers) for keeper in keepers)
            more = open_fds() - fds
        finally:
            gc.enable()
    table.add("connects and closes", options.cycles)
    table.add("per second, both ends in one process", f"{options.cycles / spent_s:.0f}")
    table.add("descriptors left", more, "0", holds=not more)
    table.add("links left, without the collector", left, "0", holds=not left)
    table.add("memory", f"{grown:+} KiB", "< 1024 KiB", holds=grown < 1_024)
