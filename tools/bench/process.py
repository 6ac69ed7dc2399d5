"""What every contestant's process uses: options, the line protocol, marks of time and CPU.

Facts first:
- A process is started as ``python -m tools.bench.contestants.<name> ROLE KEY=VALUE ...``. It writes
  two JSON lines: ``{"ready": true, "addr": ...}`` and, at its end, its result. A client waits for
  a line on stdin (`wait_for_go`) between them.
- A server ends after ``warmup + messages`` messages, after `SILENCE` seconds without one, or when
  stdin ends. `Phase` sees to all three: a daemon thread wakes once a second, which costs nothing
  that can be measured, and no contestant needs a timer of its own.
- CPU is user plus system time of all threads of the process between the end of the warm-up and the
  last message; the same span gives ``seconds``.

A blocking contestant loops ``while not phase.done``; one with an event loop gives `Phase` an
``on_done`` that ends the loop. Either hands `Phase.on_message` to its library as the callback, so
that all sinks pay for the same one Python call per message.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

Role = Callable[["Options"], None]

SILENCE = 3.0
"""Seconds without a message after which a process reports what it has."""

PATIENCE = 30.0
"""Seconds without a first message after which it does so."""

_PR_SET_PDEATHSIG = 1

_IMPORTING = """
import time
started = time.perf_counter()
{statement}
seconds = time.perf_counter() - started
with open("/proc/self/smaps_rollup") as file:
    pss = next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
print(seconds, pss)
"""


class Options:
    """The ``KEY=VALUE`` arguments of a process.

    Attributes:
        size: Bytes of a payload.
        messages: Messages measured.
        warmup: Messages before those; at least one, whose arrival starts the measuring.
        window: Calls in flight, or unacknowledged messages of a relay's source.
        links: Connections of fan-out, idle and churn roles.
        addr: What the other side said it listens at; opaque text.
        cpu: Core to stay on; -1 for any.
    """

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        given = dict(argument.split("=", 1) for argument in arguments)
        self.size = int(given.pop("size", 64))
        self.messages = int(given.pop("messages", 10_000))
        self.warmup = max(1, int(given.pop("warmup", 1_000)))
        self.window = int(given.pop("window", 1))
        self.links = int(given.pop("links", 1))
        self.addr = given.pop("addr", "")
        self.cpu = int(given.pop("cpu", -1))
        self._others = given

    @property
    def total(self) -> int:
        """Messages of the whole run, warm-up included."""
        return self.warmup + self.messages

    @property
    def payload(self) -> bytes:
        """A payload of ``size`` bytes."""
        return b"x" * self.size

    def text(self, key: str, default: str = "") -> str:
        """Return an option of this contestant only."""
        return self._others.get(key, default)

    def number(self, key: str, default: int = 0) -> int:
        """Return such an option as a number; flags are 0 and 1."""
        return int(self._others.get(key, default))

    def fan_rounds(self) -> tuple[int, int]:
        """Return how often a fan-out sends to all links: in the warm-up, and measured.

        Raises:
            SystemExit: ``warmup`` or ``messages`` (deliveries) is no multiple of ``links``.
        """
        if self.warmup % self.links or self.messages % self.links:
            raise SystemExit("warmup= and messages= count deliveries: give multiples of links=")
        return self.warmup // self.links, self.messages // self.links


def say(**fields: object) -> None:
    """Write one JSON line to the parent."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def ready(addr: str = "") -> None:
    """Say that this process is set up, and where it listens."""
    if addr:
        say(ready=True, addr=addr)
    else:
        say(ready=True)


def wait_for_go() -> None:
    """Wait for the parent's line; end this process when the parent is gone."""
    if not sys.stdin.readline():
        raise SystemExit(0)


def cpu_seconds() -> float:
    """Return user and system time of this process, all threads, so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def cpu_seconds_of(pid: int) -> float:
    """Return the same of another process, to the nanosecond where /proc counts in ticks.

    Source: clock_getcpuclockid(3): the kernel's number of the CPU clock of process ``pid``.
    """
    return time.clock_gettime((~pid << 3) | 2)


def pss_kib(pid: int | str = "self") -> int:
    """Return the proportional memory of a process."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))


