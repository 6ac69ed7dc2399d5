"""System calls that fail, injected by strace into one of two nodes that talk.

Each errno for each call, now and then, and for some calls always. Whatever happens, the node lives,
does not spin, and its counters say what became of every message: sent = delivered + dropped +
those in bytes that one end wrote and the other never read.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterator
from typing import Any, Final

from netcore.cli.screen import Screen

from .scenario import Table
from .victim import Victim, victims

ERRNOS: Final = (
    *("EAGAIN", "EINTR", "EPERM", "EIO", "ENOMEM", "EACCES", "EFAULT", "EINVAL", "ENFILE"),
    *("EMFILE", "ENOBUFS", "EPIPE", "ECONNABORTED", "ECONNRESET", "ENOTCONN", "ETIMEDOUT"),
    *("ECONNREFUSED", "EHOSTUNREACH", "ENETDOWN", "EPROTO", "EBADF"),
)
#: system calls -> first and every how many-th of them fails
CALLS: Final = {
    "accept4": "1+2",
    "recvfrom,recvmsg": "20+40",
    "sendto,sendmsg": "20+40",
    "epoll_wait": "10+5",
    "connect": "1+2",
}
#: Those that may fail always without making a node useless for what it does otherwise.
ALWAYS: Final = ("accept4", "connect")
MESSAGES: Final = 200
#: What two processes may use together per second of the exchange: a spinning one uses it all.
MOST_CPU: Final = 0.7


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add which of them."""
    parser.add_argument("--backend", choices=("fast", "pure", "both"), default="both")
    parser.add_argument("--calls", nargs="*", choices=[*CALLS], default=[*CALLS])
    parser.add_argument("--errnos", nargs="*", default=[*ERRNOS])


def run(options: argparse.Namespace, screen: Screen, table: Table) -> None:
    """Try them all."""
    if shutil.which("strace") is None:
        table.add("strace", "is not there", "installed", holds=False)
        return
    backends = ("fast", "pure") if options.backend == "both" else (options.backend,)
    for backend in backends:
        for calls in options.calls:
            verdicts = []
            rounds = list(rounds_of(calls, options.errnos))
            for number, (errno_name, when) in enumerate(rounds):
                screen.show([f"{backend}: {calls} {errno_name} ({number + 1} of {len(rounds)})"])
                verdict = Exchange(backend, calls, errno_name, when).verdict()
                verdicts.append(verdict)
                if verdict["wrong"]:
                    table.add(f"{backend} {calls} {errno_name} {when}", verdict["wrong"], "",
                              holds=False)  # fmt: skip
            table.add(
                f"{backend}, {calls}",
                f"{len(verdicts)} runs, {sum(v['broken'] for v in verdicts)} links broken, "
                f"{sum(v['lost'] for v in verdicts)} messages lost and accounted for, "
                f"CPU <= {100 * max(v['cpu'] for v in verdicts):.0f} %",
            )


def rounds_of(calls: str, errnos: list[str]) -> Iterator[tuple[str, str]]:
    """Return the errnos of some calls, each with when it strikes."""
    for name in errnos:
        yield name, CALLS[calls]
        # CPython itself repeats an accept that was interrupted (PEP 475): for ever, if each is.
        if calls in ALWAYS and (calls, name) != ("accept4", "EINTR"):
            yield name, "1+"


class Exchange:
    """A node under strace, another one, and messages between them in both directions.

    Args:
        backend: Of both.
        calls: That fail in one of them.
        errno_name: How they fail.
        when: And when, in strace's words.
    """

    def __init__(self, backend: str, calls: str, errno_name: str, when: str) -> None:
        self._always = when == "1+"
        self._dials = "connect" in calls
        inject = f"inject={calls}:error={errno_name}:when={when}"
        self._prefix = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=" + calls]
        self._prefix += ["-e", inject]
        self._backend = backend

    def verdict(self) -> dict[str, Any]:
        """Let them talk; return what came of it: "wrong" is empty when all is well."""
        talk: dict[str, Any] = {"messages": MESSAGES, "every_ms": 2}
        options: dict[str, Any] = {"node": {"node": 1}, "to": 2, **talk}
        other: dict[str, Any] = {"node": {"node": 2}, "to": 1, **talk}
        if self._dials:
            good = Victim(self._backend, **other)
            bad = Victim(self._backend, self._prefix, keep=[good.address], **options)
        else:
            bad = Victim(self._backend, self._prefix, **options)
            good = Victim(self._backend, keep=[bad.address], **other)
        with victims(good, bad):
            try:
                return self._talk(good, bad)
            except (TimeoutError, RuntimeError, OSError) as exc:
                return {"wrong": f"{exc}"[-500:], "broken": 0, "lost": 0, "cpu": 0.0}

    def _talk(self, good: Victim, bad: Victim) -> dict[str, Any]:
        if not self._always:
            bad.until(lambda stats: stats["links"])
        begin, cpu_s = time.monotonic(), bad.ask()["cpu_s"]
        bad.ask("begin")
        good.ask("begin")
        one, two = settle(good, bad)
        cpu = (two["cpu_s"] - cpu_s) / (time.monotonic() - begin)
        lost = one["messages_sent"] + two["messages_sent"]
        for stats in (one, two):
            lost -= stats["messages_delivered"] + stats["dropped"]
        gone = one["bytes_sent"] + two["bytes_sent"] - one["bytes_received"] - two["bytes_received"]
        wrong = ""
        if lost < 0 or (lost and not gone):
            wrong = f"{lost} messages and {gone} bytes are lost"
        elif lost * 112 > gone + 2 * 112 * (1 + one["links_closed"]):
            wrong = f"{lost} messages are lost in {gone} bytes"
        elif cpu > MOST_CPU:
            wrong = f"{100 * cpu:.0f} % of a core"
        elif one["hook_errors"] or two["hook_errors"]:
            wrong = f"errors in the node: {bad.complaints()[-600:]}"
        elif not self._always and not one["messages_delivered"]:
            wrong = "nothing arrived"
        return {"wrong": wrong, "broken": two["links_closed"], "lost": lost, "cpu": cpu}


def settle(good: Victim, bad: Victim) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the counters of both once all was said and nothing is under way."""
    for end in (good, bad):
        end.until(lambda stats: not stats["left"])
    before: list[int] = []
    calm = 0
    end_s = time.monotonic() + 10
    while True:
        pair = good.ask(), bad.ask()
        now = [s[name] for s in pair for name in ("messages_sent", "messages_delivered", "queued")]
        calm = calm + 1 if now == before else 0
        if calm >= 3 or time.monotonic() > end_s:
            return pair
        before = now
        time.sleep(0.05)
