"""Thousands of honest connects at once, from one process.

Each is a whole handshake without a secret, and says its HELLO as soon as it is connected. All of
them must become links.
"""

from __future__ import annotations

import argparse
import contextlib
import selectors
import socket
import time

from netcore.cli.screen import Screen

from .dialler import percentile
from .scenario import Table
from .strangers import HELLO
from .victim import Victim, victims

AUTH = b"\x09\x00\x00\x00"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add how many there are."""
    parser.add_argument("--backend", choices=("fast", "pure"), default="fast")
    parser.add_argument("--connects", type=int, default=5_000)
    parser.add_argument("--within-s", type=float, default=10.0)


def run(options: argparse.Namespace, screen: Screen, table: Table) -> None:
    """Connect all at once; wait until the node has all links."""
    node = {"node": 1, "max_links": options.connects + 10}
    with victims(Victim(options.backend, node=node)) as (victim,):
        before = victim.ask()
        burst = Burst(victim, options.connects)
        try:
            burst.run(options.within_s, screen)
            stats = victim.ask()
        finally:
            burst.close()
        after = victim.until(lambda now: not now["links"])
    times = burst.times_s
    table.add("connects at once", options.connects)
    table.add("became links", stats["links_opened"], str(options.connects),
              holds=stats["links_opened"] == options.connects)  # fmt: skip
    table.add("all after", f"{max(times, default=0):.2f} s", f"<= {options.within_s} s",
              holds=len(times) == options.connects)  # fmt: skip
    table.add("half of them after", f"{percentile(times, 0.5):.2f} s")
    table.add("refused, made room", f"{stats['half_open_refused']}, {stats['half_open_evicted']}")
    table.add("CPU of the node", f"{stats['cpu_s'] - before['cpu_s']:.2f} s")
    table.add("descriptors left", after["fds"] - before["fds"], "0",
              holds=after["fds"] == before["fds"])  # fmt: skip


class Burst:
    """The connections."""

    def __init__(self, victim: Victim, count: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._socks: list[socket.socket] = []
        self.times_s: list[float] = []
        self._begin = time.monotonic()
        for number in range(count):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex((victim.host, victim.port))
            self._socks.append(sock)
            self._selector.register(sock, selectors.EVENT_WRITE, [number, b""])
            if not number % 64:  # those that are connected speak before all have come
                self._turn(0)

    def run(self, within_s: float, screen: Screen) -> None:
        """Let the handshakes happen."""
        while len(self.times_s) < len(self._socks) and time.monotonic() - self._begin < within_s:
            self._turn(0.1)
            screen.show([f"{len(self.times_s)} of {len(self._socks)} are links"])

    def _turn(self, wait_s: float) -> None:
        for key, events in self._selector.select(wait_s):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if events & selectors.EVENT_WRITE:
                self._speak(sock, key.data)
            else:
                self._hear(sock, key.data)

    def close(self) -> None:
        """End all of them."""
        for sock in self._socks:
            sock.close()
        self._selector.close()

    def _speak(self, sock: socket.socket, state: list[object]) -> None:
        number = state[0]
        assert isinstance(number, int)
        hello = HELLO[:13] + (1_000 + number).to_bytes(4, "big") + HELLO[17:]
        with contextlib.suppress(OSError):  # hearing tells
            sock.send(hello + AUTH)
        self._selector.modify(sock, selectors.EVENT_READ, state)

    def _hear(self, sock: socket.socket, state: list[object]) -> None:
        try:
            data = sock.recv(4_096)
        except OSError:
            data = b""
        heard = state[1]
        assert isinstance(heard, bytes)
        state[1] = heard = heard + data
        if heard.endswith(b"\x0a\x00\x00\x00") or b"\x0a\x00\x00\x00" in heard[73:]:
            self.times_s.append(time.monotonic() - self._begin)
        elif data:
            return
        self._selector.unregister(sock)
