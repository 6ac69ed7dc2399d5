"""A node with little memory and a hundred peers that flood it, and one that never reads.

The kernel's limit is a cgroup where one can be made, else the address space. Large frames that
never end, messages without end, and calls whose answers nobody takes: the node may end links for
want of memory, but it lives, and takes new ones when the flood is over.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from netcore.cli.screen import Screen

from .dialler import Dialler
from .scenario import Table
from .strangers import HELLO
from .victim import Victim, victims

AUTH: Final = b"\x09\x00\x00\x00"
CGROUPS: Final = Path("/sys/fs/cgroup/memory")
#: A message of 1 KiB to the echo, one of 1 MiB whose end never comes, a call nobody answers to.
ECHO: Final = b"\x00\x00\x04\x08" + b"\x00\x40\x01\x0a" + bytes(1_028)
ENDLESS: Final = b"\x00\x0f\xff\xff" + b"\x00\x40\x01\x0a" + bytes(0xFFFF8)
CALL: Final = (
    b"\x01\x00\x00\x19" + b"\x20\x40\x0c\x63" + bytes(4) + (66).to_bytes(4, "big")
    + b"\x01" + bytes(8) + b"\x00\x00\x13\x88"
)  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add how many peers, and how little memory."""
    parser.add_argument("--backend", choices=("fast", "pure"), default="fast")
    parser.add_argument("--peers", type=int, default=100)
    parser.add_argument("--mib", type=int, default=64, help="beyond what the idle node has")
    parser.add_argument("--seconds", type=float, default=10.0)


def run(options: argparse.Namespace, screen: Screen, table: Table) -> None:
    """Flood it."""
    with victims(Victim(options.backend, node={"node": 1})) as (victim,):
        idle = victim.ask()
        with capped(victim.pid, options.mib, idle["rss_kib"]) as how:
            flood = Flood(victim, options.peers)
            most = flood.run(options.seconds, screen)
            flood.close()
            stats = victim.until(lambda now: not now["links"])
            dialler = Dialler(2, victim.address)
            with dialler.node:
                works = dialler.dial()
    table.add("limit", f"{options.mib} MiB, {how}")
    table.add("peers", options.peers)
    table.add("sent to it", f"{flood.sent >> 20} MiB")
    grown = (most - idle["rss_kib"]) >> 10
    table.add("its memory at most", f"+{grown} MiB", f"<= {options.mib} MiB",
              holds=grown <= options.mib)  # fmt: skip
    table.add("links it ended", stats["links_closed"])
    table.add("takes links afterwards", works, "True", holds=works)


@contextmanager
def capped(pid: int, mib: int, rss_kib: int) -> Iterator[str]:
    """Limit the memory of a process; say by what."""
    group = CGROUPS / f"netcore-chaos-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        size += mib << 20
        resource.prlimit(pid, resource.RLIMIT_AS, (size, size))
        yield "address space"
        return
    try:
        (group / "memory.limit_in_bytes").write_text(str((rss_kib << 10) + (mib << 20)))
        (group / "cgroup.procs").write_text(str(pid))
        yield "cgroup"
    finally:
        end = time.monotonic() + 5
        with contextlib.suppress(OSError):
            (CGROUPS / "cgroup.procs").write_text(str(pid))
        while group.exists() and time.monotonic() < end:
            with contextlib.suppress(OSError):
                group.rmdir()


class Flood:
    """Peers at level open that send what they can."""

    def __init__(self, victim: Victim, count: int) -> None:
        self._victim = victim
        self._selector = selectors.DefaultSelector()
        self._socks: list[socket.socket] = []
        self.sent = 0
        for number in range(count):
            sock = socket.create_connection((victim.host, victim.port), 10)
            hello = HELLO[:13] + (1_000 + number).to_bytes(4, "big") + HELLO[17:]
            sock.sendall(hello + AUTH)
            sock.setblocking(False)
            what = (ECHO, CALL, ENDLESS)[number % 3]
            data = what if what is ENDLESS else what * (65_536 // len(what))
            self._socks.append(sock)
            self._selector.register(sock, selectors.EVENT_WRITE, [data, 0])
        victim.until(lambda stats: stats["links"] == count)

    def run(self, seconds: float, screen: Screen) -> int:
        """Send for a while and read nothing; return the most KiB that it had."""
        most, end = 0, time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for key, _ in self._selector.select(0.01):
                self._send(key.fileobj, key.data)
            most = max(most, self._victim.ask()["rss_kib"])
            screen.show([f"{left:.0f} s, {self.sent >> 20} MiB, {most >> 10} MiB in use"])
        return most

    def close(self) -> None:
        """End all of them."""
        for sock in self._socks:
            sock.close()
        self._selector.close()

    def _send(self, sock: object, state: list[object]) -> None:
        data, at = state
        assert isinstance(sock, socket.socket)
        assert isinstance(data, bytes)
        assert isinstance(at, int)
        try:
            sent = sock.send(data[at:])
        except BlockingIOError:
            return
        except OSError:
            self._selector.unregister(sock)
            return
        self.sent += sent
        # The last byte of what never ends is not sent: it waits there, whole but for that.
        at += sent
        if len(data) == len(ENDLESS) and at >= len(data) - 1:
            self._selector.unregister(sock)
        state[1] = at % len(data)
