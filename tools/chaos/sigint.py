"""SIGINT at random instants of a node's life: it ends at once and leaves nothing behind.

A process makes a node with a neighbour and traffic, runs it, closes it, and so on; the signal comes
somewhere in between. After each life there must be no descriptor more, the handlers must be what
they were, and the signal must have ended the run, or come out as KeyboardInterrupt, within 100 ms.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from typing import Final

from netcore import LocalError, NetworkBehavior, Node
from netcore.agent import BehaviorAgent
from netcore.cli.screen import Screen

from .dialler import percentile
from .scenario import Table
from .victim import REPO, open_fds

LIFE_MS: Final = 12  # of a run that no signal ends


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add how often."""
    parser.add_argument("--backend", choices=("fast", "pure"), default="fast")
    parser.add_argument("--signals", type=int, default=1_000)
    parser.add_argument("--within-ms", type=float, default=100.0)
    parser.add_argument("--seed", type=int, default=1)


def run(options: argparse.Namespace, screen: Screen, table: Table) -> None:
    """Send them, one per life."""
    rng = random.Random(options.seed)
    process = subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.sigint", options.backend],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    times_s, how, wrong = [], {"run": 0, "interrupt": 0, "unseen": 0}, []
    try:
        for number in range(options.signals):
            if process.stdout.readline() != b"ready\n":
                wrong.append("the process ended")
                break
            process.stdin.write(b"live\n")
            process.stdin.flush()
            time.sleep(rng.random() * 0.03)
            begin = time.monotonic()
            process.send_signal(signal.SIGINT)
            life = json.loads(process.stdout.readline())
            how[life["end"]] += 1
            if life["end"] != "unseen":
                times_s.append(life["at"] - begin)
            if life["wrong"]:
                wrong.append(life["wrong"])
            screen.show([f"{number + 1} of {options.signals}"])
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()
    slowest_ms = 1_000 * max(times_s, default=0)
    table.add("signals", sum(how.values()), "", holds=sum(how.values()) == options.signals)
    table.add("ended run(), came out as KeyboardInterrupt, came between two lives",
              ", ".join(str(count) for count in how.values()))  # fmt: skip
    table.add("to the end of the life: p50", f"{1_000 * percentile(times_s, 0.5):.2f} ms")
    table.add("slowest", f"{slowest_ms:.1f} ms", f"<= {options.within_ms} ms",
              holds=slowest_ms <= options.within_ms)  # fmt: skip
    table.add("descriptors, handlers or links left behind", len(wrong), "0", holds=not wrong)
    for text in sorted(set(wrong))[:10]:
        table.add("  ", text)


class Talker(NetworkBehavior):
    """Sends and sends."""

    service_id = 10

    def __init__(self, to: int) -> None:
        self._to = to

    def on_tick(self, agent: BehaviorAgent, now_ms: int, interval_ms: int) -> None:
        """Say a few words."""
        try:
            for _ in range(20):
                agent.send_to_node(self._to, bytes(1_000))
        except LocalError:
            pass


def live(backend: str) -> None:
    """Be two linked nodes for a moment; the first one runs, the second is driven by its ticks."""
    name = "fast" if backend == "fast" else "pure"
    first = Node(1, [Talker(2)], backend=name, tick_ms=1)  # type: ignore[arg-type]
    with first:
        second = Node(2, [Talker(1)], backend=name, tick_ms=1)  # type: ignore[arg-type]
        with second:
            first.connect(second.listen("/ip4/127.0.0.1/tcp/0"))
            agent = first.agent(10)

            def turn() -> None:
                second.poll(0)
                agent.call_later(1, turn)

            agent.call_later(LIFE_MS, first.stop)
            turn()
            first.run()
            first.close(0.02)


def one_life(backend: str, fds: int) -> dict[str, object]:
    """Live once; say how it ended, when, and what is wrong afterwards."""
    end = "run"
    try:
        live(backend)
    except KeyboardInterrupt:
        end = "interrupt"
    at = time.monotonic()
    gc.collect()
    wrong = ""
    if (now := open_fds()) != fds:
        wrong = f"{now - fds} descriptors are left"
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        wrong = "the handler of SIGINT was not restored"
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        wrong = "the handler of SIGTERM was not restored"
    if signal.set_wakeup_fd(-1) != -1:
        wrong = "a wake-up descriptor was left"
    return {"end": end, "at": at, "wrong": wrong}


def main() -> None:
    """Live again and again; a signal that comes between two lives is noted too."""
    logging.disable()
    # A shell that starts us in the background has it ignored, and so would each life.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    backend = sys.argv[1]
    one_life(backend, open_fds())
    gc.collect()
    fds = open_fds()
    while True:
        answer: dict[str, object] = {"end": "unseen", "at": 0.0, "wrong": ""}
        try:
            print("ready", flush=True)
            if not sys.stdin.readline():
                return
            answer = one_life(backend, fds)
            time.sleep(0.05)  # for a signal that comes late
        except KeyboardInterrupt:
            pass
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
