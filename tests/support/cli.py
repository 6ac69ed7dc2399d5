"""Run the ``netcore`` command in a process of its own, as users do."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType

import netcore
from netcore import _backend
from support.complaints import complaints

#: Longer than anything takes; afterwards a process that hangs is killed, and its test fails.
WATCHDOG_S = 100.0


def environment(backend: _backend.BackendName, **extra: str) -> dict[str, str]:
    """Return an environment in which this very netcore runs, on this backend."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("NETCORE_")}
    root = str(Path(netcore.__file__).resolve().parents[1])
    pure = "1" if backend == "pure" else "0"
    return {**kept, "PYTHONPATH": root, "NETCORE_PURE": pure, **extra}


class Command:
    """A running ``python -m netcore``; a context manager that leaves nothing behind.

    Args:
        arguments: Of the command.
        cwd: Not the source tree, so that nothing is imported by accident.
        backend: What it runs on.
        extra: More environment.
    """

    def __init__(
        self, *arguments: str, cwd: Path, backend: _backend.BackendName, **extra: str
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "netcore", *arguments],
            cwd=cwd,
            env=environment(backend, PYTHONUNBUFFERED="1", **extra),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._watchdog = threading.Timer(WATCHDOG_S, self.process.kill)
        self._watchdog.start()

    def line_with(self, text: str) -> str:
        """Read standard output up to the first line that holds this text, and return the line."""
        seen = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if text in line:
                return line.rstrip("\n")
            seen.append(line)
        raise AssertionError(f"{text!r} did not come; this did:\n{''.join(seen)}{self._errors()}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def finish(self) -> tuple[int, str, str]:
        """Wait for its end; return exit code, the rest of stdout, stderr."""
        out, err = self.process.communicate()
        return self.process.returncode, out, complaints(err)

    def _errors(self) -> str:
        return self.process.communicate()[1]

    def __enter__(self) -> Command:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.communicate()
        self._watchdog.cancel()
        self._watchdog.join()


def run_command(
    *arguments: str, cwd: Path, backend: _backend.BackendName, **extra: str
) -> tuple[int, str, str]:
    """Run a command to its end; return exit code, stdout, stderr."""
    with Command(*arguments, cwd=cwd, backend=backend, **extra) as command:
        return command.finish()


def children_of(pid: int) -> list[int]:
    """Return the child processes of a process (Linux)."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_gone(pid: int, timeout_s: float = 30.0) -> bool:
    """Wait until a process, not necessarily a child, is gone; return whether it is (Linux)."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], timeout_s)[0])
    finally:
        os.close(fd)
