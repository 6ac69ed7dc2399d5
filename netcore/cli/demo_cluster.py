"""The parent's side of the demo's processes: start them, talk to them, never leave one behind.

Facts first:

- Workers run the same interpreter on the same import path as the parent, as multiprocessing's
  "spawn" does it. ``-m netcore`` would import whatever the current directory holds.
- They are in sessions of their own, so that Ctrl-C reaches the parent only, which ends them.
- A worker ends when its stdin does. So none survives the parent, however that ends.
"""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import IO, Final, NamedTuple, final

from . import CommandError
from .demo_records import Event, decode_event

__all__ = ["Cluster", "DemoError", "Ended", "Told"]

#: The hidden command that a worker runs.
WORKER_COMMAND: Final = "demo-worker"
#: What a worker may take to close its node after its stdin has ended, before it is killed.
CLOSE_TIMEOUT_S: Final = 3.0
#: Lines of a worker's stderr that are kept for the error message.
LAST_WORDS: Final = 30


class DemoError(CommandError):
    """The demo cannot go on."""


class Told(NamedTuple):
    """A worker said something."""

    node_id: int
    event: Event


class Ended(NamedTuple):
    """A worker's stdout ended: the process is gone, or about to go."""

    node_id: int


@final
class Worker:
    """One process.

    Args:
        node_id: The node it is.
        told: Gets what it says.
    """

    def __init__(self, node_id: int, told: queue.SimpleQueue[Told | Ended]) -> None:
        self.node_id = node_id
        self._told = told
        self._last_words: deque[str] = deque(maxlen=LAST_WORDS)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _boot_code(), WORKER_COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._threads = [
            threading.Thread(target=self._read_events, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._read_errors, args=(self._process.stderr,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def tell(self, do: str, **arguments: object) -> None:
        """Send a command; to a dead worker: nothing."""
        line = json.dumps({"do": do, **arguments}) + "\n"
        stdin = self._process.stdin
        if stdin is not None and not stdin.closed:
            with suppress(OSError):  # that it is dead shows as ``Ended``
                stdin.write(line.encode("ascii"))
                stdin.flush()

    def kill(self) -> None:
        """End it with SIGKILL: no destructor, no goodbye to anybody."""
        self._process.kill()

    def freeze(self) -> None:
        """Make it hang with SIGSTOP: it does nothing any more, and its sockets stay open."""
        self._process.send_signal(signal.SIGSTOP)

    def hang_up(self) -> None:
        """Close its stdin: it shall end."""
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    def wait(self, timeout_s: float) -> None:
        """Wait for its end; after the timeout it is killed."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def last_words(self) -> str:
        """Return how it ended, and the end of what it wrote to stderr."""
        self.hang_up()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_TIMEOUT_S)
        self._threads[1].join(CLOSE_TIMEOUT_S)
        code = self._process.returncode
        return "\n".join([f"the process of node {self.node_id} ended ({code})", *self._last_words])

    def _read_events(self, lines: Iterable[bytes]) -> None:
        try:
            for line in lines:
                self._told.put(Told(self.node_id, decode_event(line)))
        except ValueError as exc:  # as bad as if it had died
            self._last_words.append(str(exc))
        self._told.put(Ended(self.node_id))

    def _read_errors(self, lines: IO[bytes]) -> None:
        for line in lines:
            self._last_words.append(line.decode("utf-8", "replace").rstrip())


def _boot_code() -> str:
    return (
        f"import sys; sys.path[:] = {sys.path!r}; "
        "from netcore.__main__ import main; sys.exit(main())"
    )


@final
class Cluster:
    """All workers of a demo; a context manager that leaves none behind.

    Attributes:
        workers: By node id.
        dead: Nodes that were killed on purpose.
    """

    def __init__(self) -> None:
        self.workers: dict[int, Worker] = {}
        self.dead: set[int] = set()
        self._told: queue.SimpleQueue[Told | Ended] = queue.SimpleQueue()

    @property
    def living(self) -> list[int]:
        """The nodes that were not killed."""
        return [node for node in self.workers if node not in self.dead]

    def start(self, node_id: int, **setup: object) -> None:
        """Start a process; its first command says which node it is."""
        worker = Worker(node_id, self._told)
        self.workers[node_id] = worker
        worker.tell("setup", node_id=node_id, **setup)

    def tell(self, node_id: int, do: str, **arguments: object) -> None:
        """Send a command to one node."""
        self.workers[node_id].tell(do, **arguments)

    def tell_all(self, do: str, **arguments: object) -> None:
        """Send a command to every living node."""
        for node_id in self.living:
            self.workers[node_id].tell(do, **arguments)

    def kill(self, node_id: int) -> None:
        """Kill a node."""
        self.dead.add(node_id)
        self.workers[node_id].kill()

    def freeze(self, node_id: int) -> None:
        """Make a node hang; only ``kill`` helps."""
        self.dead.add(node_id)
        self.workers[node_id].freeze()

    def next_event(self, timeout_s: float) -> Told | None:
        """Return what a worker said next; None: nothing in time.

        Raises:
            DemoError: A worker ended that was not killed.
        """
        try:
            told = self._told.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(told, Told):
            return told
        if told.node_id not in self.dead:
            raise DemoError(self.workers[told.node_id].last_words())
        return None

    def close(self) -> None:
        """End every process; returns when all are gone."""
        for worker in self.workers.values():
            worker.hang_up()
        give_up = time.monotonic() + CLOSE_TIMEOUT_S
        for worker in self.workers.values():
            worker.wait(max(0.0, give_up - time.monotonic()))

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
