"""What the processes of all systems share: orders, arrivals, the pace of the source.

Facts first:

- A process gets its part as JSON: ``Part``. It says ``{"ready": true}`` when it listens, then
  answers each line of stdin, ``{"do": ...}``, with a line of JSON on stdout.
- All stamps are CLOCK_MONOTONIC in ns, which all processes of a machine share.
- It is killed when the process that started it dies, however that ends and also while it is
  stopped.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import sys
import threading
import time
import traceback
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

__all__ = ["Arrivals", "Pace", "Part", "answer_orders", "end_with_parent", "payload", "say"]

PR_SET_PDEATHSIG: Final = 1
_NUMBER: Final = struct.Struct("!Q")
_RECENT_NS: Final = 200_000_000

Order = Callable[[], Mapping[str, object]]


@dataclass(frozen=True)
class Part:
    """What a process is to be.

    Attributes:
        node: Its number.
        role: "source", "relay" or "sink".
        sink: The sink's number.
        rate: Messages per second that the source sends.
        listen: Where to listen.
        dial: (neighbour, host, port), of those that this node dials when the network begins.
        neighbours: The same of all neighbours, whom a restarted node dials.
        extra: What only one system needs.
    """

    node: int
    role: str
    sink: int
    rate: int
    listen: list[tuple[str, int]]
    dial: list[tuple[int, str, int]]
    neighbours: list[tuple[int, str, int]]
    extra: dict[str, Any]

    @classmethod
    def of(cls, text: str) -> Part:
        """Return the part that a command line has."""
        return cls(**json.loads(text))


def end_with_parent() -> None:
    """Have this process killed when its parent dies."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    if os.getppid() != parent:
        os._exit(1)  # it died in between


def say(**fields: object) -> None:
    """Write one line to the parent."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def answer_orders(orders: Mapping[str, Order], *, aside: bool = False) -> None:
    """Say that this process is ready, then answer each order; the process ends when stdin does.

    Args:
        orders: What can be asked for.
        aside: Do it on a thread of its own, and return.
    """
    say(ready=True)
    if aside:
        threading.Thread(target=_answer, args=(orders,), daemon=True).start()
    else:
        _answer(orders)


def _answer(orders: Mapping[str, Order]) -> NoReturn:
    try:
        for line in sys.stdin:
            say(**orders[json.loads(line)["do"]]())
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def payload(number: int) -> bytes:
    """Return a message that carries its number."""
    return _NUMBER.pack(number)


class Arrivals:
    """When which message came."""

    def __init__(self) -> None:
        self._stamps = array("q")  # arrays: nothing for the garbage collector to look at
        self._numbers = array("q")

    def take(self, message: bytes) -> None:
        """A message came."""
        self._stamps.append(time.monotonic_ns())
        self._numbers.append(_NUMBER.unpack_from(message)[0])

    def look(self) -> Mapping[str, object]:
        """Return how many came, how many of them in the last 200 ms, and when the last did."""
        stamps = self._stamps
        count, now_ns = len(stamps), time.monotonic_ns()
        recent = 0
        while recent < count and stamps[count - 1 - recent] > now_ns - _RECENT_NS:
            recent += 1
        return {"count": count, "recent": recent, "last_ns": stamps[count - 1] if count else 0}

    def report(self) -> Mapping[str, object]:
        """Return all of it."""
        count = len(self._stamps)
        return {"stamps": list(self._stamps[:count]), "numbers": list(self._numbers[:count])}

    def orders(self) -> dict[str, Order]:
        """Return the orders of a sink."""
        return {"look": self.look, "report": self.report}


class Pace:
    """When the source sends: evenly, and after a delay all that is due at once.

    Attributes:
        sent: Messages given to the library.
        refused: Those it did not take.
    """

    def __init__(self, rate: int) -> None:
        self.sent = 0
        self.refused = 0
        self._every_ns = 1_000_000_000 // rate
        self._began_ns = 0
        self._stopped = False

    def due(self) -> range:
        """Return the numbers of the messages to be sent now."""
        now_ns = time.monotonic_ns()
        if not self._began_ns:
            self._began_ns = now_ns
        until = self.sent if self._stopped else (now_ns - self._began_ns) // self._every_ns + 1
        numbers = range(self.sent, until)
        self.sent = until
        return numbers

    def wait_s(self) -> float:
        """Return how long it is until the next one."""
        return max(0.0, (self._began_ns + self.sent * self._every_ns - time.monotonic_ns()) / 1e9)

    def stop(self) -> Mapping[str, object]:
        """Send no more; return what was sent."""
        self._stopped = True
        return self.report()

    def report(self) -> Mapping[str, object]:
        """Return what was sent."""
        return {"sent": self.sent, "refused": self.refused}

    def orders(self) -> dict[str, Order]:
        """Return the orders of a source, but for the first."""
        return {"stop": self.stop, "report": self.report}
