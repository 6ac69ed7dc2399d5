"""First figures: echo, a chain of five hops, idle links; netcore on both backends, bare sockets.

Run ``python -m tools.bench``. Rounds are interleaved, figures are medians; CPU is user plus system
seconds per million messages of one process.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

Figures = dict[str, float]

ADDR = "/ip4/127.0.0.1/tcp/0"


class Worker:
    """A child process and its line protocol."""

    def __init__(self, *args: str, backend: str = "") -> None:
        env = dict(os.environ)
        if backend:
            env["NETCORE_PURE"] = "1" if backend == "pure" else "0"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tools.bench.worker", *args],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env,
        )  # fmt: skip

    def ask(self, **command: object) -> dict[str, Any]:
        """Send a command and return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Return the next answer."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a benchmark process ended early")
        result: dict[str, Any] = json.loads(line)
        return result

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()


def chain(count: int, backend: str) -> list[Worker]:
    """Return ``count`` nodes in a line, when the first knows a way to the last."""
    nodes = [Worker("node", str(i + 1), backend=backend) for i in range(count)]
    for node in nodes:
        node.answer()
    for left, right in itertools.pairwise(nodes):
        left.ask(do="connect", addr=right.ask(do="listen", addr=ADDR)["addr"])
    for node, dest in ((nodes[0], count), (nodes[-1], 1)):
        while not node.ask(do="has_route", dest=dest)["route"]:
            time.sleep(0.01)
    return nodes


def measure_nodes(nodes: list[Worker], run: Callable[[], dict[str, Any]]) -> Figures:
    """Run a phase; return its figures and the CPU per million messages of each end and relay."""
    before = [node.ask(do="mark") for node in nodes]
    figures = run()
    after = [node.ask(do="mark") for node in nodes]
    cpu = [a["cpu"] - b["cpu"] for a, b in zip(after, before, strict=True)]
    messages = figures.get("messages") or figures.get("sent") or 1
    result: Figures = {key: float(value) for key, value in figures.items()}
    result["cpu_s_per_m_first"] = cpu[0] / messages * 1e6
    result["cpu_s_per_m_last"] = cpu[-1] / messages * 1e6
    if len(nodes) > 2:
        result["cpu_s_per_m_relay"] = max(cpu[1:-1]) / messages * 1e6
    return result


def echo(backend: str, hops: int, window: int, seconds: float) -> Figures:
    """Exchange 64-byte messages over some hops."""
    nodes = chain(hops + 1, backend)
    try:
        return measure_nodes(
            nodes, lambda: nodes[0].ask(do="echo", dest=hops + 1, window=window, seconds=seconds)
        )
    finally:
        for node in nodes:
            node.close()


def stream(backend: str, seconds: float) -> Figures:
    """Send 64-byte messages one way."""
    nodes = chain(2, backend)
    try:

        def run() -> dict[str, Any]:
            figures = nodes[0].ask(do="stream", dest=2, seconds=seconds)
            while (sunk := nodes[1].ask(do="mark")["sunk"]) < figures["sent"]:
                time.sleep(0.01)
            return {**figures, "lost": figures["sent"] - sunk}

        return measure_nodes(nodes, run)
    finally:
        for node in nodes:
            node.close()


def idle(backend: str, links: int, seconds: float) -> Figures:
    """Open many links to one node; exchange messages over one of them."""
    nodes = chain(2, backend)
    try:
        hub = nodes[1]
        addr = hub.ask(do="listen", addr=ADDR)["addr"]
        before = hub.ask(do="mark")
        start = time.perf_counter()
        for _ in range(links):
            nodes[0].ask(do="connect", addr=addr, parallel=True)
        while (after := hub.ask(do="mark"))["links"] < links + 1:
            time.sleep(0.01)
        connected = time.perf_counter() - start
        figures = nodes[0].ask(do="echo", dest=2, window=1, seconds=seconds)
        return {
            "connect_s": connected,
            "kib_per_link": (after["pss"] - before["pss"]) / links,
            **{key: float(value) for key, value in figures.items()},
        }
    finally:
        for node in nodes:
            node.close()


def bare(seconds: float) -> Figures:
    """Exchange 64 bytes over bare blocking sockets."""
    server = Worker("bare-server")
    port = server.answer()["port"]
    client = Worker("bare-client", str(port), str(seconds))
    figures = client.answer()
    messages = figures["messages"]
    figures["cpu_s_per_m_first"] = figures.pop("cpu") / messages * 1e6
    figures["cpu_s_per_m_last"] = server.answer()["cpu"] / messages * 1e6
    client.close()
    server.close()
    return {key: float(value) for key, value in figures.items()}


def contestants(seconds: float, links: int) -> dict[str, Callable[[], Figures]]:
    """Return every measurement by name."""
    table: dict[str, Callable[[], Figures]] = {"bare sockets: echo 64 B": partial(bare, seconds)}
    for backend in ("fast", "pure"):
        for hops in (1, 5):
            for window in (1, 256):
                name = f"{backend}: {hops} hops, echo 64 B, {window} in flight"
                table[name] = partial(echo, backend, hops, window, seconds)
        table[f"{backend}: stream 64 B"] = partial(stream, backend, seconds)
        table[f"{backend}: echo beside {links} idle links"] = partial(idle, backend, links, seconds)
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--links", type=int, default=1_000)
    options = parser.parse_args()
    rounds: dict[str, list[Figures]] = {}
    table = contestants(options.seconds, options.links)
    for number in range(options.rounds):
        for name, run in table.items():
            print(f"\r\033[Kround {number + 1}/{options.rounds}: {name}", end="", file=sys.stderr)
            rounds.setdefault(name, []).append(run())
    print("\r\033[K", end="", file=sys.stderr)
    print(f"{platform.machine()}, {os.cpu_count()} cores, CPython {platform.python_version()}")
    for name, results in rounds.items():
        medians = {key: statistics.median(r[key] for r in results) for key in results[0]}
        print(f"{name}: " + ", ".join(f"{key} {value:,.3g}" for key, value in medians.items()))


if __name__ == "__main__":
    main()
