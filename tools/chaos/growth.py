"""What a process holds in memory that is its own, and how far that grew."""

from __future__ import annotations

import time
from collections.abc import Callable

MIB = 1 << 20


def anonymous_bytes(pid: int | str = "self") -> int:
    """Return the resident anonymous memory of a process: heap and stacks, no files."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        fields = file.read().split()
    return int(fields[fields.index("RssAnon:") + 1]) * 1024


class Growth:
    """The most memory a process had since this object was made, above what it had then.

    Args:
        pid: The process.
    """

    def __init__(self, pid: int | str = "self") -> None:
        self._pid = pid
        self._before = self._most = anonymous_bytes(pid)

    def look(self) -> int:
        """Look once more; return the growth until now, in bytes."""
        self._most = max(self._most, anonymous_bytes(self._pid))
        return self._most - self._before

    def settle(self, wait: Callable[[float], object] = time.sleep, seconds: float = 1.0) -> int:
        """Look for a while longer, as what was written last may not have been taken in yet."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.look()
            wait(0.02)
        return self.look()


def mib(count: float) -> str:
    """Return bytes as MiB."""
    return f"{count / MIB:.1f} MiB"
