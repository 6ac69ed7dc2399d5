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
import traceback
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
    how = {"run": 0, "interrupt": 0, "unseen": 0}
    times_s, slow, wrong = [], [], []
    try:
        life_s = sorted(undisturbed_s(process) for _ in range(11))[5]
        for number in range(options.signals):
            if process.stdout.readline() != b"ready\n":
                wrong.append("the process ended")
                break
            process.stdin.write(b"live\n")
            process.stdin.flush()
            time.sleep(rng.random() * life_s)
            begin = time.monotonic()
            process.send_signal(signal.SIGINT)
            life = json.loads(process.stdout.readline())
            how[life["end"]] += 1
            if life["end"] != "unseen":
                times_s.append(life["at"] - begin)
                if 1_000 * times_s[-1] > options.within_ms:
                    slow.append(f"{1_000 * times_s[-1]:.0f} ms: {life['where'] or life['end']}")
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
    for text in sorted({*slow, *wrong})[:10]:
        table.add("  ", text)


def undisturbed_s(process: subprocess.Popen[bytes]) -> float:
    """Return how long a life takes without a signal."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    begin = time.monotonic()
    process.stdin.write(b"live\n")
    process.stdin.flush()
    at = json.loads(process.stdout.readline())["at"]
    return float(at - begin)


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
    """Live once; say how it ended, when, where it was, and what is wrong afterwards."""
    end, where, restored = "run", "", True
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        live(backend)
        restored = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    except KeyboardInterrupt as exc:
        end, where = "interrupt", place_of(exc)
    at = time.monotonic()
    put_aside()
    gc.collect()
    wrong = "" if restored else "the handler of SIGINT was not restored"
    if (now := open_fds()) != fds:
        wrong = f"{now - fds} descriptors are left {where}"
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        wrong = "the handler of SIGTERM was not restored"
    if signal.set_wakeup_fd(-1) != -1:
        wrong = "a wake-up descriptor was left"
    return {"end": end, "at": at, "where": where, "wrong": wrong}


def place_of(exc: BaseException) -> str:
    """Return the functions that an interrupt went through."""
    return " > ".join(frame.name for frame in traceback.extract_tb(exc.__traceback__))


def put_aside() -> None:
    """From now on a signal is not for a life, but only noted."""
    while True:
        try:
            signal.signal(signal.SIGINT, note)
        except KeyboardInterrupt:
            continue
        return


def note(number: int, frame: object) -> None:
    """Note a signal between two lives."""
    unseen.append(number)


unseen: list[int] = []


def main() -> None:
    """Live again and again; a signal that comes between two lives is noted too."""
    logging.disable()
    backend = sys.argv[1]
    one_life(backend, open_fds())
    gc.collect()
    fds = open_fds()
    while True:
        print("ready", flush=True)
        if not sys.stdin.readline():
            return
        answer = one_life(backend, fds)
        fds = open_fds()  # what is left of one is not counted twice
        time.sleep(0.05)  # for a signal that comes late
        if unseen:
            answer["end"] = "unseen"
            unseen.clear()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
