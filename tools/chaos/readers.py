"""A hundred readers that never read: what all of them cost, and whether others notice.

Over 100 links to a process messages are offered at a steady rate, with round trips to another node
between. Then that process is frozen, and the same goes on: now almost every message is refused.
"""

from __future__ import annotations

import argparse

from netcore import BACKEND
from netcore.cli.screen import Screen

from .growth import MIB, mib
from .scenario import Table
from .worker import Worker

EACH = 2 * MIB
SLOWER = 1.2


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--links", type=int, default=100, help="(default: 100)")
    parser.add_argument("--megabytes", type=int, default=400, help="offered (default: 400)")
    parser.add_argument("--seconds", type=float, default=20, help="of each half (default: 20)")
    parser.add_argument("--size", type=int, default=4_096, help="of a message (default: 4096)")
    parser.add_argument("--backend", choices=("fast", "pure"), default=BACKEND)


def run(options: argparse.Namespace, screen: Screen, table: Table) -> None:
    """Measure."""
    rate = options.megabytes * 1e6 / options.size / options.seconds
    pace = {"do": "pace", "seconds": options.seconds, "rate": rate, "size": options.size}
    workers: list[Worker] = []
    try:
        for node_id in (2, 3):
            workers.append(Worker(options.backend, "listen", node_id=node_id))  # noqa: PERF401
        deaf, good = workers
        addrs = {"deaf": deaf.hello["addr"], "good": good.hello["addr"]}
        sender = Worker(options.backend, "send", links=options.links, node={}, **addrs)
        workers.append(sender)
        screen.show([f"{options.links} readers read"])
        sender.ask(**{**pace, "seconds": min(1.0, options.seconds)})  # warms up
        reading = sender.ask(**pace)
        deaf.freeze()
        screen.show([f"{options.links} readers read nothing"])
        frozen = sender.ask(**pace)
    finally:
        for worker in workers:
            worker.close()
    grown, most = frozen["grown"], EACH * options.links
    table.add(
        f"{options.links} that never read: the sender grew by",
        mib(grown),
        f"<= {mib(most)}",
        holds=grown <= most,
    )
    refused = frozen["refused"] - reading["refused"]
    offered = frozen["offered"] - reading["offered"]
    table.add("messages offered to them", offered, f"{refused} refused", holds=refused > 0)
    for name, figures in (("reading", reading), ("frozen", frozen)):
        table.add(f"round trips to another node, {name}", figures["trips"])
        table.add("  median", f"{figures['p50_us']:.0f} us")
        table.add("  p99", f"{figures['p99_us']:.0f} us")
    ratio = frozen["p99_us"] / reading["p99_us"]
    table.add("p99, frozen to reading", f"{ratio:.2f}", f"<= {SLOWER}", holds=ratio <= SLOWER)