def latency_fields(nanoseconds: Sequence[int]) -> dict[str, object]:
    """Return the fields ``latency_ns`` (p0..p100) and ``p99_9`` of round trips."""
    ordered = sorted(nanoseconds) or [0]
    last = len(ordered) - 1
    return {
        "latency_ns": [ordered[last * percent // 100] for percent in range(101)],
        "p99_9": ordered[last * 999 // 1000],
    }


class Phase:
    """Counts messages, and marks time and CPU at the end of warm-up and at the last message.

    The side that is called per message hands out `on_message`. A side that sends in a loop calls
    `start` after its warm-up and `stop` after its last message has left. Both end with `report`.
    A client makes its Phase after `wait_for_go`: from then on stdin is the Phase's to read.

    Args:
        options: The run's counts.
        on_done: Called once by the message that completes the run, in its callback.
        watch: Report and exit after `SILENCE`; a sender that counts nothing passes False. The end
            of stdin ends the process either way.

    Attributes:
        seen: Messages so far, warm-up included.
        done: All have come.
    """

    __slots__ = ("_cpu", "_from", "_lock", "_next", "_on_done", "_options", "_reported", "_seconds",
                 "_size", "_started_cpu", "_until", "done", "seen")  # fmt: skip

    def __init__(
        self, options: Options, on_done: Callable[[], None] | None = None, *, watch: bool = True
    ) -> None:
        self.seen = 0
        self.done = False
        self._options = options
        self._on_done = on_done
        self._next = options.warmup
        self._size = -1
        self._from = self._until = self._started_cpu = self._cpu = self._seconds = 0.0
        self._reported = False
        self._lock = threading.Lock()
        threading.Thread(target=self._watch, args=(watch,), daemon=True).start()

    def on_message(self, payload: object) -> None:
        """Count one message; the payload's size is looked at only at the marks."""
        self.seen = seen = self.seen + 1
        if seen == self._next:
            self._mark(payload)

    def count(self, number: int) -> None:
        """Count messages that came together, where no callback is called for each (relays)."""
        self.seen += number
        if self.seen >= self._next:
            self._mark(None)

    def start(self) -> None:
        """Begin to measure: the warm-up is over."""
        self._started_cpu = cpu_seconds()
        self._from = time.perf_counter()

    def stop(self) -> None:
        """Stop measuring: the last message has passed."""
        self._until = time.perf_counter()
        self._cpu = cpu_seconds() - self._started_cpu
        self._seconds = self._until - self._from
        self.done = True

    def report(self, **extra: object) -> None:
        """Write the result line, once; fields given here win over those counted."""
        with self._lock:
            if self._reported:
                return
            self._reported = True
            if self._from and not self.done:
                self.stop()
            counted = self._counted()
            fields: dict[str, object] = {
                "messages": counted,
                "seconds": self._seconds,
                "cpu": self._cpu,
                "lost": self._options.messages - counted,
            }
            say(**{**fields, **extra})

    def _counted(self) -> int:
        """Return the measured messages; a sender that counted none has sent them all."""
        if self.done and not self.seen:
            return self._options.messages
        return min(self._options.messages, max(0, self.seen - self._options.warmup))

    def _mark(self, payload: object) -> None:
        if isinstance(payload, (bytes, bytearray, memoryview)):
            self._check(len(payload))
        if not self._from:
            self.start()
            self._next = self._options.total
            if self.seen < self._next:
                return
        self.stop()
        self._next = 0
        if self._on_done is not None:
            self._on_done()

    def _check(self, size: int) -> None:
        if self._size not in (-1, size):
            raise ValueError(f"a message of {size} bytes after one of {self._size}")
        self._size = size

    def _watch(self, silence: bool) -> None:
        """Report and exit once nothing comes any more, or the parent is gone."""
        seen, changed = self.seen, time.monotonic()
        while not _stdin_ended(1.0):
            now = time.monotonic()
            if self.seen != seen:
                seen, changed = self.seen, now
            elif silence and now - changed > (SILENCE if seen else PATIENCE):
                break
        try:
            self.report()
        finally:  # nobody may be there to read it
            os._exit(0)


class RoundTrips:
    """Times one message in flight after another.

    Send the first after `begin`; on each reply send another while `again` is true.

    Args:
        phase: Counts the replies; None where a part of a role is timed by itself.
        warmup: Round trips left out of `fields`.
        total: How many without a phase.

    Attributes:
        done: The last reply has come.
    """

    def __init__(self, phase: Phase | None, warmup: int, total: int = 0) -> None:
        self.latencies: list[int] = []
        self.done = False
        self._phase = phase
        self._warmup = warmup
        self._total = total
        self._sent = 0

    def begin(self) -> None:
        """Take the time of the first message."""
        self._sent = time.perf_counter_ns()

    def again(self, payload: object) -> bool:
        """Take the time of a reply; it is that of the next message too."""
        now = time.perf_counter_ns()
        self.latencies.append(now - self._sent)
        self._sent = now
        if self._phase is None:
            self.done = len(self.latencies) >= self._total
        else:
            self._phase.on_message(payload)
            self.done = self._phase.done
        return not self.done

    def fields(self) -> dict[str, object]:
        """Return the latencies after the warm-up, ready for `Phase.report`."""
        return latency_fields(self.latencies[self._warmup :])


class CallLoad:
    """Keeps ``window`` calls in flight through a ``call(payload, callback)``.

    Args:
        options: The run's counts, size and window.
        phase: Counts the replies; its ``on_done`` ends the run.
        call: Makes one call; its callback is called once with the reply.
    """

    def __init__(
        self, options: Options, phase: Phase, call: Callable[[bytes, Callable[..., None]], object]
    ) -> None:
        self.latencies: list[int] = []
        self._phase = phase
        self._call = call
        self._payload = options.payload
        self._warmup = options.warmup
        self._window = min(options.window, options.total)
        self._left = options.total

    def begin(self) -> None:
        """Fill the window."""
        for _ in range(self._window):
            self._issue()

    def _issue(self) -> None:
        self._left -= 1
        self._call(self._payload, partial(self._replied, time.perf_counter_ns()))

    def _replied(self, sent: int, reply: bytes) -> None:
        self.latencies.append(time.perf_counter_ns() - sent)
        self._phase.on_message(reply)
        if self._left:
            self._issue()

    def fields(self) -> dict[str, object]:
        """Return the latencies after the warm-up, ready for `Phase.report`."""
        return latency_fields(self.latencies[self._warmup :])


class IdleMemory:
    """Marks a server's memory at its second link (the first is the busy one) and at its last.

    Args:
        options: The run's ``links``.
        pid: The process that holds the links.

    Attributes:
        links: Links opened so far.
    """

    def __init__(self, options: Options, pid: int | str = "self") -> None:
        self.links = 0
        self._pid = pid
        self._last = options.links
        self._before = self._after = 0

    def opened(self) -> None:
        """Count a link that has opened."""
        self.links += 1
        if self.links == 2:
            self._before = pss_kib(self._pid)
        if self.links == self._last:
            self._after = pss_kib(self._pid)

    def fields(self) -> dict[str, object]:
        """Return both marks, ready for `Phase.report`."""
        return {"pss_before_kib": self._before, "pss_after_kib": self._after}


def report_opaque_relay(options: Options, cpu: Callable[[], float], sink: int) -> None:
    """Report a relay in which no code of ours sees the messages: a proxy, a router, a broker.

    Its CPU is taken from now to the end of the sink's process and scaled by the warm-up's share:
    such a relay is compiled and has nothing to warm up but its connections. ``seconds`` is 0: the
    sink's is the one to use.

    Args:
        options: The run's counts.
        cpu: CPU seconds so far of the relaying process.
        sink: Pid of the sink's process.
    """
    started = used = cpu()
    changed = time.monotonic()
    gone = os.pidfd_open(sink)  # readable once the process has ended
    while not _stdin_ended(0.0) and not select.select([gone], [], [], 0.5)[0]:
        now = time.monotonic()
        if cpu() - used > 0.001:
            used, changed = cpu(), now
        elif now - changed > (SILENCE if used - started > 0.01 else PATIENCE):
            break
    os.close(gone)
    share = options.messages / options.total
    say(messages=options.messages, seconds=0.0, cpu=(cpu() - started) * share, lost=0)


def importing(statement: str) -> Role:
    """Return a role that measures an import in a fresh interpreter ("" is the bare one).

    The second of two: the first leaves the bytecode of all modules, in a directory of its own, so
    that nothing depends on what was compiled before, or may be written where the modules are.
    """

    def role(options: Options) -> None:
        code = _IMPORTING.format(statement=statement)
        ready()
        wait_for_go()
        command = [sys.executable, "-c", code]
        env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        with tempfile.TemporaryDirectory() as bytecode:
            env["PYTHONPYCACHEPREFIX"] = bytecode
            for _ in range(2):
                done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
        output = done.stdout.split()
        say(seconds=float(output[0]), pss_kib=int(output[1]))

    return role


def main(roles: Mapping[str, Role]) -> None:
    """Run the role named on the command line."""
    role = roles.get(sys.argv[1]) if len(sys.argv) > 1 else None
    if role is None:
        raise SystemExit(f"usage: {sys.argv[0]} {'|'.join(roles)} KEY=VALUE ...")
    _die_with_parent()
    options = Options(sys.argv[2:])
    if options.cpu >= 0:
        os.sched_setaffinity(0, {options.cpu})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    role(options)
    sys.stdout.flush()
    os._exit(0)  # the result is out: libraries need not take thousands of links down nicely


def _die_with_parent() -> None:
    """Ask the kernel to kill this process when the one that started it has gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _stdin_ended(seconds: float) -> bool:
    """Wait that long; return at once, and true, when stdin ends."""
    readable, _, _ = select.select([0], [], [], seconds)
    return bool(readable) and not os.read(0, 4096)
