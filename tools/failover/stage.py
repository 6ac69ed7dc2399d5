"""The processes of one network: started, told what to do, killed at the end."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, final

from tools.netlab import Space

__all__ = ["Process", "Stage", "StageError"]

REPO: Final = Path(__file__).resolve().parents[2]
PATIENCE_S: Final = 30.0


class StageError(Exception):
    """A process ended, or does not answer."""


@final
class Process:
    """One process, which answers each order with a line.

    Args:
        module: What it runs.
        part: Its one argument.
        space: The namespace it runs in.
    """

    def __init__(self, module: str, part: Mapping[str, Any], space: Space | None) -> None:
        command = [sys.executable, "-m", module, json.dumps(part)]
        self._process = subprocess.Popen(
            command if space is None else space.inside(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=REPO,
        )
        self._buffer = b""
        self._stopped = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def tell(self, do: str) -> None:
        """Give an order; ``read`` returns the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise StageError(f"a process is gone: {self._last_words()}") from None

    def read(self) -> dict[str, Any]:
        """Return the next line that it says.

        Raises:
            StageError: It ended, or says nothing.
        """
        assert self._process.stdout is not None
        fd, end = self._process.stdout.fileno(), time.monotonic() + PATIENCE_S
        while b"\n" not in self._buffer:
            if not select.select([fd], [], [], max(0.0, end - time.monotonic()))[0]:
                raise StageError("a process says nothing")
            data = os.read(fd, 1 << 20)
            if not data:
                raise StageError(f"a process is gone: {self._last_words()}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, do: str) -> dict[str, Any]:
        """Give an order and return the answer."""
        self.tell(do)
        return self.read()

    def kill(self) -> int:
        """End it without a goodbye; return when, in ns."""
        stamp_ns = time.monotonic_ns()
        self._process.kill()
        self._process.wait()
        return stamp_ns

    def freeze(self) -> int:
        """Stop it: its sockets stay open; return when, in ns."""
        stamp_ns = time.monotonic_ns()
        self._process.send_signal(signal.SIGSTOP)
        return stamp_ns

    def cpu_ns(self) -> int:
        """Return the time on a core that all of its threads have had."""
        total = 0
        with suppress(OSError):
            for task in os.listdir(f"/proc/{self.pid}/task"):
                text = Path(f"/proc/{self.pid}/task/{task}/schedstat").read_text(encoding="ascii")
                total += int(text.split()[0])
        return total

    def close(self) -> None:
        """Kill it, if it lives."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _last_words(self) -> str:
        self._process.kill()
        code = self._process.wait()
        assert self._process.stderr is not None
        lines = self._process.stderr.read().decode("utf-8", "replace").strip().splitlines()
        return f"({code}) {lines[-1] if lines else ''}"


@final
class Stage:
    """All processes of a network; a context manager that leaves none behind.

    Args:
        module: What each of them runs.
        space: The namespace they run in; None: this one.

    Attributes:
        processes: By node.
    """

    def __init__(self, module: str, space: Space | None = None) -> None:
        self.processes: dict[int, Process] = {}
        self._module = module
        self._space = space
        self._ended: list[Process] = []

    def start(self, node: int, part: Mapping[str, Any]) -> Process:
        """Start the process of a node, or another one in its place; it is ready later."""
        if node in self.processes:
            self._ended.append(self.processes.pop(node))
        process = self.processes[node] = Process(self._module, part, self._space)
        return process

    def __getitem__(self, node: int) -> Process:
        return self.processes[node]

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in (*self.processes.values(), *self._ended):
            process.close()
