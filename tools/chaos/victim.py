"""A node in a process of its own that answers questions about itself; and the parent's side of it.

The process: ``python -m tools.chaos.victim OPTIONS``, a JSON object. Each line on stdin is a
question, each answer one line of JSON on stdout. The node keeps a link to each address in "keep",
echoes messages to service 10, and sends "messages" of them, "bytes" long, one every "every_ms", to
node "to" once it is told to "begin".
"""

from __future__ import annotations

import json
import os
import resource
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

from netcore import BehaviorAgent, LocalError, Message, NetworkBehavior, Node

__all__ = ["ECHO", "Victim", "victims"]

ECHO: Final = 10
TALKER: Final = 11
DEADLINE_S: Final = 30.0
REPO: Final = Path(__file__).resolve().parents[2]


# -- the parent's side ---------------------------------------------------------------------------


class Victim:
    """The process, seen from outside.

    Args:
        backend: "fast" or "pure".
        prefix: A command that runs it, for example strace.
        options: Of the process; see ``Worker``.
    """

    def __init__(self, backend: str, prefix: Sequence[str] = (), **options: object) -> None:
        env = {**os.environ, "NETCORE_PURE": "1" if backend == "pure" else "0"}
        env["PYTHONPATH"] = str(REPO)
        command = [*prefix, sys.executable, "-m", f"{__package__}.victim", json.dumps(options)]
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
        )
        self._buffer = b""
        self._complaints: list[bytes] = []
        self._reader = threading.Thread(target=self._read_complaints, daemon=True)
        self._reader.start()
        hello = self._answer()
        self.pid: int = hello["pid"]
        self.address: str = hello["address"]
        self.host: str = hello["host"]
        self.port: int = hello["port"]

    def ask(self, question: str = "stats") -> dict[str, Any]:
        """Return what it says to that: counters, "cpu_s", "rss_kib", "fds", "ticks"."""
        assert self.process.stdin is not None
        self.process.stdin.write(question.encode() + b"\n")
        self.process.stdin.flush()
        return self._answer()

    def until(self, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Ask until the condition holds of the answer, and return that one."""
        end = time.monotonic() + DEADLINE_S
        while not condition(stats := self.ask()):
            if time.monotonic() > end:
                raise TimeoutError(f"it did not come true: {stats}")
            select.select([], [], [], 0.02)
        return stats

    def complaints(self) -> str:
        """Return what it wrote to stderr so far."""
        return b"".join(self._complaints).decode(errors="replace")

    def close(self) -> int:
        """End it, however it is; return its exit code."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            code = self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        return code

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        end = time.monotonic() + DEADLINE_S
        while b"\n" not in self._buffer:
            if not select.select([fd], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError("the process says nothing")
            data = os.read(fd, 65_536)
            if not data:
                self._reader.join()
                raise RuntimeError(f"the process ended: {self.complaints()}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _read_complaints(self) -> None:
        assert self.process.stderr is not None
        while data := os.read(self.process.stderr.fileno(), 65_536):
            self._complaints.append(data)


@contextmanager
def victims(*ends: Victim) -> Iterator[tuple[Victim, ...]]:
    """End these processes in the end."""
    try:
        yield ends
    finally:
        for end in ends:
            end.close()


# -- the process's side --------------------------------------------------------------------------


class Echo(NetworkBehavior):
    """Sends back what it gets, once."""

    service_id = ECHO

    def __init__(self) -> None:
        self.refused = 0
        self.ticks = 0

    def on_tick(self, agent: BehaviorAgent, now_ms: int, interval_ms: int) -> None:
        """Count."""
        self.ticks += 1

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """Send it back, if that is possible."""
        try:
            agent.reply(message, message.payload)
        except LocalError:
            self.refused += 1


class Talker(NetworkBehavior):
    """Sends a number of messages, one after the other, and counts what it cannot send."""

    service_id = TALKER

    def __init__(self, options: dict[str, Any]) -> None:
        self.left = int(options.get("messages", 0))
        self.refused = 0
        self._to = int(options.get("to", 0))
        self._every_ms = int(options.get("every_ms", 1))
        self._payload = bytes(int(options.get("bytes", 100)))

    def begin(self, agent: BehaviorAgent) -> None:
        """Send one, and the next in a moment."""
        if self.left:
            self.left -= 1
            try:
                agent.send_to_node(self._to, self._payload, to_service=ECHO)
            except LocalError:
                self.refused += 1
            agent.call_later(self._every_ms, lambda: self.begin(agent))

    def on_message(self, agent: BehaviorAgent, message: Message) -> None:
        """An echo."""


class Worker:
    """A node that answers questions.

    Args:
        options: "node" (fields of NodeConfig), "listen", "keep", and those of ``Talker``;
            "headroom_fds" leaves it so many descriptors.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.echo, self.talker = Echo(), Talker(options)
        self.node = Node(behaviors=[self.echo, self.talker], **options["node"])
        self.address = self.node.listen(options.get("listen", "/ip4/127.0.0.1/tcp/0"))
        for address in options.get("keep", ()):
            self.node.connect(address, keep=True)
        rss_kib()
        if (headroom := options.get("headroom_fds")) is not None:
            self.node.poll(0)
            top = max(map(int, os.listdir("/dev/fd"))) + headroom
            resource.setrlimit(resource.RLIMIT_NOFILE, (top, top))

    def answer(self, question: str) -> None:
        """Answer a question, on the node's thread."""
        if question == "begin":
            self.talker.begin(self.node.agent(TALKER))
        elif question == "stop":
            self.node.stop()
        stats = self.node.stats()
        say(
            **stats.as_dict(),
            dropped=stats.dropped,
            links=len(stats.links),
            queued=sum(link.queued_bytes for link in stats.links),
            left=self.talker.left,
            refused=self.talker.refused + self.echo.refused,
            ticks=self.echo.ticks,
            cpu_s=time.process_time(),
            rss_kib=rss_kib(),
            fds=open_fds(),
        )


def rss_kib() -> int:
    """Return the resident memory of this process."""
    return int(os.pread(_statm(), 200, 0).split()[1]) * resource.getpagesize() // 1024


@cache
def _statm() -> int:
    """Return a descriptor, opened once: later there may be none left."""
    return os.open("/proc/self/statm", os.O_RDONLY)


def open_fds() -> int:
    """Return how many descriptors this process has; -1 when it has none left to look."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return -1


def say(**fields: object) -> None:
    """Answer the parent."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Be a node until stdin ends."""
    worker = Worker(json.loads(sys.argv[1]))

    def read() -> None:
        for line in sys.stdin:
            worker.node.post(worker.answer, line.strip())
        worker.node.stop()

    threading.Thread(target=read, daemon=True).start()
    endpoint = worker.address.endpoints[0]
    say(pid=os.getpid(), address=str(worker.address), host=endpoint.host, port=endpoint.port)
    with worker.node as node:
        node.run()


if __name__ == "__main__":
    main()
