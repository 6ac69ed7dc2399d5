"""A reader that never reads: what it costs the sender when 400 MB are offered to it.

The reader is a process that is frozen once its link is up. Each send_queue_policy is tried, on both
backends. With --peers the same is offered to a subscriber of NATS, Redis and Mosquitto, and to a
PULL socket of libzmq, as far as they are installed; there it is said how far the process grew in
which the messages wait.
"""

from __future__ import annotations

import argparse
import importlib.util
from typing import Any

from netcore.cli.screen import Screen
from netcore.config import SEND_QUEUE_POLICIES
from tools.build import fast_is_built

from . import brokers
from .growth import MIB, mib
from .scenario import Table
from .worker import Worker

LIMIT = 2 * MIB
HIGH = 1 << 20


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--megabytes", type=int, default=400, help="offered (default: 400)")
    parser.add_argument("--size", type=int, default=4_096, help="of a message (default: 4096)")
    parser.add_argument("--peers", action="store_true", help="measure these as well")
    parser.add_argument(
        "--backend", choices=("fast", "pure", "both"), default="both", help="(default: both)"
    )
    parser.add_argument("--policy", choices=SEND_QUEUE_POLICIES, help="only this one")


def run(options: argparse.Namespace, screen: Screen, table: Table) -> None:
    """Measure."""
    total = options.megabytes * 1_000_000
    backends = ("fast", "pure") if options.backend == "both" else (options.backend,)
    for backend in backends:
        if backend == "fast" and not fast_is_built():
            continue
        for policy in (options.policy,) if options.policy else SEND_QUEUE_POLICIES:
            screen.show([f"netcore {backend}, {policy}: {options.megabytes} MB are offered"])
            row(table, f"netcore {backend}, {policy}", offer(backend, policy, total, options.size))
    if options.peers:
        peers(options, screen, table, total)


def offer(backend: str, policy: str, total: int, size: int) -> dict[str, Any]:
    """Return the figures of one sender."""
    deaf = Worker(backend, "listen", node_id=2)
    try:
        node = {"send_queue_policy": policy, "write_high_bytes": HIGH}
        sender = Worker(backend, "send", deaf=deaf.hello["addr"], links=1, node=node)
        try:
            deaf.freeze()
            return sender.ask(do="offer", total=total, size=size)
        finally:
            sender.close()
    finally:
        deaf.close()


def row(table: Table, name: str, figures: dict[str, Any]) -> None:
    """Add the growth, and whether each message is accounted for."""
    table.add(
        f"{name}: grew by", mib(figures["grown"]), "<= 2 MiB", holds=figures["grown"] <= LIMIT
    )
    stats = figures["stats"]
    lost = sum(stats[n] for n in ("dropped_send_queue_full", "dropped_link_closed"))
    out = figures["offered"] - figures["refused"] - figures["closed"]
    what = f"refused {figures['refused']}, dropped {lost}, after the end {figures['closed']}"
    table.add(f"{name}: messages", figures["offered"], what, holds=stats["messages_sent"] == out)


def peers(options: argparse.Namespace, screen: Screen, table: Table, total: int) -> None:
    """Measure the others."""
    for broker in brokers.BROKERS:
        program = brokers.find(broker)
        if program is None:
            table.add(broker.name, "not here")
            continue
        screen.show([f"{broker.name}: {options.megabytes} MB are offered"])
        grown = brokers.measure(broker, program, total, options.size)
        name = f"{broker.name} {brokers.version(broker, program)}"
        table.add(f"{name}: the broker grew by", mib(grown))
    if importlib.util.find_spec("zmq") is None:
        table.add("libzmq", "not here")
        return
    screen.show([f"libzmq: {options.megabytes} MB are offered"])
    version, grown = zmq_grown(total, options.size)
    table.add(f"libzmq {version}: the sender grew by", mib(grown))


def zmq_grown(total: int, size: int) -> tuple[str, int]:
    """Return the version of libzmq and the growth of a PUSH socket's process."""
    sender = Worker("pure", "zmq_send", total=total, size=size)
    try:
        reader = None
        stdin = sender.process.stdin
        assert stdin is not None
        stdin.write("\n")
        stdin.flush()
        reader = Worker("pure", "zmq_read", addr=sender.hello["addr"])
        try:
            reader.freeze()
            return sender.hello["version"], int(sender.ask()["grown"])
        finally:
            reader.close()
    finally:
        sender.close()
