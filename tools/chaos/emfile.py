"""A node that has run out of file descriptors, with a queue of connections before its door."""

from __future__ import annotations

import argparse
import socket
import time

from netcore.cli.screen import Screen

from .scenario import Table
from .victim import Victim, victims


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add how many knock, and for how long."""
    parser.add_argument("--backend", choices=("fast", "pure"), default="fast")
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--cpu-percent", type=float, default=2.0)


def run(options: argparse.Namespace, screen: Screen, table: Table) -> None:
    """Knock, wait, go away; see that the node works as before."""
    node = {"node": 1, "handshake_timeout_ms": 600_000, "tick_ms": 600_000}
    with victims(Victim(options.backend, node=node, headroom_fds=20)) as (victim,):
        door = (victim.host, victim.port)
        crowd = [socket.create_connection(door) for _ in range(options.connections)]
        before, begin = victim.until(lambda stats: stats["accept_errors"]), time.monotonic()
        screen.show([f"{options.seconds:.0f} s without descriptors"])
        time.sleep(options.seconds)
        after, spent_s = victim.ask(), time.monotonic() - begin
        lines = victim.complaints().count("cannot accept")
        for sock in crowd:
            sock.close()
        victim.until(lambda stats: not stats["half_open"])
        with socket.create_connection(door) as sock:
            victim.until(lambda stats: stats["half_open"] == 1)
            sock.setblocking(False)
    percent = 100 * (after["cpu_s"] - before["cpu_s"]) / spent_s
    errors = after["accept_errors"] - before["accept_errors"]
    table.add("CPU of the node", f"{percent:.2f} % of a core", f"<= {options.cpu_percent} %",
              holds=percent <= options.cpu_percent)  # fmt: skip
    table.add("accepts that failed, per second", f"{errors / spent_s:.1f}", "<= 11",
              holds=errors <= 11 * spent_s + 1)  # fmt: skip
    table.add("lines in the log", lines, f"<= {int(spent_s) + 2}", holds=1 <= lines <= spent_s + 2)
