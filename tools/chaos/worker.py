"""A netcore node in a process of its own, for the scenarios: ``python -m tools.chaos.worker``.

It says one line of JSON when it is ready and one for each line it is told, and ends with its stdin.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO, cast

from netcore import BehaviorAgent, Message, NetworkBehavior, Node, NoRouteError, SendQueueFullError

from .growth import Growth

SERVICE = 10
REPO = Path(__file__).resolve().parents[2]
PATIENCE_S = 30.0


class Worker:
    """The parent's side: a process and the lines of both."""

    def __init__(self, backend: str, role: str, **options: object) -> None:
        environ = {
            **os.environ,
            "NETCORE_PURE": "1" if backend == "pure" else "0",
            "PYTHONPATH": str(REPO),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tools.chaos.worker", role, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
        )
        self.hello = self._read()

    def _read(self) -> dict[str, Any]:
        line = cast(TextIO, self.process.stdout).readline()
        if not line:
            raise RuntimeError(f"a worker ended with {self.process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, **what: object) -> dict[str, Any]:
        """Tell it what to do; return what it says when that is done."""
        stdin = cast(TextIO, self.process.stdin)
        stdin.write(json.dumps(what) + "\n")
        stdin.flush()
        return self._read()

    def freeze(self) -> None:
        """Stop it: it reads nothing any more."""
        self.process.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        """End it, frozen or not."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            cast(TextIO, pipe).close()


# -- the process's side ----------------------------------------------------------------------------


class Echo(NetworkBehavior):
    """Sends back what is not empty."""

    service_id = SERVICE

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Send back what asks for it."""
        if message.stream_id:
            with contextlib.suppress(NoRouteError):  # the link is suspect: a busy machine
                agent.reply(message, message.payload)


class Source(NetworkBehavior):
    """Offers messages, and measures round trips to one neighbour meanwhile."""

    service_id = SERVICE

    def __init__(self) -> None:
        self.waiting = 0  # the number that is to come back
        self.sent_ns = 0
        self.round_trips: list[int] = []
        self.offered = self.refused = self.closed = 0

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Take a round trip."""
        if message.stream_id == self.waiting:
            self.waiting = 0
            self.round_trips.append(time.perf_counter_ns() - self.sent_ns)

    def probe(self, agent: BehaviorAgent, node_id: int) -> None:
        """Begin a round trip, unless one is under way; one of a second has failed, and counts."""
        now_ns = time.perf_counter_ns()
        if self.waiting and now_ns - self.sent_ns > 1_000_000_000:
            self.round_trips.append(now_ns - self.sent_ns)
            self.waiting = 0
        if not self.waiting:
            self.waiting = len(self.round_trips) + 1
            self.sent_ns = now_ns
            with contextlib.suppress(NoRouteError):
                agent.send_to_node(node_id, b"x", stream_id=self.waiting)

    def offer(self, agent: BehaviorAgent, conn_id: int, payload: bytes) -> None:
        """Offer one message to a link."""
        self.offered += 1
        try:
            agent.send_to_conn(conn_id, payload)
        except SendQueueFullError:
            self.refused += 1
        except NoRouteError:
            self.closed += 1


class Sender:
    """A node with one or many links to a node that will be frozen, and perhaps one to another."""

    def __init__(self, deaf: str, links: int, node: dict[str, Any], good: str = "") -> None:
        self.source = Source()
        self.node = Node(1, [self.source], dead_ms=120_000, **node)
        self.agent = self.node.agent(SERVICE)
        self.conns = [self.agent.connect_to(deaf, parallel=number > 0) for number in range(links)]
        self._await(lambda: len(self.node.connections) == links)
        self.conns = [link.conn_id for link in self.node.connections]  # type: ignore[misc]
        if good:
            self.node.connect(good)
            self.node.wait_connected(3, PATIENCE_S)

    def _await(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > end:
                raise RuntimeError("the links did not come up")
            self.node.poll(0.01)

    def do_offer(self, total: int, size: int) -> dict[str, object]:
        """Offer so many bytes to each link in turn, as fast as they are taken or refused."""
        payload = bytes(size)
        growth = Growth()
        for number in range(total // size):
            self.source.offer(self.agent, self.conns[number % len(self.conns)], payload)
            if number % 64 == 0:
                growth.look()
                self.node.poll(0)
        self.node.poll(0)
        growth.look()
        return self._figures(growth)

    def do_pace(self, seconds: float, rate: float, size: int) -> dict[str, object]:
        """Offer ``rate`` messages a second over all links, with round trips to node 3 between."""
        payload = bytes(size)
        growth = Growth()
        self.source.round_trips.clear()
        self.source.waiting = 0
        start = time.monotonic()
        end = start + seconds
        done = 0
        looked = start
        while (now := time.monotonic()) < end:
            due = int((now - start) * rate)
            while done < due:
                self.source.offer(self.agent, self.conns[done % len(self.conns)], payload)
                done += 1
            self.source.probe(self.agent, 3)
            self.node.poll(0.001)
            if now - looked > 0.1:
                looked = now
                growth.look()
        growth.look()
        return self._figures(growth)

    def _figures(self, growth: Growth) -> dict[str, object]:
        source, stats = self.source, self.node.stats()
        trips = sorted(source.round_trips)
        return {
            "grown": growth.look(),
            "offered": source.offered,
            "refused": source.refused,
            "closed": source.closed,
            "trips": len(trips),
            "p50_us": trips[len(trips) // 2] / 1_000 if trips else 0,
            "p99_us": trips[len(trips) * 99 // 100] / 1_000 if trips else 0,
            "queued": stats.queued_bytes,
            "stats": stats.as_dict(),
        }


def listen(node_id: int) -> None:
    """Be a node that reads everything, until it is frozen or killed."""
    with Node(node_id, [Echo()]) as node:
        addr = node.listen("/ip4/127.0.0.1/tcp/0")
        threading.Thread(target=stop_with_stdin, args=(node,), daemon=True).start()
        say(pid=os.getpid(), addr=str(addr))
        node.run()


def stop_with_stdin(node: Node) -> None:
    """End the node when nobody needs it any more."""
    sys.stdin.read()
    node.stop()


def send(options: dict[str, Any]) -> None:
    """Be the sender, which does what it is told."""
    sender = Sender(**options)
    say(pid=os.getpid())
    for line in sys.stdin:
        what = json.loads(line)
        action: Callable[..., dict[str, object]] = getattr(sender, "do_" + what.pop("do"))
        say(**action(**what))


def zmq_send(options: dict[str, Any]) -> None:
    """Be a PUSH socket of libzmq whose reader has connected and then reads nothing."""
    import zmq

    payload = bytes(options["size"])
    push = zmq.Context().socket(zmq.PUSH)
    port = push.bind_to_random_port("tcp://127.0.0.1")
    say(pid=os.getpid(), addr=f"tcp://127.0.0.1:{port}", version=zmq.zmq_version())
    sys.stdin.readline()
    push.send(payload)  # waits for the reader
    growth = Growth()
    refused = 0
    for number in range(options["total"] // options["size"]):
        try:
            push.send(payload, zmq.NOBLOCK)
        except zmq.Again:
            refused += 1
        if number % 4_096 == 0:
            growth.look()
    say(grown=growth.settle(), refused=refused)
    sys.stdin.read()


def zmq_read(options: dict[str, Any]) -> None:
    """Be its reader, until frozen."""
    import zmq

    pull = zmq.Context().socket(zmq.PULL)
    pull.connect(options["addr"])
    pull.recv()
    say(pid=os.getpid())
    sys.stdin.read()


def say(**fields: object) -> None:
    """Tell the parent."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Be what the arguments say."""
    role, options = sys.argv[1], json.loads(sys.argv[2])
    if role == "listen":
        listen(**options)
    elif role == "send":
        send(options)
    elif role == "zmq_send":
        zmq_send(options)
    else:
        zmq_read(options)


if __name__ == "__main__":
    main()
