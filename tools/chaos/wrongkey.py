"""A thousand connections a second that try a wrong secret, and what they cost.

Strangers have a budget for each address. This machine's own processes have none, so give an address
that is not loopback; in a network namespace of its own nobody else can reach it:

    unshare -n sh -c 'ip link set lo up && ip addr add 192.0.2.1/32 dev lo &&
        python -m tools.chaos wrongkey --address 192.0.2.1'
"""

from __future__ import annotations

import argparse
import time

from netcore.cli.screen import Screen

from .scenario import Table
from .strangers import strangers
from .victim import Victim, victims


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add from where, how fast, and how long."""
    parser.add_argument("--backend", choices=("fast", "pure"), default="fast")
    parser.add_argument("--address", default="127.0.0.1", help="where the node listens")
    parser.add_argument("--per-s", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--cpu-percent", type=float, default=20.0)


def run(options: argparse.Namespace, screen: Screen, table: Table) -> None:
    """Let them try."""
    node = {"node": 1, "secret": "the secret of this network"}
    listen = f"/ip4/{options.address}/tcp/0"
    with victims(Victim(options.backend, node=node, listen=listen)) as (victim,):
        before, begin = victim.ask(), time.monotonic()
        with strangers(
            options.address, victim.port, wrong_per_s=options.per_s, seconds=options.seconds
        ) as crowd:
            crowd.wait_ready()
            screen.show([f"{options.seconds:.0f} s of wrong secrets"])
            result = crowd.result()
        after, spent_s = victim.ask(), time.monotonic() - begin
    percent = 100 * (after["cpu_s"] - before["cpu_s"]) / spent_s
    table.add("tries per second", f"{result['tried'] / options.seconds:.0f}", f"{options.per_s}")
    table.add("handshakes that failed", after["handshakes_failed"])
    table.add("closed at once, over the budget", after["accepts_over_budget"])
    table.add("links", after["links_opened"], "0", holds=not after["links_opened"])
    table.add("CPU of the node", f"{percent:.1f} % of a core", f"<= {options.cpu_percent} %",
              holds=percent <= options.cpu_percent)  # fmt: skip
