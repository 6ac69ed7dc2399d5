"""One process of the demo: one node, told what to do on stdin, telling what it sees on stdout.

Facts first:

- The node belongs to the main thread, which runs it. A second thread reads stdin and hands every
  command over with ``Node.post``, the one call that other threads may make.
- When stdin ends, the parent wants the process to end, or is dead: either way the node is closed.
- stdin is read without a buffer. A thread that waits inside a buffered reader holds its lock, and
  the interpreter would abort at exit when a signal ends the process first.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, Final, TextIO, final

import netcore
from netcore import LayeredRouter, Node, NodeClosedError
from netcore._backend import BackendName

from .demo_records import Event, Explained, Listening, encode_event
from .demo_traffic import TRAFFIC, Archive, Journal, Traffic

__all__ = ["run_worker"]

#: Reports come this often unasked.
REPORT_MS: Final = 100

#: What a command holds besides "do"; see the methods of ``Worker``.
Command = dict[str, Any]


def run_worker() -> int:
    """Be a node of the demo until stdin ends."""
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as commands:
        first = commands.readline()
        if not first:
            return 0
        worker = Worker(json.loads(first), sys.stdout)
        with worker.node as node:
            worker.listen()
            reader = threading.Thread(target=_feed, args=(commands, node, worker.do), daemon=True)
            reader.start()
            node.run()
    return 0


def _feed(commands: Iterable[bytes], node: Node, do: Callable[[Command], None]) -> None:
    """Hand commands to the node's thread until there are no more; then stop the node."""
    with suppress(NodeClosedError):
        for line in commands:
            node.post(do, json.loads(line))
    node.stop()


@final
class Worker:
    """The node of this process, and the commands for it.

    Args:
        setup: Which node this is: ``node_id``, ``members``, ``archives``, ``secret``, ``seed``,
            ``backend``.
        out: Where events go.
    """

    def __init__(self, setup: Command, out: TextIO) -> None:
        node_id: int = setup["node_id"]
        backend: BackendName | None = setup["backend"]
        self._out = out
        self._asked = 0
        router = LayeredRouter(node_id)
        self._journal = Journal(node_id, router)
        self._traffic = Traffic(
            self._journal,
            setup["members"],
            setup["archives"],
            Random(f"{setup['seed']} {node_id}"),
            self._tell,
        )
        behaviors = [self._traffic, *self._archive(node_id in setup["archives"])]
        self.node = Node(node_id, behaviors, router=router, secret=setup["secret"], backend=backend)
        self._agent = self.node.agent(TRAFFIC)
        self._commands: dict[str, Callable[..., None]] = {
            "dial": self._dial,
            "explain": self._explain,
            "report": self._report,
            "stream": self._stream,
            "traffic": self._start_traffic,
        }

    def _archive(self, is_one: bool) -> list[Archive]:
        return [Archive(self._journal)] if is_one else []

    def listen(self) -> None:
        """Begin to accept links, and say where."""
        addr = self.node.listen("/ip4/127.0.0.1/tcp/0")
        self._tell(Listening(str(addr), str(Path(netcore.__file__).parent)))
        self._agent.call_later(REPORT_MS, self._report_regularly)

    def do(self, command: Command) -> None:
        """Carry out a command of the parent."""
        self._commands[command.pop("do")](**command)

    def _dial(self, addr: str) -> None:
        self._agent.connect_to(addr)

    def _explain(self, to: int) -> None:
        routes = [route.lines() for route in self.node.routes() if to in route.nodes]
        self._tell(Explained(to, tuple(routes[0]) if routes else ()))

    def _start_traffic(self, targets: list[int], every_ms: int) -> None:
        self._traffic.start(self._agent, targets, every_ms)

    def _stream(self, to: int | None, every_ms: int) -> None:
        self._traffic.stream(self._agent, to, every_ms)

    def _report(self, asked: int) -> None:
        self._asked = asked
        peers = {link.remote_node_id for link in self.node.connections if not link.closing}
        report = self._journal.report(asked, self.node.stats().as_dict(), sorted(peers))
        self._tell(report)

    def _report_regularly(self) -> None:
        self._agent.call_later(REPORT_MS, self._report_regularly)
        self._report(self._asked)

    def _tell(self, event: Event) -> None:
        try:
            self._out.write(encode_event(event) + "\n")
            self._out.flush()
        except OSError:  # the parent is gone; what the interpreter flushes at exit must not fail
            with open(os.devnull, "w", encoding="ascii") as nowhere:
                os.dup2(nowhere.fileno(), self._out.fileno())
            self.node.stop()
