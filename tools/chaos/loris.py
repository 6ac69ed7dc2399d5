"""Thousands of silent and of slow strangers, while an honest node connects.

Half of them say nothing, the other half say a byte of a HELLO every half second: far more than
there are slots for handshakes. All must be gone in time, and whoever is honest must get in at once.
"""

from __future__ import annotations

import argparse

from netcore.cli.screen import Screen

from .dialler import Dialler, percentile
from .scenario import Table
from .strangers import strangers
from .victim import Victim, victims

SECRET = "a secret of the scenario"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add how many there are, and how long things may take."""
    parser.add_argument("--backend", choices=("fast", "pure"), default="fast")
    parser.add_argument("--silent", type=int, default=2_000)
    parser.add_argument("--drip", type=int, default=2_000)
    parser.add_argument("--arrive-s", type=float, default=2.0, help="all have come by then")
    parser.add_argument("--gone-s", type=float, default=5.0, help="all are closed by then")
    parser.add_argument("--p99-ms", type=float, default=50.0, help="of an honest connect")


def run(options: argparse.Namespace, screen: Screen, table: Table) -> None:
    """Let them come, and dial meanwhile."""
    node = {"node": 1, "secret": SECRET}
    with victims(Victim(options.backend, node=node)) as (victim,):
        before = victim.ask()
        dialler = Dialler(2, victim.address, SECRET)
        crowd_options = {"silent": options.silent, "drip": options.drip}
        crowd_options["arrive_s"] = options.arrive_s
        with strangers(victim.host, victim.port, **crowd_options) as crowd, dialler.node:
            while not crowd.is_over:
                dialler.dial()
                dialler.rest(0.01)
                screen.show([f"{len(dialler.times_s)} honest dials, {dialler.failed} failed"])
            crowd.wait_ready()
            result = crowd.result()
        after = victim.ask()
    slowest_s, p99_ms = result["slowest_s"], 1_000 * percentile(dialler.times_s, 0.99)
    what = f"{options.silent} silent, {options.drip} slow"
    table.add(f"{what}: the last is closed after", f"{slowest_s:.2f} s", f"<= {options.gone_s} s",
              holds=slowest_s <= options.gone_s and not result["left"])  # fmt: skip
    table.add("honest connects meanwhile", len(dialler.times_s), "", holds=bool(dialler.times_s))
    table.add("of them failed", dialler.failed, "0", holds=not dialler.failed)
    table.add("p50", f"{1_000 * percentile(dialler.times_s, 0.5):.1f} ms")
    table.add("p99", f"{p99_ms:.1f} ms", f"<= {options.p99_ms} ms", holds=p99_ms <= options.p99_ms)
    table.add("made room, refused", f"{after['half_open_evicted']}, {after['half_open_refused']}")
    table.add("descriptors left", after["fds"] - before["fds"], "0",
              holds=after["fds"] == before["fds"])  # fmt: skip
    cpu_s = after["cpu_s"] - before["cpu_s"]
    table.add("CPU of the node", f"{cpu_s:.2f} s")
