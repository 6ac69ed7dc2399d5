"""One process of a benchmark: a netcore node or a bare socket, told what to do line by line.

Every line on stdin is a JSON object with a "do"; every answer is one JSON line on stdout. ``mark``
answers with the CPU seconds and counters so far, so that the parent can take the difference over
a phase without its own start-up cost.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from netcore import Message, NetworkBehavior, Node
from netcore.agent import BehaviorAgent

ECHO = 10
PROBE = 11
SINK = 12
PAYLOAD = b"x" * 64


def say(**fields: object) -> None:
    """Answer the parent."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def cpu_seconds() -> float:
    """Return user and system time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def pss_kib() -> int:
    """Return the proportional memory of this process."""
    with open("/proc/self/smaps_rollup", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))


def percentile(values: list[float], share: float) -> float:
    """Return the value below which this share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Echo(NetworkBehavior):
    """Sends everything back."""

    service_id = ECHO

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Reply with the same payload."""
        agent.reply(message, message.payload)


class Sink(NetworkBehavior):
    """Counts what comes."""

    service_id = SINK

    def __init__(self) -> None:
        self.count = 0

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Count one."""
        self.count += 1


class Probe(NetworkBehavior):
    """Keeps a number of messages in flight and measures their round trips."""

    service_id = PROBE

    def __init__(self) -> None:
        self.dest = 0
        self.stop_at = 0.0
        self.sent_at: dict[int, float] = {}
        self.round_trips: list[float] = []
        self.next_id = 0
        self.one_in_flight = True

    def begin(self, agent: BehaviorAgent, dest: int, window: int, seconds: float) -> None:
        """Send the first window."""
        self.dest, self.round_trips, self.sent_at = dest, [], {}
        self.one_in_flight = window == 1
        self.stop_at = time.perf_counter() + seconds
        for _ in range(window):
            self._send(agent)

    def _send(self, agent: BehaviorAgent) -> None:
        self.next_id += 1
        self.sent_at[self.next_id] = time.perf_counter()
        agent.send_to_node(self.dest, PAYLOAD, to_service=ECHO, stream_id=self.next_id)

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Take the time of one round trip and start the next."""
        now = time.perf_counter()
        self.round_trips.append(now - self.sent_at.pop(message.stream_id))
        if now < self.stop_at:
            self._send(agent)


def report(round_trips: list[float], elapsed: float) -> dict[str, float]:
    """Return the figures of a phase."""
    return {
        "messages": len(round_trips),
        "per_s": len(round_trips) / elapsed,
        "p50_us": percentile(round_trips, 0.5) * 1e6,
        "p99_us": percentile(round_trips, 0.99) * 1e6,
    }


class NodeWorker:
    """A node that does what the parent says."""

    def __init__(self, node_id: int) -> None:
        self.probe, self.sink = Probe(), Sink()
        self.node = Node(node_id, [Echo(), self.probe, self.sink], max_links=20_000)

    def do(self, command: dict[str, Any]) -> None:
        """Carry out one command, on the node's thread."""
        action: Callable[..., None] = getattr(self, "do_" + command.pop("do"))
        action(**command)

    def do_listen(self, addr: str) -> None:
        """Listen and say where."""
        say(addr=str(self.node.listen(addr)))

    def do_connect(self, addr: str, parallel: bool = False) -> None:
        """Dial."""
        say(conn=self.node.connect(addr, parallel=parallel))

    def do_mark(self) -> None:
        """Say what was used and counted so far."""
        say(cpu=cpu_seconds(), links=len(self.node.connections), pss=pss_kib(),
            sunk=self.sink.count, stats=self.node.stats().as_dict())  # fmt: skip

    def do_has_route(self, dest: int) -> None:
        """Say whether there is a way."""
        say(route=self.node.router.path_to_node(dest).is_next)

    def do_echo(self, dest: int, window: int, seconds: float) -> None:
        """Exchange messages for a while; the answer comes when all are back."""
        agent = self.node.agent(PROBE)
        start = time.perf_counter()
        self.probe.begin(agent, dest, window, seconds)

        def look() -> None:
            if self.probe.sent_at and time.perf_counter() < start + seconds + 10:
                agent.call_later(2, look)
            else:
                lost = len(self.probe.sent_at)
                say(lost=lost, **report(self.probe.round_trips, time.perf_counter() - start))

        agent.call_later(int(seconds * 1000), look)

    def do_stream(self, dest: int, seconds: float) -> None:
        """Send one way as fast as the queue takes it, one call per message."""
        agent = self.node.agent(PROBE)
        start = time.perf_counter()
        sent = 0

        def more() -> None:
            nonlocal sent
            try:
                for _ in range(5_000):
                    agent.send_to_node(dest, PAYLOAD, to_service=SINK)
                    sent += 1
            except Exception as exc:
                if type(exc).__name__ != "SendQueueFullError":
                    raise
            if time.perf_counter() < start + seconds:
                agent.call_later(0, more)
            else:
                say(sent=sent, per_s=sent / (time.perf_counter() - start))

        more()


def run_node(node_id: int) -> None:
    """Run a node until the parent closes stdin."""
    worker = NodeWorker(node_id)
    node = worker.node

    def read() -> None:
        for line in sys.stdin:
            node.post(worker.do, json.loads(line))
        node.stop()

    threading.Thread(target=read, daemon=True).start()
    say(pid=os.getpid(), backend=node.backend)
    node.run()
    node.close()


def run_bare_server() -> None:
    """Echo over one bare socket."""
    listener = socket.create_server(("127.0.0.1", 0))
    say(port=listener.getsockname()[1])
    sock, _ = listener.accept()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := sock.recv(65536):
        sock.sendall(data)
    say(cpu=cpu_seconds())


def run_bare_client(port: int, seconds: float) -> None:
    """Exchange 64 bytes, one in flight."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    round_trips = []
    before = cpu_seconds()
    start = now = time.perf_counter()
    while now < start + seconds:
        sock.sendall(PAYLOAD)
        left = len(PAYLOAD)
        while left:
            left -= len(sock.recv(left))
        then, now = now, time.perf_counter()
        round_trips.append(now - then)
    say(cpu=cpu_seconds() - before, **report(round_trips, now - start))


def main() -> None:
    """Do what the arguments say: node ID, bare-server, or bare-client PORT SECONDS."""
    role, *args = sys.argv[1:]
    if role == "node":
        run_node(int(args[0]))
    elif role == "bare-server":
        run_bare_server()
    else:
        run_bare_client(int(args[0]), float(args[1]))


if __name__ == "__main__":
    main()
